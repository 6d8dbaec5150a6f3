"""Designs: what formulas mean, and that groups give the design of their cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from cell_tables import CELLS, make_cells
from formulaic import model_matrix
from hypothesis import given, settings
from hypothesis import strategies as st

from flashmm.cells.covariates import covariate_columns, evaluate_covariate
from flashmm.cells.groups import GroupStatistics, moment_names
from flashmm.design.columns import cell_design, group_design
from flashmm.options import DesignError, FlashmmWarning, FormulaError, InputError

BY = ["subject", "cell_type", "condition", "age", "plate.id", "flag"]
COVARIATES = ("log(libsize)", "m", "log(libsize):m", "percent.mito")


def make_groups(
    cells: pd.DataFrame, by: list[str] = BY, covariates: tuple[str, ...] = COVARIATES
) -> tuple[GroupStatistics, np.ndarray, np.ndarray]:
    """Groups without genes; the group of every cell; and (1 + m, cells) covariates."""
    codes, levels = pd.factorize(pd.MultiIndex.from_frame(cells[by]))
    first = np.array([np.flatnonzero(codes == g)[0] for g in range(len(levels))])
    obs = cells[by].iloc[first].set_axis(["|".join(map(str, level)) for level in levels])
    x = np.vstack([np.ones(len(cells)), *(evaluate_covariate(c, cells) for c in covariates)])
    m = len(covariates)
    pairs = [(0, k) for k in range(m + 1)] + [
        (k, j) for k in range(1, m + 1) for j in range(k, m + 1)
    ]
    for name, (k, j) in zip(moment_names(covariates), pairs, strict=True):
        obs[name] = np.bincount(codes, x[k] * x[j])
    obs["n_cells"] = obs["n_cells"].astype(int)
    empty = np.zeros((len(obs), 0))
    sums = {c: empty for c in covariates}
    groups = GroupStatistics(
        obs, pd.Index([]), empty, empty, sums, None, tuple(by), covariates, "none", {}
    )
    return groups, codes, x


GROUPS, CODES, X_CELLS = make_groups(CELLS)


def expanded(layers: np.ndarray, codes: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Columns of a group design on the cells: Σ_k layers[k] · x_k."""
    return np.einsum("kcp,kc->cp", layers[:, codes], x)


FORMULAS = [
    "~ 1",
    "~ 0 + log(libsize) + cell_type + cell_type:condition",
    "~ log( libsize ) * cell_type - cell_type",
    "~ scale(log(libsize)) * cell_type",
    "~ scale(log(libsize)):scale(m) + condition",
    "~ log(libsize):m:condition",
    "~ m * log(libsize)",
    "~ center(m) + poly(age, 2) + scale(age)",
    "~ scale(m, center=False) + scale(`percent.mito`, ddof=0):cell_type",
    "~ scale(m, 1.5, 2) + scale(m, scale=3)",
    "~ scale(center(m)) + center(scale(m)):cell_type",
    "~ bs(age, df=4)",
    "~ bs(age, knots=[30, 40], degree=2):condition",
    "~ cr(age, df=3) + flag",
    "~ cr(log(age), df=4, constraints='center')",
    "~ bs(age, df=5, include_intercept=True, extrapolation='clip') - 1",
    "~ poly(log(age), 2):m:cell_type",
    "~ C(cell_type, contr.sum) * condition + `percent.mito`",
    "~ C(cell_type, contr.treatment('B cells')) + C(`plate.id`, contr.helmert)",
    "~ C(cell_type, levels=['B cells', 'CD14+ Monocytes', 'T, CD4+'])",
    "~ C(cell_type, contr.diff) + C(flag)",
    "~ C(age) - 1",
    "~ log(age):log(libsize) + sqrt(age + 2 * age ** 2) / condition",
    "~ condition/cell_type + m",
    "~ (cell_type + condition + m)^2",
    "~ (cell_type + condition) ** 2 - cell_type:condition + log1p(age) + log2(age)",
    "~ condition:cell_type",
]


