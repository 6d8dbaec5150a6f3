"""The project's own files agree with each other, and the package keeps its layers."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml

import flashmm

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "flashmm"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Who may import whom: a module imports from its own room and from those before it.
ROOMS = (
    ("options", "names", "kernels"),
    ("formulas", "storage"),
    ("cells",),
    ("design",),
    ("model",),
    ("lmm",),
    ("inference",),
    ("kinship", "multitrait"),
    ("simulate",),
    ("benchmark", "subject_level", "de"),
    ("plots", "io"),
    ("report",),
    ("compat",),
    ("workflow",),
)
# Who may open files; `simulate` writes in chunks.
OPENERS = {"storage", "cells", "io", "report", "simulate", "workflow"}


def conda(path: str) -> list:
    """Dependencies of a conda environment."""
    return yaml.safe_load((ROOT / path).read_text())["dependencies"]


def test_environment_has_the_dependencies_of_the_package():
    *named, extras = conda("environment.yml")
    assert named == [f"python{PROJECT['requires-python']}", "pip"]
    assert extras == {"pip": [f"-e .[{','.join(PROJECT['optional-dependencies'])}]"]}


def test_environment_of_the_rules_has_the_dependencies_of_the_package():
    wanted = {f"python{PROJECT['requires-python']}", *PROJECT["dependencies"]}
    # conda-forge has the Python package isal under the name python-isal
    named = {name.replace("python-isal", "isal") for name in conda("workflow/envs/flashmm.yaml")}
    assert named == wanted


def test_dependencies_are_those_that_the_package_imports():
    names = {"sklearn": "scikit-learn", "cycler": "matplotlib"}  # cycler comes with matplotlib
    extras = {"snakemake", "yaml"}  # of the workflow; yaml comes with snakemake
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").split(".")[0])
    found -= sys.stdlib_module_names | {"flashmm"} | extras
    found = {names.get(name, name) for name in found}
    # pandas writes Parquet with pyarrow, AnnData its files with h5py
    declared = {re.split(r"[<>=~]", name)[0] for name in PROJECT["dependencies"]}
    assert found <= declared
    assert declared - found <= {"pyarrow", "h5py"}


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert flashmm.__version__ == PROJECT["version"] == citation["version"] == newest[1]


def imported(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports, at the top or in a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flashmm":
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if is_module(name) else str(node.module) for name in below)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("flashmm."))


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


GRAPH = {module_name(path): set(imported(path)) for path in sorted(PACKAGE.rglob("*.py"))}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def floor(module: str) -> int:
    found = [i for i, rooms in enumerate(ROOMS) if room(module) in rooms]
    assert found, f"{module} has no room: put it into ROOMS"
    return found[0]


@pytest.mark.parametrize("module", sorted(GRAPH.keys() - {"flashmm"}))
def test_imports_point_one_way(module):
    above = {name for name in GRAPH[module] if floor(name) > floor(module)}
    assert not above, f"{module} imports {above} from a room above its own"


def test_no_import_closes_a_cycle():
    # a face imports its modules, and a module may import the face of another room only
    assert not list(cycles(GRAPH)), "imports, deferred ones too, form a cycle"


def cycles(graph: dict[str, set[str]]) -> Iterator[tuple[str, ...]]:
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        yield tuple(error.args[1])


def modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"]


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_only_some_rooms_open_files(path):
    calls = [
        node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    ]
    names = {getattr(call, "id", getattr(call, "attr", "")) for call in calls}
    opening = names & {"open", "read_h5ad", "read_csv", "read_parquet", "write_h5ad", "read_text"}
    own = room(module_name(path))
    assert not opening or own in OPENERS, f"{own} calls {opening}"


def texts() -> list[Path]:
    kinds = {".py", ".md", ".smk", ".yaml", ".yml", ".toml", ".tsv", ".rst", ".j2", ".cff", ""}
    skipped = {".git", ".venv", ".snakemake", "results", "logs", "__pycache__", ".hypothesis"}
    skipped |= {".mypy_cache", ".pytest_cache", ".ruff_cache"}
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file()
        and path.suffix in kinds
        and not skipped & set(path.relative_to(ROOT).parts)
    ]


def test_no_path_of_a_machine_is_written_down():
    # put together here, so that this file does not hold what it looks for
    paths = re.compile("|".join(f"/{folder}/" for folder in ("home/[a-z]", "Users/[a-z]", "work")))
    found = {
        str(path.relative_to(ROOT))
        for path in texts()
        if paths.search(path.read_text(errors="ignore"))
    }
    assert not found


def test_templates_are_part_of_the_package():
    assert {path.name for path in (PACKAGE / "report" / "templates").iterdir()} == {
        "report.html.j2",
        "report.css.j2",
        "report.js.j2",
    }
