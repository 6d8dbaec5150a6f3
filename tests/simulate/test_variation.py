"""What makes simulations look like data: markers, types of a reference, depth, modules, spread."""

from __future__ import annotations

import inspect
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import sparse

from flashmm.kernels.negative_binomial import (
    draw_effects,
    draw_negative_binomial,
    reference_parameters,
    reference_parameters_by_type,
)
from flashmm.options import FlashmmWarning, InputError
from flashmm.simulate import (
    GaussianSimulation,
    Simulation,
    SimulationSpec,
    plan,
    simulate_counts,
    simulate_gaussian_groups,
)
from flashmm.simulate.plan import BLOCK_CELLS

ROOT = Path(__file__).resolve().parents[2]
STANDARD_ERRORS = 4.5  # of a Monte Carlo mean: the seeds are fixed, so a pass stays a pass

MARKERS = dict(marker_fraction=0.4, marker_log_fc=1.2, exclusive_markers=0.3)
ALL = MARKERS | dict(
    variance_spread=0.8,
    libsize_ratio=1.5,
    gene_correlation=0.4,
    nested=False,
    subject_condition_variance=0.05,
    subject_cell_type_variance=0.05,
)


def spec(**changed: Any) -> SimulationSpec:
    """A small design, changed as wanted."""
    small = dict(n_genes=40, n_cells=600, n_subjects=6, n_cell_types=3, n_de_genes=9)
    return SimulationSpec(**{**small, **changed})


def gaussian(seed: int = 1, **changed: Any) -> GaussianSimulation:
    small = dict(n_genes=4000, n_cells=160, n_subjects=8, n_cell_types=2, n_de_genes=0)
    wanted = SimulationSpec(distribution="gaussian", cells_cv=1, **{**small, **changed})
    return simulate_gaussian_groups(wanted, seed)


def dense(simulation: Simulation) -> np.ndarray:
    matrix = simulation.adata.X
    return (matrix if sparse.issparse(matrix) else matrix[:]).toarray().astype(float)


def type_means(simulation: Simulation) -> pd.DataFrame:
    """Mean count of each gene in each cell type: (types, genes)."""
    counts = pd.DataFrame(dense(simulation), columns=simulation.adata.var_names)
    return counts.groupby(simulation.adata.obs["cell_type"].to_numpy()).mean()


def marker_frame(simulation: Simulation) -> pd.DataFrame:
    """Whether each gene is a marker of each type: (types, genes)."""
    of = simulation.adata.var["marker_of"].astype(object)
    types = simulation.spec.cell_types
    return pd.DataFrame({gene: [kind == t for t in types] for gene, kind in of.items()}, types)


# --- markers --------------------------------------------------------------------------------------


def test_markers_have_the_mean_of_their_type() -> None:
    quiet = dict(n_cells=30_000, subject_variance=0, adjust_libsize=False, n_de_genes=0)
    simulation = simulate_counts(spec(n_genes=150, **MARKERS, **quiet), seed=11)
    var = simulation.adata.var
    is_marker = marker_frame(simulation).to_numpy()
    factor = np.where(is_marker, np.exp(1.2), 1.0) * ~(var["exclusive"].to_numpy() & ~is_marker)
    expected = var["mean"].to_numpy() * factor
    np.testing.assert_allclose(simulation.adata.varm["mean_by_type"].T, expected, rtol=1e-12)
    n = simulation.adata.obs["cell_type"].value_counts(sort=False).to_numpy()[:, None]
    variance = expected + expected**2 / var["dispersion"].to_numpy()
    difference = np.abs(type_means(simulation).to_numpy() - expected)
    assert (difference <= STANDARD_ERRORS * np.sqrt(variance / n)).all()
    # the variance of counts follows the mean of the type
    cells = simulation.adata.obs["cell_type"].to_numpy() == "type1"
    observed = dense(simulation)[cells].var(axis=0)
    shown = variance[0] > 0
    np.testing.assert_allclose(observed[shown], variance[0, shown], rtol=0.25)
    assert not observed[~shown].any() and (~shown).any()


