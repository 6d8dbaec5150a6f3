"""Faces of rooms import what they offer when it is used, and lose nothing by it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import flashmm

PACKAGE = Path(flashmm.__file__).parent
FACES = ["flashmm"] + [
    f"flashmm.{path.parent.name}"
    for path in sorted(PACKAGE.glob("*/__init__.py"))
    if "on_demand(" in path.read_text()
]
SLOW = {"anndata", "formulaic", "matplotlib", "numba", "scipy.stats", "sklearn", "statsmodels"}
UNUSED = {"matplotlib", "scipy.stats", "sklearn", "statsmodels"}  # by summarise, fit and test


@pytest.mark.parametrize("name", FACES)
def test_all_names_of_a_face_are_there(name):
    face = importlib.import_module(name)
    assert set(face.__all__) == set(face._places) - {"__version__"}
    assert all(getattr(face, offered) is not None for offered in face.__all__)
    assert set(face.__all__) <= set(dir(face))


def test_a_name_that_is_not_there_is_an_error():
    with pytest.raises(AttributeError, match=r"module 'flashmm' has no attribute 'fit_lm'"):
        flashmm.fit_lm  # noqa: B018
    assert not hasattr(flashmm, "_nothing")


# What is imported one after another, and what is not there then.
STAGES = [
    ("flashmm", SLOW | {"numpy", "pandas"}),
    ("flashmm.io.tables", SLOW),
    ("flashmm.benchmark.evaluation", SLOW),
    ("flashmm.cells.summary, flashmm.io.groups", UNUSED),
    ("flashmm.inference.testing, flashmm.io.fits", UNUSED),
    ("flashmm.benchmark.methods", UNUSED),
]
MODULES = """
import flashmm.de, flashmm.inference.influence, flashmm
print(flashmm.de.__qualname__, flashmm.inference.influence.__qualname__)
print(flashmm.plots.volcano.__name__)
"""


@pytest.fixture(scope="module")
def printed() -> list[str]:
    """What a new process says: the libraries that each stage has imported, and then names."""
    lines = ["import sys"]
    for modules, absent in STAGES:
        lines += [f"import {modules}", f"print(*sorted({absent!r} & set(sys.modules)))"]
    command = [sys.executable, "-c", "\n".join(lines) + MODULES]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("stage", range(len(STAGES)), ids=[modules for modules, _ in STAGES])
def test_slow_libraries_wait_until_they_are_used(printed, stage):
    assert printed[stage] == ""


def test_a_module_does_not_take_the_place_of_its_function(printed):
    assert printed[len(STAGES) :] == ["de influence", "flashmm.plots.volcano"]
