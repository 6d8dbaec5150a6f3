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


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import flashmm", SLOW | {"numpy", "pandas"}),
        ("import flashmm.io.tables", SLOW),
        ("import flashmm.benchmark.evaluation", SLOW),
        ("import flashmm.cells.summary, flashmm.io.groups", UNUSED),
        ("import flashmm.inference.testing, flashmm.io.fits", UNUSED),
        ("import flashmm.benchmark.methods", UNUSED),
    ],
)
def test_slow_libraries_wait_until_they_are_used(code, absent):
    code += f"; import sys; print(*sorted({absent!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_a_module_does_not_take_the_place_of_its_function():
    code = (
        "import flashmm.de, flashmm.inference.influence\n"
        "import flashmm\n"
        "print(flashmm.de.__qualname__, flashmm.inference.influence.__qualname__)\n"
        "print(flashmm.plots.volcano.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["de", "influence", "flashmm.plots.volcano"]