def test_share_of_markers_and_of_exclusive_ones_and_their_types() -> None:
    n = 20_000
    simulation = gaussian(n_genes=n, n_cell_types=4, marker_fraction=0.3)
    by_type = simulation.var["marker_of"].value_counts()
    error = np.sqrt(0.3 * 0.7 / n)
    assert by_type.sum() / n == pytest.approx(0.3, abs=STANDARD_ERRORS * error)
    np.testing.assert_allclose(by_type / n, 0.075, atol=STANDARD_ERRORS * np.sqrt(0.075 / n))
    var = simulate_counts(spec(n_genes=5_000, n_cells=90, **MARKERS), seed=3).adata.var
    share = var["exclusive"].sum() / var["marker_of"].notna().sum()
    assert share == pytest.approx(0.3, abs=STANDARD_ERRORS * np.sqrt(0.21 / 2_000))
    assert not var["exclusive"][var["marker_of"].isna()].any()


def test_markers_change_nothing_of_the_truth() -> None:
    plain, marked = simulate_counts(spec(), 4), simulate_counts(spec(**MARKERS), 4)
    pd.testing.assert_frame_equal(plain.truth, marked.truth)
    pd.testing.assert_frame_equal(plain.adata.obs, marked.adata.obs)
    pd.testing.assert_frame_equal(plain.adata.var, marked.adata.var[plain.adata.var.columns])
    assert marked.adata.var["marker_of"].notna().sum() > 5
    assert "marker_of" not in plain.adata.var and not plain.adata.varm


def test_a_marker_is_the_same_in_all_conditions_and_de_acts_beside_it() -> None:
    fixed = dict(subject_variance=0, adjust_libsize=False, n_cells=40_000, nested=False)
    wanted = spec(n_genes=60, n_de_genes=30, min_log_fc=0.8, max_log_fc=0.8, **MARKERS, **fixed)
    simulation = simulate_counts(wanted, seed=5)
    obs, var = simulation.adata.obs, simulation.adata.var
    means = pd.DataFrame(dense(simulation), columns=var.index)
    means = means.groupby([obs["cell_type"].to_numpy(), obs["condition"].to_numpy()]).mean()
    base = pd.DataFrame(
        simulation.adata.varm["mean_by_type"].T, simulation.spec.cell_types, var.index
    )
    true = simulation.truth.set_index("gene")
    for kind in simulation.spec.cell_types:
        for gene in base.columns[base.loc[kind] > 0]:
            is_de = gene in true.index and true.loc[gene, "cell_type"] == kind
            effect = true.loc[gene, "log_fc"] if is_de else 0.0
            found = np.log(means.loc[(kind, "B"), gene] / means.loc[(kind, "A"), gene])
            size = min(var.loc[gene, "dispersion"], base.loc[kind, gene])
            low = base.loc[kind, gene] * np.exp(min(effect, 0))
            error = np.sqrt((1 / low + 1 / size + 1) * 2 / (40_000 / 6))
            assert found == pytest.approx(effect, abs=STANDARD_ERRORS * error), (kind, gene)


def test_de_genes_are_expressed_everywhere() -> None:
    wanted = spec(n_de_genes=30, marker_fraction=1.0, exclusive_markers=1.0)
    simulation = simulate_counts(wanted, seed=4)
    mean = simulation.adata.varm["mean_by_type"]
    assert (mean[-30:] > 0).all()
    assert ((mean[:-30] > 0).sum(axis=1) == 1).all()
    assert simulation.notes == ()


def test_means_by_type_are_those_of_types_with_cells() -> None:
    with pytest.warns(FlashmmWarning, match="no cell was drawn"):
        simulation = simulate_counts(
            spec(n_genes=200, n_cells=4, n_cell_types=9, n_de_genes=0, **MARKERS), seed=6
        )
    kinds = simulation.adata.obs["cell_type"].cat.categories
    mean = pd.DataFrame(simulation.adata.varm["mean_by_type"], simulation.adata.var_names, kinds)
    of = simulation.adata.var["marker_of"].dropna()
    of = of[of.isin(kinds)]
    assert len(of) > 3
    for gene, kind in of.items():
        rise = mean.loc[gene, kind] / simulation.adata.var.loc[gene, "mean"]
        assert rise == pytest.approx(np.exp(1.2))


# --- the same seeds -------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 5}, {"chunk_cells": 1}])
def test_threads_and_chunks_do_not_change_the_counts(options: dict[str, int]) -> None:
    wanted = spec(n_cells=4 * BLOCK_CELLS + 3, **ALL)
    one, other = simulate_counts(wanted, 4), simulate_counts(wanted, 4, **options)
    np.testing.assert_array_equal(dense(one), dense(other))


