"""The image and the locked versions: what can be checked of them without building anything."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flashmm.workflow.lock import locked

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions(text: str) -> list[tuple[str, str]]:
    """Name and arguments of each instruction of a Dockerfile."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    whole = re.sub(r"\\\s*\n\s*", " ", "\n".join(lines))
    return [(line.split(None, 1)[0].upper(), line.split(None, 1)[1]) for line in whole.split("\n")]


def faults(text: str) -> list[str]:
    """What is wrong with a Dockerfile, after the rules of hadolint."""
    found = instructions(text)
    base = [rest for name, rest in found if name == "FROM"]
    runs = [rest for name, rest in found if name == "RUN"]
    last = dict(found)
    checks = {
        "the base has no tag, or the tag is latest": all(
            ":" in image and not image.split()[0].endswith(":latest") for image in base
        ),
        "ADD stands where COPY does": not any(name == "ADD" for name, _ in found),
        "pip keeps a cache": all("--no-cache-dir" in run for run in runs if "pip install" in run),
        "pip takes any version": all("--constraint" in run for run in runs if "pip install" in run),
        "apt installs what is only recommended": all(
            "--no-install-recommends" in run for run in runs if "apt-get install" in run
        ),
        "apt leaves its lists": all(
            "rm -rf /var/lib/apt/lists" in run for run in runs if "apt-get install" in run
        ),
        "sudo": not any("sudo" in shlex.split(run) for run in runs),
        "cd stands where WORKDIR does": not any("cd" in shlex.split(run) for run in runs),
        "a relative WORKDIR": all(r.startswith("/") for name, r in found if name == "WORKDIR"),
        "root runs it": last.get("USER", "root") != "root",
        "a shell runs it": all(
            isinstance(json.loads(last.get(name, "0")), list) for name in ("ENTRYPOINT", "CMD")
        ),
    }
    return [fault for fault, is_fine in checks.items() if not is_fine]


def test_the_image_is_well_made():
    assert faults((ROOT / "Dockerfile").read_text()) == []


@pytest.mark.parametrize(
    ("good", "bad", "fault"),
    [
        ("python:3.11-slim-bookworm", "python:latest", "the base has no tag"),
        ("COPY config", "ADD config", "ADD stands"),
        (" --no-cache-dir", "", "pip keeps a cache"),
        (" --constraint constraints.txt", "", "pip takes any version"),
        ("USER flashmm", "USER root", "root runs it"),
        ("WORKDIR /work", "WORKDIR work", "a relative WORKDIR"),
        ("RUN pip", "RUN cd /opt && pip", "cd stands"),
        ("RUN pip", "RUN apt-get install -y git && pip", "apt leaves"),
    ],
)
def test_the_check_finds_faults(good, bad, fault):
    text = (ROOT / "Dockerfile").read_text()
    assert good in text
    assert any(found.startswith(fault) for found in faults(text.replace(good, bad)))


def test_what_the_image_copies_is_there_and_not_ignored():
    allowed = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")
    ]
    copied = [
        source
        for name, rest in instructions((ROOT / "Dockerfile").read_text())
        if name == "COPY"
        for source in rest.split()[:-1]
    ]
    assert copied
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert set(copied) == set(allowed)


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_every_dependency_has_a_locked_version_that_it_allows():
    held = constraints()
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["workflow"]]:
        needed = Requirement(text)
        assert needed.specifier.contains(held[canonicalize_name(needed.name)]), text


def test_the_lock_names_what_dependencies_need_in_turn():
    found = locked(PROJECT, ("workflow",))
    assert {"jsonschema", "pyyaml", "pygments", "llvmlite"} <= set(found)
    assert "flashmm" not in found and "pytest" not in found
    assert list(found) == sorted(found)
