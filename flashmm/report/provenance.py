"""What made a run: kept beside its page as JSON, and said on the page."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from flashmm.report import page as blocks
from flashmm.storage.commit import code_commit
from flashmm.storage.files import atomic_path, package_version
from flashmm.storage.provenance import source_digest

PACKAGES = (
    "anndata",
    "formulaic",
    "h5py",
    "matplotlib",
    "numba",
    "numpy",
    "pandas",
    "pyarrow",
    "scipy",
    "statsmodels",
    "snakemake",
)


def provenance(config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Say what made a run: its config, the versions of all software, the seed.

    Parameters
    ----------
    config : mapping
        The whole config, defaults filled in.
    **more
        What else made it: `simulations` (name to what their files say), `inputs` (data set to
        records of `file, digest`) and `r_packages` (name to version) are shown on the page.

    Returns
    -------
    dict
        As JSON can hold it.
    """
    text = json.dumps(config, sort_keys=True)
    return {
        "flashmm": package_version(),
        "source": source_digest(),
        "git": code_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": _host(),
        "packages": {name: _version(name) for name in PACKAGES},
        "seed": config["seed"],
        "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "config": config,
        **more,
    }


def write_provenance(page: str | Path, said: Mapping[str, Any]) -> None:
    """Write ``provenance.json`` beside a page."""
    with atomic_path(Path(page).with_name("provenance.json")) as unfinished:
        unfinished.write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _host() -> dict[str, Any]:
    """The machine: what times and memories belong to."""
    pages = (
        os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}) else 0
    )
    memory = pages * os.sysconf("SC_PAGE_SIZE") // 2**20 if pages else None
    return {
        "name": platform.node(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "memory_mib": memory,
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _commit(git: Mapping[str, Any] | None) -> str:
    """The commit in words, after the digest."""
    if git is None:
        return ""
    changed = ", with changes that are not committed" if git.get("changed") else ""
    return f", commit {git['commit']}{changed}"


def provenance_blocks(said: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Blocks of the section that says what made a run."""
    versions = {"flashmm": said["flashmm"], "Python": said["python"], **said["packages"]}
    versions |= said.get("r_packages", {})
    yield blocks.table(
        pd.DataFrame({"Package": list(versions), "Version": list(versions.values())}),
        "Software",
        f"On {said['platform']}; digest of the package's source {said['source']}"
        f"{_commit(said.get('git'))}.",
    )
    yield blocks.text(
        f"Every random number derives from the seed {said['seed']}; those of a simulation from it, "
        "the CRC-32 of the scenario's name, and the replicate. The SHA-256 digest of the config is "
        f"{said['config_sha256']}."
    )
    seeds = {name: made["seed"] for name, made in said.get("simulations", {}).items()}
    if seeds:
        yield blocks.details(
            "Seeds of the simulations", (f"{n}  {seed}" for n, seed in seeds.items())
        )
    digests = dict.fromkeys(
        f"{record.get('digest') or 'sha256:' + record['sha256']}  {record['file']}"
        for records in said.get("inputs", {}).values()
        for record in records
    )
    if digests:
        yield blocks.details("Digests of the counts", digests)
    config = json.dumps(said["config"], indent=2, ensure_ascii=False)
    yield blocks.details("The config, defaults filled in", [config])