def test_effects_that_are_not_kept_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = dense(simulate_counts(spec(**ALL), 4))
    monkeypatch.setattr(plan, "KEPT_EFFECTS", 1)
    np.testing.assert_array_equal(dense(simulate_counts(spec(**ALL), 4)), expected)
    assert (dense(simulate_counts(spec(**ALL), 5)) != expected).any()


def test_null_genes_keep_their_counts_whatever_the_de_genes_do() -> None:
    null = simulate_counts(spec(**ALL | {"n_de_genes": 0}), 4)
    some = simulate_counts(spec(**ALL | {"n_de_genes": 9, "max_log_fc": 2.0}), 4)
    np.testing.assert_array_equal(dense(null)[:, :-9], dense(some)[:, :-9])
    assert (dense(null)[:, -9:] != dense(some)[:, -9:]).any()


@pytest.mark.parametrize(
    "changed",
    [
        {"marker_fraction": 0.4},
        {"variance_spread": 0.8},
        {"gene_correlation": 0.5},
        {"libsize_ratio": 2.0},
    ],
)
def test_one_trait_leaves_the_others_as_they_are(changed: dict[str, Any]) -> None:
    base = dict(variance_spread=0.3, gene_correlation=0.1, marker_fraction=0.2)
    one, other = (simulate_counts(spec(**{**base, **more}), 4).adata for more in ({}, changed))
    moved = {"marker_fraction": {"marker_of", "exclusive"}, "variance_spread": {"variance_factor"}}
    traits = {"marker_of", "exclusive", "variance_factor", "module", "mean", "dispersion"}
    kept = traits - moved.get(next(iter(changed)), set())
    pd.testing.assert_frame_equal(one.var[sorted(kept)], other.var[sorted(kept)])
    pd.testing.assert_series_equal(one.obs["subject"], other.obs["subject"])


def test_more_markers_keep_those_there_were() -> None:
    few, many = (gaussian(marker_fraction=share).var["marker_of"] for share in (0.1, 0.4))
    assert many[few.notna()].notna().all() and many.notna().sum() > 3 * few.notna().sum()


def test_a_file_holds_what_memory_holds(tmp_path: Path) -> None:
    memory = simulate_counts(spec(**ALL), 4)
    disk = simulate_counts(spec(**ALL), 4, path=tmp_path / "s.h5ad")
    np.testing.assert_array_equal(dense(memory), dense(disk))
    disk.adata.file.close()
    read = ad.read_h5ad(tmp_path / "s.h5ad")
    pd.testing.assert_frame_equal(read.var, memory.adata.var, check_index_type=False)
    np.testing.assert_array_equal(read.varm["mean_by_type"], memory.adata.varm["mean_by_type"])
    assert json.loads(read.uns["flashmm"]["spec"])["marker_fraction"] == 0.4


# --- variances and correlation --------------------------------------------------------------------


def test_variances_of_subjects_are_spread_over_genes() -> None:
    wanted = spec(n_genes=3_000, n_cells=90, subject_variance=0.2, variance_spread=0.7)
    drawn = plan.make_plan(wanted, 4)
    factor = drawn.var["variance_factor"].to_numpy()
    error = 0.7 / np.sqrt(2 * 3_000)
    assert np.log(factor).std() == pytest.approx(0.7, abs=STANDARD_ERRORS * error)
    assert np.log(factor).mean() == pytest.approx(0, abs=STANDARD_ERRORS * 0.7 / np.sqrt(3_000))
    ((effect, _),) = drawn.effects
    effects = np.array([effect(level) for level in range(400)])
    np.testing.assert_allclose(effects.var(axis=0) / factor, 0.2, rtol=0.4)
    assert (effects.var(axis=0) / factor).mean() == pytest.approx(0.2, rel=0.01)


def test_spread_variances_show_in_the_counts() -> None:
    loud = dict(reference=loud_reference(300), n_genes=300, n_subjects=40, n_cell_types=2)
    wanted = spec(n_cells=8_000, n_de_genes=0, adjust_libsize=False, variance_spread=1.0, **loud)
    simulation = simulate_counts(wanted, seed=7)
    subjects = pd.DataFrame(dense(simulation)).groupby(simulation.adata.obs["subject"].to_numpy())
    variance = np.log(subjects.mean()).var(axis=0, ddof=1)
    expected = 0.1 * simulation.adata.var["variance_factor"].to_numpy() + 0.5 / 200
    ratio = variance.to_numpy() / expected
    assert ratio.mean() == pytest.approx(1, abs=STANDARD_ERRORS * np.sqrt(2 / 39 / 300) + 0.02)
    assert np.corrcoef(np.log(variance), np.log(expected))[0, 1] > 0.9


