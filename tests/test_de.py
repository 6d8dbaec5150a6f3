"""The whole path in one call equals its steps."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import flashmm as fm
from flashmm.de import split_columns
from flashmm.design.columns import cell_design

FORMULA = "~ 0 + log(libsize) + cell_type + cell_type:condition"


@pytest.fixture(scope="module")
def simulation():
    spec = fm.SimulationSpec(n_genes=40, n_cells=600, n_subjects=8, n_cell_types=2, n_de_genes=4)
    return fm.simulate_counts(spec, seed=4)


def test_equals_the_steps(simulation):
    table = fm.de(simulation.adata, f"{FORMULA} + (1|subject) + (1|subject:cell_type)", "condition")
    groups = fm.summarise(
        simulation.adata, by=["subject", "cell_type", "condition"], covariates=["log(libsize)"]
    )
    stats = fm.summary_statistics(groups, FORMULA, ["subject", "subject:cell_type"])
    steps = fm.contrast_tests(fm.fit_lmm(stats), "condition")
    pd.testing.assert_frame_equal(table.to_frame(), steps.to_frame())
    assert len(table.contrasts) == 2


def test_options_are_passed_on(simulation):
    table = fm.de(
        simulation.adata,
        "~ condition",
        random=["subject"],
        transform="log1p",
        method="ML",
        ddf="residual",
        alternative="greater",
        level=0.9,
        lfc=0.1,
        moderate=True,
    )
    assert (table.ddf, table.alternative) == ("residual", "greater")
    assert (table.level, table.lfc) == (0.9, 0.1) and np.isfinite(table.prior_variance).all()
    assert (table.df[np.isfinite(table.df)] >= 598).all()  # moderated: prior df are added


@pytest.mark.parametrize(
    "formula, by, covariates",
    [
        ("~ a + (1|s)", ["s", "a"], []),
        ("~ age + log(x) + (1|s)", ["s", "age"], ["log(x)"]),
        ("~ scale(log(x)) + scale(age) + (1|s)", ["s", "age"], ["log(x)"]),
        ("~ a:x + x + (1|s) + (0 + x || s:a)", ["s", "a"], ["x"]),
        ("~ log(libsize):x + (1|s)", ["s"], ["log(libsize):x"]),
    ],
)
def test_columns_are_split_by_what_varies_within_subjects(formula, by, covariates):
    obs = pd.DataFrame(
        {
            "s": list("aabbcc"),
            "a": list("uvuvuv"),
            "age": [30, 30, 40, 40, 50, 50],
            "x": np.arange(1.0, 7.0),
        }
    )
    found = split_columns(obs, formula)
    assert (sorted(found[0]), found[1]) == (sorted(by), covariates)


@pytest.mark.parametrize("values", [[0, 1], [0.0, 1.0], [0, 1, 2]])
@pytest.mark.parametrize("random", ["(1|s)", "(1|lane) + (1|s)", "(1|s:visit)"])
def test_few_numbers_that_many_cells_share_define_groups(values, random):
    """Visits as numbers define groups as their names do; a number of each cell does not."""
    visit = np.tile(np.repeat(np.arange(len(values)), 30), 4)
    obs = pd.DataFrame({"s": np.repeat(list("abcd"), 30 * len(values))})
    obs["visit"] = [f"v{i}" for i in visit]
    obs["time"] = np.array(values)[visit]
    obs["lane"] = [f"L{i % 3}" for i in range(len(obs))]
    obs["x"] = np.arange(len(obs)) % 29
    by, covariates = split_columns(obs, f"~ time + x + {random}")
    assert "time" in by and "x" not in by and covariates == ["x"]


@pytest.mark.parametrize("term", ["bs(pt, df=4)", "cr(pt, df=3)", "poly(pt, 2)", "C(pt)"])
def test_numbers_in_splines_define_groups(term):
    """Rounded pseudotime does, which many cells share; that of each cell cannot."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"s": np.repeat(list("abcd"), 100), "pt": rng.random(400)})
    by, covariates = split_columns(obs.round(1), f"~ {term} + (1|s)")
    assert by == ["s", "pt"] and covariates == []
    with pytest.raises(fm.FormulaError, match=r"round it, such as obs\['pt'\].round\(1\)"):
        split_columns(obs, f"~ {term} + (1|s)")
    assert split_columns(obs, "~ scale(pt) + (1|s)")[1] == ["pt"]


