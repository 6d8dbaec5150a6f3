"""Sums over groups of normal cells against cells drawn one by one; numbers of cells; refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from flashmm.kernels.gaussian_groups import draw_group_sums, spread_cells
from flashmm.options import InputError
from flashmm.simulate import (
    GaussianSimulation,
    SimulationSpec,
    simulate_counts,
    simulate_gaussian_groups,
)

STANDARD_ERRORS = 4.5  # of a Monte Carlo mean: the seeds are fixed, so a pass stays a pass


def simulate(seed: int = 1, **changed: Any) -> GaussianSimulation:
    small = dict(
        distribution="gaussian",
        n_genes=4000,
        n_cells=160,
        n_subjects=8,
        n_cell_types=2,
        n_de_genes=0,
        cells_cv=1,
    )
    return simulate_gaussian_groups(SimulationSpec(**{**small, **changed}), seed)


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_sums_have_the_distribution_of_sums_over_cells(n):
    genes, mean, variance = 5000, 0.7, 2.5
    seed = np.random.SeedSequence(4)
    total, squares = draw_group_sums(
        seed, np.array([n]), np.full((1, genes), mean), np.full(genes, variance)
    )
    cells = np.random.default_rng(9).normal(mean, np.sqrt(variance), size=(n, genes))
    assert stats.ks_2samp(total[0], cells.sum(0)).pvalue > 1e-3
    assert stats.ks_2samp(squares[0], (cells**2).sum(0)).pvalue > 1e-3
    # jointly: the squares about the mean are independent of the mean, as Cochran's theorem says
    about, drawn = squares[0] - total[0] ** 2 / n, (cells**2).sum(0) - cells.sum(0) ** 2 / n
    if n == 1:
        np.testing.assert_allclose(about, 0, atol=1e-9)
    else:
        assert stats.ks_2samp(about, drawn).pvalue > 1e-3
        assert abs(np.corrcoef(about, total[0])[0, 1]) < STANDARD_ERRORS / np.sqrt(genes)


def test_covariance_of_the_means_is_that_of_the_model():
    sim = simulate(subject_variance=0.3, subject_cell_type_variance=0.1, residual_variance=2.0)
    obs, n = sim.groups.obs, sim.groups.obs["n_cells"].to_numpy()
    means = sim.groups.sum / n[:, None]
    found = means @ means.T / sim.groups.n_genes
    same = (obs["subject"].to_numpy()[:, None] == obs["subject"].to_numpy()).astype(float)
    expected = 0.3 * same + np.diag(0.1 + 2.0 / n)
    spread = np.diag(expected)
    error = np.sqrt((np.outer(spread, spread) + expected**2) / sim.groups.n_genes)
    assert (np.abs(found - expected) < STANDARD_ERRORS * error).all()


def test_a_gene_has_its_variances_multiplied():
    sim = simulate(variance_spread=0.5, subject_variance=0.3)
    log_factor = np.log(sim.variance_factor)
    assert log_factor.std() == pytest.approx(0.5, rel=0.05)
    same = simulate(subject_variance=0.3)
    ratio = sim.groups.sum / same.groups.sum
    np.testing.assert_allclose(ratio, np.broadcast_to(np.sqrt(sim.variance_factor), ratio.shape))


def test_a_gene_has_its_ratio_of_variances():
    sim = simulate(ratio_spread=0.6, subject_variance=0.3)
    factor = sim.var["ratio_factor"].to_numpy()
    assert np.log(factor).std() == pytest.approx(0.6, rel=0.05)
    n = sim.groups.obs["n_cells"].to_numpy()[:, None]
    # the effects grow with the factor, the cells about them do not
    same = simulate(subject_variance=0.3).groups
    within = [g.sumsq - g.sum**2 / n for g in (sim.groups, same)]
    np.testing.assert_allclose(*within, rtol=1e-8)
    quiet = simulate(subject_variance=0.0).groups.sum / n
    effect, before = (g.sum / n - quiet for g in (sim.groups, same))
    np.testing.assert_allclose(effect, before * np.sqrt(factor), atol=1e-9)


def test_effects_are_in_the_treated_groups_of_the_type():
    de = simulate(n_de_genes=400, min_log_fc=0.5, max_log_fc=1.5)
    null = simulate(n_de_genes=0)
    n = de.groups.obs["n_cells"].to_numpy()[:, None]
    change = pd.DataFrame((de.groups.sum - null.groups.sum) / n, columns=de.groups.genes)
    obs = de.groups.obs.reset_index(drop=True)
    for row in de.truth.itertuples():
        acts = (obs["cell_type"] == row.cell_type) & (obs["condition"] == de.treated)
        np.testing.assert_allclose(change[row.gene], row.log_fc * acts, atol=1e-9)
    assert not change.drop(columns=de.truth["gene"]).to_numpy().any()


def test_the_same_seed_gives_the_same_sums():
    one, two, other = simulate(3), simulate(3), simulate(4)
    np.testing.assert_array_equal(one.groups.sumsq, two.groups.sumsq)
    assert (one.groups.sumsq != other.groups.sumsq).all()


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0])
def test_numbers_of_cells_are_spread_as_asked(cv):
    numbers = spread_cells(np.random.default_rng(2), 40_000, 100, 4, cv)
    assert numbers.sum() == 40_000 and numbers.min() >= 1
    assert numbers.std() / numbers.mean() == pytest.approx(cv, rel=0.12, abs=1e-9)
    # each type has the same numbers, assigned to other subjects
    np.testing.assert_allclose(
        np.sort(numbers, axis=0), np.sort(numbers, axis=0)[:, [0]] @ np.ones((1, 4)), atol=2
    )
    assert cv == 0 or (np.argsort(numbers[:, 0]) != np.argsort(numbers[:, 1])).any()


def test_every_group_has_a_cell():
    assert (spread_cells(np.random.default_rng(1), 12, 6, 2, 3.0) == 1).all()
    numbers = spread_cells(np.random.default_rng(1), 40, 6, 2, 3.0)
    assert numbers.min() == 1 and numbers.sum() == 40


def test_counts_and_sums_have_the_same_cells():
    given = dict(n_cells=160, n_subjects=8, n_cell_types=2, n_de_genes=0, cells_cv=1, n_genes=3)
    counts = simulate_counts(SimulationSpec(**given), seed=5)
    numbers = counts.adata.obs.groupby(["subject", "cell_type", "condition"], observed=True).size()
    sim = simulate(5, n_genes=3)
    assert sim.groups.obs["n_cells"].tolist() == numbers.tolist()
    assert sim.groups.obs["subject"].tolist() == list(numbers.index.get_level_values(0))


@pytest.mark.parametrize("nested", [True, False])
def test_designs(nested):
    sim = simulate(nested=nested, n_cell_types=1, n_cells=400)
    conditions = sim.groups.obs.groupby("subject", observed=True)["condition"].nunique()
    assert (conditions == (1 if nested else 2)).all()
    assert sim.groups.n_cells == 400
    drawn = simulate(nested=nested, cells_cv=None)
    assert drawn.groups.n_cells == 160


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"distribution": "poisson"}, "distribution"),
        ({"distribution": "nb", "residual_variance": 2.0}, "residual_variance: it has no meaning"),
        ({"adjust_libsize": False}, "adjust_libsize: it has no meaning"),
        ({"reference": "counts.h5ad"}, "reference: it has no meaning"),
        ({"residual_variance": 0.0}, "residual_variance: a number above 0"),
        ({"variance_spread": -1.0}, "variance_spread"),
        ({"cells_cv": -0.1}, "cells_cv"),
        ({"cells_cv": "wide"}, "cells_cv"),
        ({"n_cells": 15}, "n_cells: 15 cells cannot give one to each of the 16 groups"),
        ({"n_de_genes": 4001}, "4001 DE genes asked for among 4000"),
    ],
)
def test_refusals(changed, said):
    with pytest.raises(InputError, match=said):
        simulate(**changed)


def test_cells_of_metadata_are_as_they_are():
    sheet = pd.DataFrame({"subject": ["a", "b"], "cell_type": "t", "condition": ["A", "B"]})
    with pytest.raises(InputError, match="cells_cv: metadata say"):
        SimulationSpec(metadata=sheet, cells_cv=1)


def test_each_distribution_has_its_simulator():
    with pytest.raises(InputError, match="'nb' expected, found 'gaussian'"):
        simulate_counts(SimulationSpec(distribution="gaussian"), seed=1)
    with pytest.raises(InputError, match="'gaussian' expected, found 'nb'"):
        simulate(distribution="nb")
