"""Differences between levels do not depend on the coding of the design."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import flashmm as fm
from flashmm.design.differences import Differences, contrasts_of
from flashmm.options import FlashmmWarning, FormulaError, InputError

pytestmark = pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
BY = ["subject", "cell_type", "condition", "age", "treated"]


@pytest.fixture(scope="module")
def groups() -> fm.GroupStatistics:
    rng = np.random.default_rng(4)
    rows = [
        (f"{condition}{s}", cell_type, condition, 30.0 + 7 * s + (condition == "b"))
        for condition in ("b", "a", "c")
        for s in range(4)
        for cell_type in ("B", "T", "NK")
        for _ in range(6)
    ]
    obs = pd.DataFrame(rows, columns=["subject", "cell_type", "condition", "age"])
    obs.index = [f"cell{i}" for i in range(len(obs))]
    obs["treated"] = obs["condition"] == "c"
    X = rng.poisson(3.0, (len(obs), 8)).astype(np.float32)
    adata = ad.AnnData(X, obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(8)]))
    return fm.summarise(adata, by=BY, covariates=["log(libsize)"])


def table_of(groups, formula, contrasts, **options):
    stats = fm.summary_statistics(groups, formula, ["subject"], **options)
    return fm.contrast_tests(fm.fit_lmm(stats), contrasts)


CODINGS = (
    "~ condition + cell_type",
    "~ 0 + condition + cell_type",
    "~ 0 + cell_type + condition",
    "~ C(condition, contr.sum) + cell_type",
)


@pytest.mark.parametrize("formula", CODINGS[1:3])
def test_any_coding_gives_the_same_differences(groups, formula):
    wanted = table_of(groups, CODINGS[0], "condition")
    found = table_of(groups, formula, "condition")
    assert [c.difference.comparison for c in found.contrasts] == ["b vs a", "c vs a"]
    np.testing.assert_allclose(found.estimate, wanted.estimate, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(found.p_value, wanted.p_value, rtol=1e-6)


def test_names_of_single_coefficients_stay(groups):
    assert table_of(groups, "~ condition", "condition").contrast_names == (
        "condition[T.b]",
        "condition[T.c]",
    )
    assert table_of(groups, "~ 0 + condition", "condition").contrast_names == (
        "condition[b vs a]",
        "condition[c vs a]",
    )


@pytest.mark.parametrize(
    "formula",
    ["~ 0 + cell_type + cell_type:condition", "~ cell_type*condition", "~ 0 + cell_type:condition"],
)
def test_a_difference_within_each_level_of_what_it_interacts_with(groups, formula):
    wanted = table_of(groups, "~ 0 + cell_type + cell_type:condition", "condition")
    found = table_of(groups, formula, "condition")
    assert len(found.contrasts) == 6
    order = np.argsort([(c.difference.level, c.name) for c in found.contrasts], axis=0)[:, 0]
    assert sorted(np.round(found.estimate[0], 7)) == pytest.approx(
        sorted(np.round(wanted.estimate[0], 7)), abs=1e-6
    )
    assert len(order) == 6


def test_names_say_the_level_of_the_other_factor(groups):
    names = table_of(groups, "~ 0 + cell_type:condition", "condition").contrast_names
    assert "cell_type[NK]:condition[b vs a]" in names and "cell_type[T]:condition[c vs a]" in names


@pytest.mark.parametrize("three", [("condition", "c", "b"), ["condition", "c", "b"]])
@pytest.mark.parametrize("formula", ["~ condition", "~ 0 + condition"])
def test_one_difference_is_three_words(groups, formula, three):
    found = table_of(groups, formula, three)
    both = table_of(groups, "~ condition", "condition[T.c] - condition[T.b]")
    np.testing.assert_allclose(found.estimate, both.estimate, rtol=1e-7, atol=1e-10)
    assert found.contrasts[0].difference.comparison == "c vs b"


def test_differences_beside_other_contrasts(groups):
    spec = [("condition", "c", "b"), "condition", "Intercept"]
    assert len(table_of(groups, "~ condition", spec).contrasts) == 4
    joint = table_of(
        groups, "~ 0 + condition", {"any": ["condition"], "one": ("condition", "c", "b")}
    )
    wanted = table_of(groups, "~ condition", {"any": ["condition"]})
    np.testing.assert_allclose(joint.p_value[:, 0], wanted.p_value[:, 0], rtol=1e-6)
    assert joint.df_num[0] == 2


def test_the_reference_can_be_chosen(groups):
    found = table_of(groups, "~ condition", "condition", reference={"condition": "c"})
    assert [c.difference.comparison for c in found.contrasts] == ["a vs c", "b vs c"]
    wanted = table_of(groups, "~ condition", ("condition", "a", "c"))
    np.testing.assert_allclose(found.estimate[:, [0]], wanted.estimate, rtol=1e-7, atol=1e-10)


def test_truth_values_and_two_numbers_have_levels(groups):
    found = table_of(groups, "~ treated", "treated")
    assert found.contrast_names == ("treated",)
    assert found.contrasts[0].difference.comparison == "True vs False"


def test_a_number_is_a_slope(groups):
    found = table_of(groups, "~ age + condition", "age")
    assert found.contrast_names == ("age",) and found.contrasts[0].difference is None


def test_slopes_that_differ_are_their_coefficients(groups):
    found = table_of(groups, "~ condition + condition:log(libsize) + log(libsize)", "condition")
    assert found.contrast_names == (
        "condition[T.b]",
        "condition[T.b]:log(libsize)",
        "condition[T.c]",
        "condition[T.c]:log(libsize)",
    )
    with_age = table_of(groups, "~ condition*age", "condition").contrast_names
    assert with_age == (
        "condition[T.b]",
        "condition[T.b]:age",
        "condition[T.c]",
        "condition[T.c]:age",
    )


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (("condition", "d", "a"), "no level 'd'.*levels are 'a', 'b', 'c'"),
        (("condition", "a", "x"), "no level 'x'"),
        (("condition", "a", "a"), "compared with itself"),
        (("conditions", "a", "b"), "conditions"),
    ],
)
def test_differences_that_there_are_not(groups, spec, words):
    with pytest.raises(FormulaError, match=words):
        table_of(groups, "~ condition", spec)


def test_one_level_has_no_difference(groups):
    part = groups.subset((groups.obs["condition"] == "a").to_numpy())
    stats = fm.summary_statistics(part, "~ 1 + cell_type", ["subject"])
    assert len(contrasts_of("cell_type", stats.coefficients, stats.coefficient_columns, stats)) == 2


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ({"condition": "d"}, "no level 'd'"),
        ({"conditon": "a"}, "did you mean 'condition'"),
        ({"age": "30"}, "holds float64 values"),
        ("ctrl", "reference must be a dictionary"),
    ],
)
def test_references_that_there_are_not(groups, reference, words):
    with pytest.raises(InputError, match=words):
        fm.summary_statistics(groups, "~ condition", ["subject"], reference=reference)


def test_warning_class_is_public():
    assert issubclass(fm.FlashmmWarning, UserWarning) and fm.FlashmmWarning is FlashmmWarning


@pytest.mark.parametrize(
    "formula",
    [
        "~ condition*cell_type",
        "~ 0 + cell_type:condition + age",
        "~ cell_type + condition:age + log(libsize)",
        "~ 0 + condition + condition:log(libsize)",
        "~ C(condition, contr.sum)*cell_type",
        "~ condition + scale(age):condition",
    ],
)
def test_one_group_of_each_kind_stands_for_all(groups, formula, monkeypatch):
    stats = fm.summary_statistics(groups, formula, ["subject"])
    asked = stats.coefficients, stats.coefficient_columns, stats
    found = contrasts_of("condition", *asked)
    everyone = np.arange(groups.n_groups)
    monkeypatch.setattr(Differences, "_kinds", lambda *_: (everyone, everyone))
    wanted = contrasts_of("condition", *asked)
    assert [c.name for c in found] == [c.name for c in wanted]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one.matrix, other.matrix)


def test_kinds_leave_out_what_no_term_holds(groups):
    def n_kinds(formula):
        stats = fm.summary_statistics(groups, formula, ["subject"])
        return len(Differences(stats)._kinds("condition")[0])

    assert n_kinds("~ condition") == 1
    assert n_kinds("~ condition*cell_type + log(libsize)") == 3
    assert n_kinds("~ condition + scale(age)") == groups.n_groups