def loud_reference(n_genes: int) -> ad.AnnData:
    """A reference of high means, so that the log of a mean over cells has little noise."""
    counts = draw_negative_binomial(
        np.random.default_rng(0), np.full((3_000, n_genes), 300.0), np.full(n_genes, 2.0)
    )
    return ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)))


def test_genes_of_a_module_are_correlated_and_others_are_not() -> None:
    module = np.arange(60) % 3
    effects = draw_effects(np.random.SeedSequence(2), np.arange(3_000), 60, 0.3, module, 0.4)
    assert effects.var() == pytest.approx(0.3, rel=0.02)
    found = np.corrcoef(effects.T)
    same = module[:, None] == module
    off = ~np.eye(60, dtype=bool)
    error = STANDARD_ERRORS / np.sqrt(3_000)
    assert np.abs(found[same & off] - 0.4).max() < error
    assert np.abs(found[~same]).max() < error
    assert found[~same].mean() == pytest.approx(0, abs=0.01)


def test_effects_of_a_level_and_gene_do_not_depend_on_their_company() -> None:
    root, module = np.random.SeedSequence(1), np.array([0, 2, 1, 0, 2, 1, 0])
    together = draw_effects(root, np.arange(5), 7, 0.5, module, 0.3)
    few = draw_effects(root, np.array([3, 1]), 4, 0.5, module[:4], 0.3)
    np.testing.assert_array_equal(few, together[[3, 1], :4])
    alone = draw_effects(root, np.arange(5), 7, 0.5)
    np.testing.assert_array_equal(draw_effects(root, np.arange(5), 7, 0.5, module, 0.0), alone)


def test_the_correlation_shows_in_the_counts() -> None:
    loud = dict(reference=loud_reference(60), n_genes=60, n_subjects=120, n_cell_types=1)
    wanted = spec(
        n_cells=12_000, n_de_genes=0, adjust_libsize=False, gene_correlation=0.8,
        gene_modules=3, subject_variance=0.3, **loud,
    )  # fmt: skip
    simulation = simulate_counts(wanted, seed=7)
    subjects = pd.DataFrame(dense(simulation)).groupby(simulation.adata.obs["subject"].to_numpy())
    found = np.corrcoef(np.log(subjects.mean()).T)
    module = simulation.adata.var["module"].to_numpy()
    same, off = module[:, None] == module, ~np.eye(60, dtype=bool)
    noise = 0.5 / 100  # of a log mean: 1 / size over the 100 cells of a subject
    assert found[same & off].mean() == pytest.approx(0.8 * 0.3 / (0.3 + noise), abs=0.05)
    # few modules: the mean over pairs of three of them is that of three correlations
    assert found[~same].mean() == pytest.approx(0, abs=STANDARD_ERRORS * 0.8 / np.sqrt(3 * 120))


def test_subjects_have_effects_of_their_own_in_each_condition() -> None:
    common = dict(nested=False, n_cell_types=2, subject_variance=0.0)
    wanted = spec(
        reference=loud_reference(200), n_genes=200, n_cells=8_000, n_subjects=20, n_de_genes=0,
        adjust_libsize=False, subject_condition_variance=0.3, **common,
    )  # fmt: skip
    simulation = simulate_counts(wanted, seed=7)
    obs = simulation.adata.obs
    relative = pd.DataFrame(dense(simulation) / simulation.adata.var["mean"].to_numpy())
    keys = [obs[name].to_numpy() for name in ("subject", "condition", "cell_type")]
    effects = np.log(relative.groupby(keys).mean())
    first, second = (effects.xs(name, level=2) for name in ("type1", "type2"))
    error = 0.3 * np.sqrt(2 / (40 * 200))
    together = ((first - first.mean()) * (second - second.mean())).sum() / 39
    assert together.mean() == pytest.approx(0.3, abs=STANDARD_ERRORS * error)  # in both types
    a, b = (effects.xs(name, level=1) for name in ("A", "B"))
    apart = np.mean((a - a.mean()) * (b - b.mean()))
    assert apart == pytest.approx(0, abs=STANDARD_ERRORS * 0.3 / np.sqrt(20 * 200))