@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
def test_a_spline_of_rounded_numbers_is_that_of_the_cells():
    rng = np.random.default_rng(1)
    obs = pd.DataFrame({"s": np.repeat(list("abcdef"), 60), "pt": rng.random(360).round(1)})
    obs.index = obs.index.astype(str)
    adata = ad.AnnData(rng.normal(size=(360, 3)), obs=obs)
    formula = "~ bs(pt, df=4) + (1|s)"
    table = fm.de(adata, formula, {"any": ["pt"]}, transform="none", progress=False)
    design = cell_design(obs, "~ bs(pt, df=4)", ["s"])
    stats = fm.summary_statistics_from_matrices(adata.X, design.X, design.Z, design.component_sizes)
    names = [name for name in design.X.columns if name.startswith("bs")]
    cells = fm.contrast_tests(fm.fit_lmm(stats), {"any": names})
    np.testing.assert_allclose(table.p_value, cells.p_value, rtol=1e-6)
    assert (table.df_num == 4).all()


@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
def test_within_equals_the_steps(simulation, tmp_path):
    path = tmp_path / "cells.h5ad"
    simulation.adata.write_h5ad(path)
    formula = "~ log(libsize) + condition"
    table = fm.de(path, f"{formula} + (1|subject)", "condition", within="cell_type")
    groups = fm.summarise(
        path, by=["subject", "condition", "cell_type"], covariates=["log(libsize)"]
    )
    steps = fm.contrast_tests(fm.fit_within(groups, "cell_type", formula, ["subject"]), "condition")
    pd.testing.assert_frame_equal(table.to_frame(), steps.to_frame())
    assert table.to_frame()["cell_type"].nunique() == 2


@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
def test_a_condition_within_subjects_gets_a_term_of_its_own():
    spec = fm.SimulationSpec(
        n_genes=60, n_cells=1200, n_subjects=6, n_cell_types=2, nested=False, n_de_genes=0
    )
    cells = fm.simulate_counts(spec, seed=2).adata
    formula = "~ log(libsize) + condition + (1|subject)"
    table = fm.de(cells, formula, "condition", within="cell_type")
    written = fm.de(cells, f"{formula} + (1|subject:condition)", "condition", within="cell_type")
    np.testing.assert_allclose(table.p_value, written.p_value, rtol=1e-9)
    assert any("'subject:condition' was added" in text for text in table.notes)


def test_several_files_are_one_study(simulation, tmp_path):
    halves = [simulation.adata[::2].copy(), simulation.adata[1::2].copy()]
    paths = [tmp_path / f"{i}.h5ad" for i in range(2)]
    for half, path in zip(halves, paths, strict=True):
        half.write_h5ad(path)
    formula = "~ log(libsize) + condition + (1|subject)"
    whole = fm.de(simulation.adata, formula, "condition")
    parts = fm.de(paths, formula, "condition")
    np.testing.assert_allclose(parts.p_value, whole.p_value, rtol=1e-7)


@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
def test_options_of_the_summary_are_taken(simulation):
    cells = simulation.adata.copy()
    cells.layers["raw"] = cells.X.copy()
    cells.obs.loc[cells.obs_names[0], "condition"] = np.nan
    formula = "~ log(libsize) + condition + (1|subject)"
    with pytest.raises(fm.InputError, match="condition"):
        fm.de(cells, formula, "condition")
    table = fm.de(cells, formula, "condition", missing="drop", layer="raw", chunk_nnz=5000)
    assert np.isfinite(table.p_value).any()


def test_the_reference_is_chosen(simulation):
    formula = "~ log(libsize) + condition + (1|subject)"
    one = fm.de(simulation.adata, formula, "condition")
    other = fm.de(simulation.adata, formula, "condition", reference={"condition": "B"})
    np.testing.assert_allclose(one.estimate, -other.estimate, rtol=1e-6, atol=1e-9)
