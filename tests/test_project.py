"""The project's own files agree with each other, and the package keeps its layers."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml
from packaging.version import Version
from source_code import cycle, file_access, imported_modules, imports, nodes

import flashmm
from flashmm.shown import attached

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "flashmm"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, BUILD = PYPROJECT["project"], PYPROJECT["tool"]["hatch"]

# Who may import whom: a module imports from its own room and from those before it.
ROOMS = (
    ("options", "names", "shown", "kernels"),
    ("formulas", "storage"),
    ("cells",),
    ("design",),
    ("model",),
    ("lmm",),
    ("within",),
    ("inference",),
    ("kinship", "multitrait"),
    ("simulate",),
    ("benchmark", "subject_level", "de"),
    ("plots", "io"),
    ("notebook",),
    ("report",),
    ("compat",),
    ("workflow",),
    ("cli",),
)
# Who may open, read, write or move files: rooms and single modules.
OPENERS = {
    "storage",
    "cells",
    "io",
    "report",
    "workflow",
    "cli",
    "notebook",
    "simulate.counts",
    "simulate.writer",
    "plots.style",
}
# Modules beside the rooms, and lines of a module, at most.
MOST_BESIDE, MOST_LINES = 8, 600
# Longer modules, and those that limit BLAS in a way of their own; these lists only get shorter.
LONGER: set[str] = set()
# Rooms whose face has a sentence instead of a paragraph.
UNSAID: set[str] = set()
LIMITS_BLAS: set[str] = set()


def conda(path: str) -> list:
    """Dependencies of a conda environment."""
    return yaml.safe_load((ROOT / path).read_text())["dependencies"]


def test_environment_has_the_dependencies_of_the_package():
    *named, extras = conda("environment.yml")
    assert named == [f"python{PROJECT['requires-python']}", "pip"]
    assert extras == {"pip": [f"-e .[{','.join(PROJECT['optional-dependencies'])}]"]}


def test_environment_of_the_rules_has_the_dependencies_of_the_package():
    wanted = {f"python{PROJECT['requires-python']}", *PROJECT["dependencies"]}
    # conda-forge has some packages of Python under the names python-isal, python-xxhash
    *packages, pip, by_pip = conda("workflow/envs/flashmm.yaml")
    named = [name.removeprefix("python-") for name in packages]
    assert pip == "pip"
    assert sorted(named + by_pip["pip"]) == sorted(wanted)


def test_dependencies_are_those_that_the_package_imports():
    names = {"cycler": "matplotlib", "llvmlite": "numba"}  # each comes with the other
    extras = {
        "snakemake",
        "jsonschema",
        "packaging",
        "yaml",
    }  # of the workflow; snakemake needs the others
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in nodes(path.read_text()):
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
    """A tag gives the version; what the sources say of themselves is the release to come."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    untagged = BUILD["version"]["fallback-version"]
    assert citation["version"] == newest[1] == untagged.removesuffix(".dev0")
    assert PROJECT["dynamic"] == ["version"]
    assert Version(flashmm.__version__)


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(module: str) -> set[str]:
    path = FILES[module]
    return imported_modules(path.read_text(), module, is_module, path.name == "__init__.py")


@cache
def graph() -> dict[str, set[str]]:
    """Modules, and the modules of the package that each imports; read by the tests that ask."""
    return {module: imported(module) for module in FILES}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def floor(module: str) -> int:
    found = [i for i, rooms in enumerate(ROOMS) if room(module) in rooms]
    assert found, f"{module} has no room: put it into ROOMS"
    return found[0]


@pytest.mark.parametrize("module", sorted(FILES.keys() - {"flashmm"}))
def test_imports_point_one_way(module):
    above = {name for name in graph()[module] if floor(name) > floor(module)}
    assert not above, f"{module} imports {above} from a room above its own"


def test_later_rooms_are_attached_to_the_table_of_tests_only():
    """By name, which the imports do not show: what is named is there, in the room for notebooks."""
    users = {module for module, names in graph().items() if "attached" in FILES[module].read_text()}
    assert users == {"flashmm.shown", "flashmm.inference.table", "flashmm.notebook"}
    descriptors = [v for v in vars(flashmm.TestTable).values() if isinstance(v, attached)]
    assert len(descriptors) == 6 and {d.place.split(".")[1] for d in descriptors} == {"notebook"}
    for descriptor in descriptors:
        assert callable(descriptor.__get__(None))