# --- depth ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.5, 3.0])
def test_depth_differs_by_condition(ratio: float) -> None:
    base = dict(n_cells=6_000, subject_variance=0, n_de_genes=0)
    plain = simulate_counts(spec(**base), 4)
    simulation = simulate_counts(spec(libsize_ratio=ratio, **base), 4)
    obs = simulation.adata.obs
    factor = obs["libsize"] / plain.adata.obs["libsize"]
    factor = factor.groupby(obs["condition"], observed=True).agg(["min", "max"])
    np.testing.assert_allclose(factor["min"], factor["max"])
    assert factor["min"]["B"] / factor["min"]["A"] == pytest.approx(ratio)
    assert np.log(obs["libsize"]).mean() == pytest.approx(np.log(plain.adata.obs["libsize"]).mean())
    total = pd.Series(dense(simulation).sum(axis=1), obs.index)
    treated = obs["condition"] == "B"
    found = total[treated].mean() / total[~treated].mean()
    relative_error = np.sqrt(2 / 3_000 * (total[treated].var() / total[treated].mean() ** 2))
    assert found == pytest.approx(ratio, rel=STANDARD_ERRORS * relative_error)


def test_depth_differs_by_condition_with_a_reference() -> None:
    reference = typed_reference()
    obs = simulate_counts(spec(reference=reference, libsize_ratio=2.0), 4).adata.obs
    plain = simulate_counts(spec(reference=reference), 4).adata.obs
    ratio = (obs["libsize"] / plain["libsize"]).groupby(obs["condition"], observed=True).mean()
    assert ratio["B"] / ratio["A"] == pytest.approx(2.0)


# --- types of a reference -------------------------------------------------------------------------

DEPTH = {"B": 1.0, "mono": 2.0, "T": 0.5}
NUMBERS = {"B": 700, "mono": 300, "T": 500}


def typed_reference(n_genes: int = 30) -> ad.AnnData:
    """Counts of three types with means and depths of their own; gene 0 is in one of them only."""
    rng = np.random.default_rng(3)
    kind = np.repeat(list(NUMBERS), list(NUMBERS.values()))
    share = pd.DataFrame({name: rng.lognormal(0.5, 0.6, n_genes) for name in NUMBERS}).T
    share.loc[["B", "T"], 0] = 0.0
    depth = rng.lognormal(0, 0.3, len(kind)) * pd.Series(kind).map(DEPTH).to_numpy()
    mean = share.loc[kind].to_numpy() * depth[:, None]
    counts = draw_negative_binomial(rng, mean, np.full(n_genes, 2.0))
    return ad.AnnData(
        sparse.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame({"kind": kind}, index=[f"c{i}" for i in range(len(kind))]),
        var=pd.DataFrame(index=[f"ref{i}" for i in range(n_genes)]),
    )


def test_parameters_by_type_are_moments_within_types() -> None:
    reference = typed_reference()
    counts, kind = reference.X.toarray().astype(float), reference.obs["kind"].to_numpy()
    parts = [counts[kind == name] for name in NUMBERS]
    n = np.array([len(part) for part in parts])
    total, squares = (np.array([(p**k).sum(axis=0) for p in parts]) for k in (1, 2))
    mean, size = reference_parameters_by_type(n, total, squares)
    np.testing.assert_allclose(mean, [part.mean(axis=0) for part in parts], rtol=1e-13)
    above = sum((len(p) - 1) * p.mean(axis=0) ** 2 for p in parts)
    below = sum((len(p) - 1) * (p.var(axis=0, ddof=1) - p.mean(axis=0)) for p in parts)
    np.testing.assert_allclose(size, above / below, rtol=1e-10)
    one = reference_parameters_by_type(n[:1], total[:1], squares[:1])
    kept = total[0] > 0
    alone = reference_parameters(n[0], total[0], squares[0])
    for ours, theirs in zip((one[0][0], one[1]), alone, strict=True):
        np.testing.assert_allclose(ours[kept], theirs[kept], rtol=1e-12)
    assert np.isnan(one[1][~kept]).all() and (~kept).any()