@pytest.mark.parametrize("formula", FORMULAS)
def test_groups_give_the_design_of_their_cells(formula):
    of_groups = group_design(GROUPS, formula, ["subject"])
    of_cells = cell_design(CELLS, formula, ["subject"])
    assert of_groups.coefficients == tuple(of_cells.X.columns)
    assert of_groups.coefficient_columns == of_cells.coefficient_columns
    X = expanded(of_groups.fixed, CODES, X_CELLS)
    np.testing.assert_allclose(X, of_cells.X.to_numpy(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("formula", [f for f in FORMULAS if "sqrt" not in f and "log1p" not in f])
def test_cells_give_formulaics_design(formula):
    expected = model_matrix(formula, CELLS)
    design = cell_design(CELLS, formula, ["subject"])
    assert list(design.X.columns) == list(expected.columns)
    assert list(design.X.index) == list(CELLS.index)
    np.testing.assert_allclose(design.X.to_numpy(), expected.to_numpy(float), atol=1e-12)


RANDOM = [
    (["subject"], ["subject"]),
    ("subject", ["subject"]),
    (["subject", "subject:cell_type"], ["subject", "subject:cell_type"]),
    (["(1 | subject)", "1|cell_type:subject"], ["subject", "cell_type:subject"]),
    (["condition/subject"], ["condition", "condition:subject"]),
    (
        ["(1 | condition/subject/cell_type)"],
        ["condition", "condition:subject", "condition:subject:cell_type"],
    ),
    (["(1|subject) + (1|`plate.id`)"], ["subject", "plate.id"]),
    (["log(libsize) || subject"], ["subject", "subject|log(libsize)"]),
    (["subject", "0 + scale(m) || subject"], ["subject", "subject|scale(m)"]),
    (["(0 + m | subject)"], ["subject|m"]),
    (["(1 + m | subject)"], ["subject", "subject|m", "cov(subject, subject|m)"]),
    (
        ["cell_type", "m | subject", "`plate.id`"],
        ["cell_type", "subject", "subject|m", "cov(subject, subject|m)", "plate.id"],
    ),
    (["0 + m + `percent.mito` || subject"], ["subject|m", "subject|percent.mito"]),
    (["0 + log(libsize):m || subject:cell_type"], ["subject:cell_type|log(libsize):m"]),
    (
        ["(0 + cell_type || subject)"],
        [f"subject|cell_type[{t}]" for t in ("T, CD4+", "B cells", "CD14+ Monocytes")],
    ),
    (["~ 0 + subject", "~ 0 + cell_type:subject"], ["subject", "cell_type:subject"]),
    (["~ subject - 1"], ["subject"]),
    (["age"], ["age"]),
]


@pytest.mark.parametrize(("random", "names"), RANDOM)
def test_random_terms_of_groups_are_those_of_cells(random, names):
    of_groups = group_design(GROUPS, "~ condition", random)
    of_cells = cell_design(CELLS, "~ condition", random)
    assert [c.name for c in of_groups.random] == names == list(of_cells.components)
    assert [v for c in of_groups.random for v in c.levels] == list(of_cells.Z_levels)
    assert tuple(len(c.levels) for c in of_groups.random) == of_cells.component_sizes
    blocks = []
    for component in of_groups.random:
        shape = (GROUPS.n_groups, len(component.levels))
        layers = [np.zeros(shape) if w is None else w.toarray() for w in component.weights]
        blocks.append(expanded(np.stack(layers), CODES, X_CELLS))
    Z = of_cells.Z.toarray()
    assert (Z != 0).any(axis=0).all() or "cell_type[" in names[0]
    np.testing.assert_allclose(np.hstack(blocks), Z, rtol=1e-9, atol=1e-10)


def test_random_terms_may_stand_in_the_formula():
    inside = group_design(
        GROUPS, "~ 0 + condition + (1 | subject) + m + (0 + m || subject:cell_type)"
    )
    beside = group_design(GROUPS, "~ 0 + condition + m", ["subject", "0 + m || subject:cell_type"])
    assert inside.coefficients == beside.coefficients == ("condition[ctrl]", "condition[stim]", "m")
    assert [c.name for c in inside.random] == [c.name for c in beside.random]
    np.testing.assert_array_equal(inside.fixed, beside.fixed)
    assert group_design(GROUPS, "~ (1|subject)").coefficients == ("Intercept",)


def test_levels_are_in_the_order_of_the_categories_and_numbers_are_labels():
    design = cell_design(CELLS, "~ 1", ["age", "cell_type:condition"])
    assert list(design.Z_levels[:6]) == ["20.0", "27.0", "35.0", "41.0", "48.0", "55.0"]
    assert list(design.Z_levels[6:8]) == ["T, CD4+:ctrl", "T, CD4+:stim"]
    assert design.component_sizes == (6, 6)


def test_two_correlated_effects_at_most():
    names = [f"subject|condition[{level}]" for level in ("ctrl", "stim")]
    design = group_design(GROUPS, "~ m", ["0 + condition | subject"])
    assert [c.name for c in design.random] == [*names, f"cov({names[0]}, {names[1]})"]
    assert [len(c.levels) for c in design.random] == [6, 6, 0]
    with pytest.raises(FormulaError, match=r"3 correlated effects .* only two, such as"):
        group_design(GROUPS, "~ m", ["m + age | subject"])
    with pytest.raises(FormulaError, match="'subject' groups the cells as 'subject' does"):
        group_design(GROUPS, "~ m", ["subject", "m | subject"])


def test_equal_partitions_are_left_out_with_a_note():
    one_type = CELLS[CELLS["cell_type"] == "B cells"]
    with pytest.warns(FlashmmWarning) as record:
        design = cell_design(one_type, "~ condition", ["subject", "subject:cell_type", "subject"])
    assert design.components == ("subject",)
    assert len([n for n in design.notes if "as 'subject' does" in n]) == 2
    assert {str(w.message) for w in record} == set(design.notes)
    # the same grouping of another slope is another component
    assert len(group_design(GROUPS, "~ 1", ["m || subject"]).random) == 2


def test_levels_without_cells_and_terms_without_columns_are_noted():
    no_stim = CELLS[CELLS["condition"] == "ctrl"]
    few = no_stim[no_stim["cell_type"] != "B cells"]
    with pytest.warns(FlashmmWarning):
        design = cell_design(few, "~ cell_type + condition", ["subject"])
    assert list(design.X.columns) == ["Intercept", "cell_type[T.CD14+ Monocytes]"]
    assert any("'cell_type'" in n and "B cells" in n for n in design.notes)
    assert any("condition makes no column" in n for n in design.notes)


def test_columns_of_coefficients_are_their_own_factors():
    design = cell_design(CELLS, "~ scale(m) + condition:cell_type", ["subject"])
    held = dict(zip(design.X.columns, design.coefficient_columns, strict=True))
    assert held["Intercept"] == frozenset()
    assert held["scale(m)"] == {"m"}
    assert held["cell_type[T.B cells]"] == {"cell_type"}  # completes the interaction
    assert held["condition[T.stim]:cell_type[B cells]"] == {"condition", "cell_type"}


def test_bool_string_and_nullable_columns():
    cells = CELLS.assign(
        text=pd.array(CELLS["condition"], dtype="string"),
        count=pd.array(CELLS["age"].astype(int), dtype="Int64"),
    )
    design = cell_design(cells, "~ flag + text + count", ["subject"])
    assert list(design.X.columns) == ["Intercept", "flag", "text[T.stim]", "count"]
    np.testing.assert_array_equal(design.X["flag"], CELLS["flag"].astype(float))
    np.testing.assert_array_equal(design.X["count"], CELLS["age"])


# R 4: colnames(model.matrix(formula, data)), with a in x, y, z; g in u, v; n a number
R_MEANING = [
    ("~ a", "1 ay az"),
    ("~ 0 + a", "ax ay az"),
    ("~ a - 1", "ax ay az"),
    ("~ -1 + n + a", "n ax ay az"),
    ("~ n", "1 n"),
    ("~ a + g", "1 ay az gv"),
    ("~ 0 + a + g", "ax ay az gv"),
    ("~ a * n", "1 ay az n ay:n az:n"),
    ("~ a : n", "1 ax:n ay:n az:n"),
    ("~ n + a:n", "1 n ay:n az:n"),
    ("~ a / n", "1 ay az ax:n ay:n az:n"),
    ("~ g / a", "1 gv gu:ay gv:ay gu:az gv:az"),
    ("~ a * g", "1 ay az gv ay:gv az:gv"),
    ("~ 0 + a + a:g", "ax ay az ax:gv ay:gv az:gv"),
    ("~ (a + g + n)^2", "1 ay az gv n ay:gv az:gv ay:n az:n gv:n"),
    ("~ (a + g)**2 - a", "1 gv gu:ay gv:ay gu:az gv:az"),
    ("~ (a + n)^3", "1 ay az n ay:n az:n"),
    ("~ n + g + n", "1 n gv"),
    ("~ a*g - a:g", "1 ay az gv"),
    ("~ 0 + g:n", "gu:n gv:n"),
    ("~ 1 + n", "1 n"),
    ("n + a", "1 n ay az"),
]


def in_r_words(name: str) -> str:
    parts = ["1" if part == "Intercept" else part for part in name.split(":")]
    return ":".join(p.replace("[T.", "").replace("[", "").replace("]", "") for p in parts)


@pytest.mark.parametrize(("formula", "expected"), R_MEANING)
def test_formulas_have_the_meaning_of_r(formula, expected):
    rng = np.random.default_rng(1)
    cells = pd.DataFrame(
        {
            "a": rng.choice(list("xyz"), 60),
            "g": rng.choice(list("uv"), 60),
            "n": rng.normal(size=60),
            "s": rng.choice(list("pqr"), 60),
        }
    )
    X = cell_design(cells, formula, ["s"]).X
    # formulaic writes the factors of a term in the order of the term, as R does for these
    names = [in_r_words(name) for name in X.columns]
    canonical = [":".join(sorted(n.split(":"))) for n in names]
    assert sorted(canonical) == sorted(":".join(sorted(n.split(":"))) for n in expected.split())
    assert np.linalg.matrix_rank(X.to_numpy()) == X.shape[1]


# --- errors that say what to do ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("formula", "random", "error", "words"),
    [
        ("y ~ m", ["subject"], FormulaError, "one-sided"),
        ("~ m ~ m", ["subject"], FormulaError, "one-sided"),
        ("~ batch", ["subject"], FormulaError, "'batch'.*Add it to by=.*covariates=\\['batch'\\]"),
        ("~ conditon", ["subject"], FormulaError, "did you mean 'condition'"),
        ("~ libsize", ["subject"], FormulaError, "covariates=\\['libsize'\\]"),
        ("~ `n counts`", ["subject"], FormulaError, "covariates=\\['`n counts`'\\]"),
        ("~ log1p(libsize)", ["subject"], FormulaError, "covariates=\\['log1p\\(libsize\\)'\\]"),
        ("~ log(libsiz)", ["subject"], FormulaError, "did you mean 'log\\(libsize\\)'"),
        (
            "~ log(libsize / age)",
            ["subject"],
            FormulaError,
            "covariates=\\['log\\(libsize / age\\)",
        ),
        ("~ m:`percent.mito`", ["subject"], FormulaError, "covariates=\\['`percent.mito`:m'\\]"),
        ("~ scale(m):center(m)", ["subject"], FormulaError, "covariates=\\['m:m'\\]"),
        ("~ poly(m, 2)", ["subject"], FormulaError, "poly of a column that varies between cells"),
        ("~ C(batch)", ["subject"], FormulaError, "\\['batch'\\] to by"),
        ("~ scale(m, 1, 2, 3, 4)", ["subject"], FormulaError, "scale"),
        ("~ center(m, 2)", ["subject"], FormulaError, "center"),
        ("~ scale(m, center=age)", ["subject"], FormulaError, "scale"),
        ("~ log(cell_type)", ["subject"], InputError, "'cell_type' holds labels"),
        ("~ log(age - 20)", ["subject"], InputError, "`log\\(age - 20\\)` is not finite in"),
        ("~ C(cell_type, contr.treatment('NK'))", ["subject"], FormulaError, "NK"),
        ("~ C(cell_type, levels=['B cells'])", ["subject"], FormulaError, "T, CD4"),
        ("~ bs(age, df=2)", ["subject"], FormulaError, "bs\\(age, df=2\\)"),
        ("~ 0", ["subject"], DesignError, "no column"),
        ("~ (m - m) / age", ["subject"], FormulaError, "no formula"),
        ("~ m", None, FormulaError, "random"),
        ("~ m", [], FormulaError, "random"),
        ("~ m + (1 | subject)", ["subject"], FormulaError, "leave `random` out"),
        ("~ m - (1 | subject)", None, FormulaError, "only be added"),
        ("~ m:(1 | subject)", None, FormulaError, "only be added"),
        ("~ m", ["(m + age | subject)"], FormulaError, "write \\|\\|"),
        ("~ m", ["(0 | subject)"], FormulaError, "nothing varies"),
        ("~ m", ["(1 | log(age))"], FormulaError, "grouping"),
        ("~ m", ["subject + cell_type"], FormulaError, "grouping"),
        ("~ m", ["subject*cell_type"], FormulaError, "grouping"),
        ("~ m", ["m + (1|subject)"], FormulaError, "fixed formula"),
        ("~ m", ["~ subject"], FormulaError, "~ 0 \\+ subject"),
        ("~ m", ["~ 0 + subject + cell_type"], FormulaError, "one formula for each"),
        ("~ m", ["patient"], FormulaError, "'patient'"),
        ("~ m", [3], FormulaError, "string"),
        (None, ["subject"], FormulaError, "string"),
    ],
)
def test_errors_of_groups(formula, random, error, words):
    with pytest.raises(error, match=words):
        group_design(GROUPS, formula, random)


def test_errors_of_cells():
    for formula in ("~ batch", "~ log(batch)", "~ scale(batch):m", "~ C(batch)"):
        with pytest.raises(FormulaError, match="no column 'batch'"):
            cell_design(CELLS, formula, ["subject"])
    holes = CELLS.assign(m=CELLS["m"].where(CELLS["m"] > 1), condition=CELLS["condition"])
    holes.loc[holes.index[:3], "condition"] = None
    missing = int(holes["m"].isna().sum())
    with pytest.raises(InputError, match=f"'m' has {missing} missing values in 300 cells"):
        cell_design(holes, "~ m", ["subject"])
    with pytest.raises(InputError, match="'condition' has 3 missing values"):
        cell_design(holes, "~ 1", ["condition"])
    assert cell_design(holes, "~ age", ["subject"]).X.shape[1] == 2  # unused columns may have holes


def test_random_terms_need_levels_and_replicates():
    with pytest.raises(DesignError, match="single level 'one'"):
        cell_design(CELLS.assign(subject="one"), "~ m", ["subject"])
    with pytest.raises(DesignError, match="300 levels for 300 cells"):
        cell_design(CELLS.assign(subject=CELLS.index), "~ m", ["subject"])
    lonely = CELLS.iloc[:30].assign(subject=CELLS.index[:30])
    groups, _, _ = make_groups(lonely, ["subject", "condition"], ())
    with pytest.raises(DesignError, match="every cell is its own level"):
        group_design(groups, "~ condition", ["subject"])
    with pytest.raises(DesignError, match="zero in every cell"):
        cell_design(CELLS.assign(m=0.0), "~ 1", ["0 + m || subject"])


def test_a_constant_covariate_cannot_be_scaled():
    groups, _, _ = make_groups(CELLS.assign(m=7.3), BY, ("m",))
    with pytest.raises(DesignError, match="constant over the cells"):
        group_design(groups, "~ scale(m)", ["subject"])


# --- covariates -------------------------------------------------------------------------------


def test_covariates():
    cells = CELLS.assign(**{"a b": CELLS["m"]})
    for expr, expected, columns in (
        ("libsize", cells["libsize"], ("libsize",)),
        ("percent.mito", cells["percent.mito"], ("percent.mito",)),
        ("`a b`:log( libsize )", cells["m"] * np.log(cells["libsize"]), ("a b", "libsize")),
        ("log1p(libsize / 1e4)", np.log1p(cells["libsize"] / 1e4), ("libsize",)),
        ("log2(libsize)", np.log2(cells["libsize"]), ("libsize",)),
        ("m:m", cells["m"] ** 2, ("m",)),
        ("flag", cells["flag"], ("flag",)),
    ):
        values = evaluate_covariate(expr, cells)
        assert values.dtype == np.float64 and values.shape == (len(cells),)
        np.testing.assert_array_equal(values, expected.to_numpy(float))
        assert covariate_columns(expr, cells.columns) == columns


@pytest.mark.parametrize(
    ("expr", "error", "words"),
    [
        ("log(zero)", InputError, r"`log\(zero\)` is not finite in 2 of 300 cells \(the first"),
        ("libsiz", InputError, "did you mean 'libsize'"),
        ("condition", InputError, "holds labels"),
        ("m:cell_type", InputError, "holds labels"),
        ("holes", InputError, "'holes' has 4 missing values"),
        ("scale(m)", FormulaError, "differ between files"),
        ("log(poly(m, 2))", FormulaError, "differ between files"),
        ("C(m)", FormulaError, "differ between files"),
        ("m + age", FormulaError, "a covariate is"),
        ("log(1)", FormulaError, "names no column"),
        ("log(10 ** 400 * m)", InputError, "not finite in 300"),
    ],
)
def test_covariate_errors(expr, error, words):
    zero, holes = CELLS["m"].clip(lower=1).to_numpy().copy(), CELLS["m"].to_numpy().copy()
    zero[[4, 7]], holes[:4] = 0, np.nan
    with pytest.raises(error, match=words):
        evaluate_covariate(expr, CELLS.assign(zero=zero, holes=holes))


# --- properties -------------------------------------------------------------------------------


def same_span(left: np.ndarray, right: np.ndarray) -> bool:
    rank = np.linalg.matrix_rank(left)
    both = np.linalg.matrix_rank(np.hstack([left, right]))
    return bool(rank == np.linalg.matrix_rank(right) == both)


@pytest.mark.parametrize("formula", FORMULAS)
def test_order_of_cells_does_not_matter(formula):
    order = np.random.default_rng(FORMULAS.index(formula)).permutation(len(CELLS))
    shuffled = cell_design(CELLS.iloc[order], formula, ["subject", "subject:cell_type"])
    plain = cell_design(CELLS, formula, ["subject", "subject:cell_type"])
    assert list(shuffled.X.columns) == list(plain.X.columns)
    np.testing.assert_allclose(shuffled.X.to_numpy(), plain.X.to_numpy()[order], atol=1e-9)
    assert list(shuffled.Z_levels) == list(plain.Z_levels)
    np.testing.assert_array_equal(shuffled.Z.toarray(), plain.Z.toarray()[order])


@given(st.permutations(["T, CD4+", "B cells", "CD14+ Monocytes"]))
@settings(max_examples=6, deadline=None)
def test_recoding_of_levels_spans_the_same_columns(levels):
    recoded = CELLS.assign(cell_type=CELLS["cell_type"].cat.reorder_categories(levels))
    for formula in ("~ cell_type * condition", "~ 0 + m + cell_type + cell_type:condition"):
        left, right = (cell_design(c, formula, ["subject"]).X for c in (CELLS, recoded))
        assert same_span(left.to_numpy(), right.to_numpy())
        assert f"cell_type[T.{levels[0]}]" not in right.columns


@given(st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_groups_of_any_cells(seed):
    cells = make_cells(seed, n=120)
    groups, codes, x = make_groups(cells)
    for formula in ("~ scale(log(libsize)) * cell_type + poly(age, 2)", "~ m * log(libsize)"):
        expected = cell_design(cells, formula, ["subject"]).X.to_numpy()
        found = expanded(group_design(groups, formula, ["subject"]).fixed, codes, x)
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)
