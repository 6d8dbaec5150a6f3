"""The project's own files agree with each other, and the package keeps its layers."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import flashmm

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "flashmm"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Who may import whom: a module imports from its own layer and from those before it.
LAYERS = (
    {"options", "provenance"},
    {"files", "workspace"},
    {"kernels"},
    {"groups", "formulas", "design", "crossproducts", "contrasts", "kinship_data", "subject_rows"},
    {"chunks", "counts", "summary", "simulation_spec", "simulate", "kinship_simulation"},
    {"lmm", "kinship", "kinship_rotation", "multitrait", "traitmodel", "traitscan"},
    {"io", "subjects", "fits", "testtable"},
    {"between", "waldtests"},
    {"advice", "leaveout"},
    {"inference"},
    {"variance", "jackknife", "permutation", "baselines"},
    {"subject_models", "heritability"},
    {"de", "evaluate", "mixedlm", "calibration", "verdicts"},
    {"plots", "calibration_plots"},
    {"blocks"},
    {"report", "subjects_report", "calibration_report"},
)
# `files`, `io` and `report` open files; `counts` and `summary` stream them, `simulate` writes in
# chunks, and `workspace` reads what the system says of memory.
OPENERS = {"files", "io", "report", "counts", "summary", "simulate", "provenance", "workspace"}


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
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").split(".")[0])
    found = {names.get(name, name) for name in found - sys.stdlib_module_names - {"flashmm"}}
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
        if isinstance(node, ast.ImportFrom) and node.module == "flashmm":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flashmm."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            names = (alias.name.split(".") for alias in node.names)
            yield from (name[1] for name in names if name[0] == "flashmm" and len(name) > 1)


def modules() -> list[Path]:
    return [
        path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "__init__.py" and path.relative_to(PACKAGE).parts[0] != "compat"
    ]


def layer(name: str) -> int:
    found = [i for i, names in enumerate(LAYERS) if name in names]
    assert found, f"{name} has no layer: put it into LAYERS"
    return found[0]


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_imports_point_one_way(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    above = {name for name in imported(path) if layer(name) > layer(own)}
    assert not above, f"{own} imports {above} from a layer above its own"


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_only_io_and_report_open_files(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    calls = [
        node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    ]
    names = {getattr(call, "id", getattr(call, "attr", "")) for call in calls}
    opening = names & {"open", "read_h5ad", "read_csv", "read_parquet", "write_h5ad", "read_text"}
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
    assert {path.name for path in (PACKAGE / "templates").iterdir()} == {
        "report.html.j2",
        "report.css.j2",
        "report.js.j2",
    }