def test_types_take_means_and_depths_of_the_reference() -> None:
    reference = typed_reference()
    wanted = spec(
        reference=reference, reference_cell_type="kind", n_genes=None, n_cells=30_000,
        subject_variance=0, n_de_genes=0,
    )  # fmt: skip
    simulation = simulate_counts(wanted, seed=3)
    made = json.loads(simulation.adata.uns["flashmm"]["provenance"])
    # drawn types are those with most cells
    types = {"type1": "B", "type2": "T", "type3": "mono"}
    assert made["reference_cell_types"] == types
    counts, kind = reference.X.toarray().astype(float), reference.obs["kind"].to_numpy()
    total = counts.sum(axis=1)
    obs = simulation.adata.obs
    for place, (ours, theirs) in enumerate(types.items()):
        own = counts[kind == theirs]
        expected = own.sum(axis=0) / own.sum() * total.mean()
        np.testing.assert_allclose(simulation.adata.varm["mean_by_type"][:, place], expected)
        libsize = obs["libsize"][obs["cell_type"] == ours]
        assert set(libsize) <= set(own.sum(axis=1))
        # shares of the counts are those of the reference: depth drops out
        drawn = dense(simulation)[(obs["cell_type"] == ours).to_numpy()]
        share, target = drawn.sum(axis=0) / drawn.sum(), own.sum(axis=0) / own.sum()
        np.testing.assert_allclose(share, target, rtol=0.15, atol=1e-12)
        assert drawn.sum() / len(drawn) == pytest.approx(
            libsize.mean() / np.exp(np.log(obs["libsize"]).mean()) * total.mean(), rel=0.03
        )


def test_types_of_metadata_are_found_by_name() -> None:
    reference = typed_reference()
    cells = pd.DataFrame(
        {
            "subject": [f"s{i % 6}" for i in range(300)],
            "cell_type": ["T", "mono"] * 150,
            "condition": ["ctrl", "stim", "stim"] * 100,
        },
        index=[f"cell{i}" for i in range(300)],
    )
    wanted = spec(reference=reference, reference_cell_type="kind", metadata=cells, n_cells=None)
    simulation = simulate_counts(wanted, seed=3)
    names = simulation.adata.var["reference_gene"]
    mean = pd.DataFrame(
        simulation.adata.varm["mean_by_type"],
        simulation.adata.var_names,
        simulation.adata.obs["cell_type"].cat.categories,
    )
    here = mean[(names == "ref0").to_numpy()]
    assert len(here) and (here["T"] == 0).all() and (here["mono"] > 0).all()
    assert not dense(simulation)[:, (names == "ref0").to_numpy()][cells["cell_type"] == "T"].any()
    with pytest.raises(InputError, match=r"^reference: .*no cell type 'NK' of the metadata"):
        other = cells.assign(cell_type=["T", "NK"] * 150)
        simulate_counts(
            spec(reference=reference, reference_cell_type="kind", metadata=other, n_cells=None), 3
        )


def test_without_the_column_types_are_alike() -> None:
    reference = typed_reference()
    plain = reference.copy()
    plain.obs = plain.obs.drop(columns="kind")
    one, other = (simulate_counts(spec(reference=given), 4) for given in (reference, plain))
    np.testing.assert_array_equal(dense(one), dense(other))
    assert not one.adata.varm


def test_de_genes_that_a_type_does_not_express_are_counted(tmp_path: Path) -> None:
    reference = typed_reference()
    counts = reference.X.toarray()
    counts[reference.obs["kind"] == "B", 20:] = 0
    reference.X = sparse.csr_matrix(counts)
    reference.write_h5ad(tmp_path / "reference.h5ad")
    wanted = spec(
        reference=tmp_path / "reference.h5ad", reference_cell_type="kind", n_genes=None,
        n_de_genes=None, n_de_by_type={"type1": 6, "type2": 2},
    )  # fmt: skip
    with pytest.warns(FlashmmWarning) as caught:
        simulation = simulate_counts(wanted, seed=4)
    # eight DE genes, the last ones: six of B, in which the last ten have no counts
    (said,) = simulation.notes
    assert said == str(caught[0].message)
    assert "6 of 8 DE genes have no counts in their cell type" in said


def test_markers_act_on_a_reference_too() -> None:
    reference = typed_reference()
    wanted = spec(reference=reference, reference_cell_type="kind", marker_fraction=0.5)
    plain = spec(reference=reference, reference_cell_type="kind")
    marked, without = (simulate_counts(s, 4).adata for s in (wanted, plain))
    before = without.varm["mean_by_type"]
    ratio = marked.varm["mean_by_type"] / np.where(before, before, 1)
    ratio = pd.DataFrame(ratio, columns=wanted.cell_types)
    for row, of in enumerate(marked.var["marker_of"]):
        for kind in wanted.cell_types:
            up = np.exp(1.5) if of == kind else 1.0
            assert ratio.loc[row, kind] in (0.0, pytest.approx(up))


