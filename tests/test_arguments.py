"""Arguments of other types than a function takes are refused by name, whatever the function."""

from __future__ import annotations

import inspect

import numpy as np
import pandas as pd
import pytest

import flashmm as fm
from flashmm.options import checked

FUNCTIONS = [name for name in fm.__all__ if inspect.isfunction(getattr(fm, name))]
JUNK = (object(), b"x", 10**30, float("nan"), "a\0b", pd.DataFrame(), np.array([object()]), {1: 2})
# What an argument of a type never is.
NEVER = {
    "bool": JUNK,
    "int": (*JUNK, "x", 1.5, True),
    "float": (object(), b"x", "x", 10**30, True, [1.0]),
    "str": (object(), b"x", 5, 1.5, ["x"]),
    "PathLike": (5, None, "", "a\0b", b"x", ["x"]),
    "Sequence[float]": ("x", 1.0, ["x"], {"x": 1}, pd.DataFrame({"x": [1]})),
    "Sequence[str]": (5, [5], b"x", {"x": "y"}, pd.DataFrame({"x": [1]})),
    "GroupStatistics": (*JUNK, None),
    "LMMFit": (*JUNK, None),
    "TestTable": (*JUNK, None),
    "pd.DataFrame": (*JUNK[:5], None, [1]),
}


def examples() -> list[tuple[str, str, object]]:
    """Functions, arguments whose type is known here, and what they cannot be."""
    return [
        (name, parameter.name, value)
        for name in FUNCTIONS
        for parameter in inspect.signature(getattr(fm, name)).parameters.values()
        for value in NEVER.get(str(parameter.annotation), ())
    ]


def test_every_public_function_refuses_other_types():
    found = examples()
    assert len(found) > 600
    for name, argument, value in found:
        function = getattr(fm, name)
        # other arguments are not looked at: those before it in the signature are left out
        with pytest.raises(fm.InputError, match=f"^{argument} must be ") as error:
            alone(function, argument)(value)
        assert "found" in str(error.value) and "\n" not in str(error.value)


def alone(function, argument: str):
    """The checks of a function for one of its arguments."""
    parameter = inspect.signature(function).parameters[argument]

    def run(value):
        raise AssertionError(f"{argument}={value!r} is taken")

    run.__signature__ = inspect.Signature([parameter.replace(kind=parameter.POSITIONAL_ONLY)])
    return checked(run)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_are_checked(name):
    assert hasattr(getattr(fm, name), "__wrapped__")


@pytest.fixture(scope="module")
def stats() -> fm.SummaryStatistics:
    rng = np.random.default_rng(0)
    return fm.summary_statistics_from_matrices(
        rng.normal(size=(12, 2)), np.ones((12, 1)), np.repeat(np.eye(4), 3, axis=0), [4]
    )


def test_methods_are_checked_too(stats):
    table = fm.contrast_tests(fm.fit_lmm(stats), np.eye(1))
    for call, words in [
        (lambda: table.top("ten"), "n must be a whole number; found 'ten' (str)."),
        (lambda: table.to_frame(details="yes"), "details must be True or False"),
        (lambda: table.write(5), "path must be a path; found 5 (int)."),
        (lambda: table.to_anndata("x.h5ad"), "adata must be an AnnData"),
        (lambda: table.explain(3), "gene must be a text"),
        (lambda: table.write_ranks(__file__), "is a file; give the name of a folder"),
    ]:
        with pytest.raises(fm.InputError) as error:
            call()
        assert words in str(error.value)


def taking(annotation: str, value: object) -> object:
    """What a checked function gets for a value of its argument."""

    def run(x):
        return x

    run.__annotations__ = {"x": annotation}
    return checked(run)(value)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        ("bool", np.True_),
        ("int", np.int32(3)),
        ("float", np.float32(0.5)),
        ("float", 1),
        ("float | None", None),
        ("Sequence[float] | float", range(3)),
        ("Sequence[float]", np.arange(3.0)),
        ("Sequence[float]", pd.Series([1, 2])),
        ("Sequence[str] | str", "x"),
        ("Iterable[str]", (x for x in "ab")),
        ("PathLike", "x.h5ad"),
        ("Sheet | None", pd.DataFrame()),
        ("Mapping[str, Sequence[str]]", {"a": ["x"]}),
        ("tuple[int, int]", (0, 5)),
        ("tuple[int, int]", [0, 5]),
        ("Any", object()),
    ],
)
def test_values_of_the_type_are_handed_on(annotation, value):
    assert taking(annotation, value) is value


@pytest.mark.parametrize("several", [np.array(["a", "b"]), pd.Index(["a", "b"]), {"a": 1}.keys()])
def test_texts_arrive_as_a_list(several):
    got = taking("str | Sequence[str] | None", several)
    assert isinstance(got, list) and got == list(several)


@pytest.mark.parametrize(
    ("annotation", "value", "words"),
    [
        ("bool", "no", "x must be True or False; found 'no' (str)."),
        ("LMMFit | None", 5, "x must be an LMMFit (from fit_lmm) or None; found 5 (int)."),
        ("str | Sequence[str]", [5], "x must be a text or a list of texts; found [5] (list)."),
        ("tuple[int, int]", (1, 2, 3), "x must be 2 whole numbers; found (1, 2, 3) (tuple)."),
        (
            "Mapping[str, Sequence[str]]",
            {"a": 5},
            "x must be a dictionary of lists of texts; found {'a': 5} (dict).",
        ),
        ("float", pd.DataFrame({"a": range(50)}), "x must be a number; found a DataFrame."),
        ("str", list(range(10**6)), "x must be a text; found [0, 1, 2, 3, 4, 5, ...] (list)."),
        ("AnnData", "x", "x must be an AnnData; found 'x' (str)."),
    ],
)
def test_what_is_said(annotation, value, words):
    with pytest.raises(fm.InputError) as error:
        taking(annotation, value)
    assert str(error.value) == words


def test_calls_that_python_refuses_are_refused_as_ever():
    with pytest.raises(TypeError, match=r"fit_lmm\(\) got an unexpected keyword argument"):
        fm.fit_lmm(nothing=1)
    with pytest.raises(TypeError, match=r"fit_lmm\(\) missing 1 required positional argument"):
        fm.fit_lmm()


def test_options_that_reach_the_fit_by_name_are_checked_too(stats):
    for option in ({"nonnegative": "no"}, {"tol": np.inf}, {"block_size": -1}, {"start": "x"}):
        with pytest.raises(fm.InputError, match=next(iter(option))):
            fm.fit_lmm(stats, **option)