def test_no_import_closes_a_cycle():
    # a face imports its modules, and a module may import the face of another room only
    assert not cycle(graph()), "imports, deferred ones too, form a cycle"


def test_rooms_form_no_cycle():
    # importing a module runs the face of its room first
    rooms = {name: set() for name in map(room, graph().keys() - {"flashmm"})}
    for module, names in graph().items():
        rooms.get(room(module), set()).update(map(room, names))
    assert not cycle(rooms), "two rooms import from each other"


def test_no_module_imports_the_whole_package():
    assert not [module for module, names in graph().items() if "flashmm" in names]


def below_the_face() -> list[str]:
    return sorted(FILES.keys() - {"flashmm"})


@pytest.mark.parametrize("module", below_the_face())
def test_only_some_rooms_touch_files(module):
    path = FILES[module]
    place = module.removeprefix("flashmm.")
    if not any(place == name or place.startswith(f"{name}.") for name in OPENERS):
        found = file_access(path.read_text(), module, path.name == "__init__.py")
        assert not found, f"{module} opens, reads or writes files: {sorted(found)}"


def test_those_who_may_touch_files_do():
    touching = {
        m
        for m, path in FILES.items()
        if file_access(path.read_text(), m, path.name == "__init__.py")
    }
    for name in OPENERS:
        full = f"flashmm.{name}"
        assert any(m == full or m.startswith(f"{full}.") for m in touching), f"{name} need not"


def test_modules_are_short():
    lines = {module: path.read_text().count("\n") for module, path in FILES.items()}
    longer = {module for module, n in lines.items() if n > MOST_LINES}
    assert longer <= LONGER, f"split these by concept: {sorted(longer - LONGER)}"
    assert longer == LONGER, f"no longer long, take out of LONGER: {sorted(LONGER - longer)}"


def test_few_modules_stand_beside_the_rooms():
    beside = sorted(path.name for path in PACKAGE.glob("*.py"))
    assert len(beside) <= MOST_BESIDE, f"put some of these into rooms: {beside}"


@pytest.mark.parametrize("face", sorted(PACKAGE.glob("*/__init__.py")), ids=module_name)
def test_rooms_say_what_they_are_for(face):
    said = ast.get_docstring(ast.parse(face.read_text())) or ""
    short = len(said.split()) < 12
    assert short == (module_name(face) in UNSAID), "say in a paragraph what the room is for"


@pytest.mark.parametrize(
    ("library", "owner", "others"),
    [
        ("threadpoolctl", "flashmm.kernels.threads", LIMITS_BLAS),
        ("difflib", "flashmm.names", set()),
    ],
)
def test_one_module_uses_the_library(library, owner, others):
    users = {
        module
        for module, path in FILES.items()
        if any(name.split(".")[0] == library for name, _ in imports(path.read_text(), module))
    }
    assert users == {owner} | others


def texts() -> list[Path]:
    kinds = {".py", ".md", ".smk", ".yaml", ".yml", ".toml", ".tsv", ".rst", ".j2", ".cff", ""}
    skipped = {".git", ".venv", ".snakemake", "results", "logs", "__pycache__", ".hypothesis"}
    skipped |= {".mypy_cache", ".pytest_cache", ".ruff_cache", "site"}
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = set(folders) - skipped
        found += [Path(folder, name) for name in set(names) - skipped]
    return [path for path in found if path.is_file() and path.suffix in kinds]


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
        "charts.js.j2",
        "report.html.j2",
        "report.css.j2",
        "report.js.j2",
    }


@pytest.mark.parametrize("target", ["workflow", "workflow,dev", "slurm"])
def test_make_installs_all_extras_of_a_target(target):
    name = {"workflow": ".installed", "workflow,dev": ".installed-dev"}.get(
        target, ".installed-slurm"
    )
    command = ["make", "--dry-run", "--always-make", f".venv/{name}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count(f"--editable '.[{target}]'") == 2  # by uv, or else by pip