# --- Gaussian values ------------------------------------------------------------------------------


def test_gaussian_markers_have_means_and_variances_of_their_type() -> None:
    changed = dict(subject_variance=0.3, residual_variance=2.0, subject_cell_type_variance=0.1)
    marked = gaussian(
        marker_fraction=0.5, marker_log_fc=1.2, marker_variance_ratio=4.0,
        variance_spread=0.5, **changed,
    )  # fmt: skip
    plain = gaussian(variance_spread=0.5, **changed)
    obs = plain.groups.obs.reset_index(drop=True)
    n = obs["n_cells"].to_numpy()[:, None]
    up = obs["cell_type"].to_numpy()[:, None] == marked.var["marker_of"].to_numpy(object)
    # the same random numbers: deviations are twice as large in the type of the marker
    mean, before = marked.groups.sum / n, plain.groups.sum / n
    np.testing.assert_allclose(mean, np.where(up, 1.2 + 2 * before, before), atol=1e-9)
    about = marked.groups.sumsq - n * mean**2
    about_before = plain.groups.sumsq - n * before**2
    np.testing.assert_allclose(about, np.where(up, 4, 1) * about_before, rtol=1e-6, atol=1e-6)
    assert up.any(axis=0).mean() == pytest.approx(0.5, abs=0.04)
    np.testing.assert_array_equal(marked.variance_factor, plain.variance_factor)
    assert marked.truth.equals(plain.truth)


def test_one_variance_for_all_types_is_wrong_for_gaussian_markers() -> None:
    wanted = dict(marker_fraction=0.5, marker_variance_ratio=6.0, n_cells=4_000)
    sim = gaussian(**wanted)
    obs = sim.groups.obs.reset_index(drop=True)
    n = obs["n_cells"].to_numpy()[:, None]
    within = sim.groups.sumsq - sim.groups.sum**2 / n
    for kind in ("type1", "type2"):
        rows = (obs["cell_type"] == kind).to_numpy()
        variance = within[rows].sum(axis=0) / (n[rows] - 1).sum()
        is_marker = (sim.var["marker_of"] == kind).to_numpy()
        assert variance[is_marker].mean() == pytest.approx(6, rel=0.01)
        assert variance[~is_marker].mean() == pytest.approx(1, rel=0.01)


def test_gaussian_effects_of_conditions_and_modules() -> None:
    sim = gaussian(
        n_cells=4_000, n_subjects=4, nested=False, subject_variance=0.2,
        subject_condition_variance=0.3, residual_variance=0.5,
    )  # fmt: skip
    obs, n = sim.groups.obs, sim.groups.obs["n_cells"].to_numpy()
    means = sim.groups.sum / n[:, None]
    same = {name: obs[name].to_numpy()[:, None] == obs[name].to_numpy() for name in sim.groups.by}
    expected = 0.2 * same["subject"] + 0.3 * (same["subject"] & same["condition"])
    expected = expected + np.diag(0.5 / n)
    spread = np.diag(expected)
    error = np.sqrt((np.outer(spread, spread) + expected**2) / sim.groups.n_genes)
    found = means @ means.T / sim.groups.n_genes
    assert (np.abs(found - expected) < STANDARD_ERRORS * error).all()


def test_gaussian_genes_of_a_module_go_together() -> None:
    sim = gaussian(
        n_genes=300, n_cells=6_000, n_subjects=1_000, n_cell_types=1, subject_variance=1.0,
        residual_variance=0.01, gene_correlation=0.6, gene_modules=4,
    )  # fmt: skip
    found = np.corrcoef((sim.groups.sum / sim.groups.obs["n_cells"].to_numpy()[:, None]).T)
    module = sim.var["module"].to_numpy()
    assert set(module) == {0, 1, 2, 3}
    same, off = module[:, None] == module, ~np.eye(300, dtype=bool)
    assert found[same & off].mean() == pytest.approx(0.6, abs=0.03)
    assert found[~same].mean() == pytest.approx(0, abs=0.05)


# --- refusals -------------------------------------------------------------------------------------

INVALID: list[tuple[dict[str, Any], str]] = [
    ({"marker_fraction": 1.1}, "marker_fraction: a number from 0 to 1"),
    ({"marker_fraction": "some"}, "marker_fraction"),
    ({"marker_fraction": 0.2, "n_cell_types": 1}, "two cell types or more"),
    ({"marker_fraction": 0.2, "marker_log_fc": -1.0}, "marker_log_fc: a finite number of at least"),
    ({"exclusive_markers": 0.5}, "there are no markers"),
    ({"marker_fraction": 0.2, "exclusive_markers": -0.5}, "exclusive_markers: a number from 0"),
    ({"marker_fraction": 0.2, "marker_variance_ratio": 2.0}, "no meaning for the distribution nb"),
    ({"variance_spread": np.nan}, "variance_spread"),
    ({"gene_correlation": 1.5}, "gene_correlation: a number from 0 to 1"),
    ({"gene_modules": 0}, "gene_modules: a whole number of at least 1"),
    ({"libsize_ratio": 0.0}, "libsize_ratio: a finite number above 0"),
    ({"libsize_ratio": 2.0, "adjust_libsize": False}, "adjust_libsize=False"),
    ({"libsize_ratio": 2.0, "n_conditions": 1, "n_de_genes": 0}, "condition 'A'"),
    ({"subject_condition_variance": 0.1}, "set nested=False"),
    ({"subject_condition_variance": -0.1, "nested": False}, "subject_condition_variance: a finite"),
    ({"reference_cell_type": "kind"}, "there is no reference"),
    ({"reference_cell_type": 3, "reference": "a.h5ad"}, "the name of a column expected, found 3"),
]


@pytest.mark.parametrize(("changed", "said"), INVALID)
def test_an_invalid_spec_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        spec(**changed)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"exclusive_markers": 0.5, "marker_fraction": 0.1},
            "exclusive_markers: it has no meaning",
        ),
        ({"libsize_ratio": 2.0}, "libsize_ratio: it has no meaning"),
        ({"reference_cell_type": "kind"}, "reference_cell_type: it has no meaning"),
        ({"marker_variance_ratio": 2.0}, "there are no markers"),
        ({"marker_variance_ratio": 0.0, "marker_fraction": 0.1}, "marker_variance_ratio: a finite"),
    ],
)
def test_an_invalid_gaussian_spec_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        gaussian(**changed)


def test_metadata_with_library_sizes_have_no_ratio() -> None:
    cells = pd.DataFrame(
        {"subject": ["a", "b"], "cell_type": "t", "condition": ["A", "B"], "libsize": [9.0, 8.0]}
    )
    with pytest.raises(InputError, match="metadata give the library size"):
        SimulationSpec(metadata=cells, libsize_ratio=2.0)


def test_types_that_a_reference_cannot_serve_are_refused() -> None:
    reference = typed_reference()
    rare, empty, gap = (reference.copy() for _ in range(3))
    rare.obs["kind"] = ["T", *["B"] * 1499]
    empty.X = sparse.csr_matrix(empty.X.multiply((empty.obs["kind"] != "mono").to_numpy()[:, None]))
    gap.obs["kind"] = [None, *gap.obs["kind"][1:]]
    for given, changed, said in [
        (reference, {"n_cell_types": 4}, "3 cell types for n_cell_types=4"),
        (reference, {"reference_cell_type": "type"}, "no column 'type' in obs"),
        (rare, {"n_cell_types": 2}, "cell type 'T' has 1 cells"),
        (empty, {}, "'mono' has 300 cells with 0 counts"),
        (gap, {}, "1 missing values"),
    ]:
        asked = {"reference": given, "reference_cell_type": "kind"} | changed
        with pytest.raises(InputError, match=f"^reference: .*{said}"):
            simulate_counts(spec(**asked), seed=4)


# --- the fields are listed ------------------------------------------------------------------------


def test_the_sheet_of_scenarios_has_the_fields_of_the_spec() -> None:
    names = {field.name for field in fields(SimulationSpec)}
    schema = yaml.safe_load((ROOT / "workflow/schemas/scenarios.schema.yaml").read_text())
    assert set(schema["properties"]) == names | {"name"}
    section = (ROOT / "config/README.md").read_text().split("## Scenarios")[1].split("\n##")[0]
    listed = {cell for line in section.splitlines() for cell in line.split("|")[1:2]}
    assert {name for cell in listed for name in cell.split("`")[1::2]} == names | {"name"}
    described = inspect.getdoc(SimulationSpec).split("Attributes")[1].split("Raises")[0]
    heads = [line for line in described.splitlines() if not line.startswith(" ") and " : " in line]
    found = {name.strip() for head in heads for name in head.split(" : ")[0].split(",")}
    assert names <= found
