"""Simulate the sums over groups of normal values, from which mixed models are fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from flashmm.cells.groups import N_CELLS, GroupStatistics, group_rows
from flashmm.kernels.gaussian_groups import draw_group_sums
from flashmm.kernels.negative_binomial import Floats, draw_effects, stream
from flashmm.simulate.genes import DEFAULT_GENES
from flashmm.simulate.seeds import Seed, Streams
from flashmm.simulate.sheet import sheet_of_cells
from flashmm.simulate.spec import SimulationSpec, require_distribution
from flashmm.simulate.truth import check_de_genes, design_notes, draw_truth
from flashmm.simulate.values import GROUPINGS, labels, plain
from flashmm.storage.files import package_version


@dataclass(frozen=True, eq=False)
class GaussianSimulation:
    """Simulated sums over groups of normal values, and what is true about them.

    Attributes
    ----------
    groups : GroupStatistics
        Groups of `subject`, `cell_type`, `condition`; no covariates, no counts.
    truth : DataFrame
        `gene`, `cell_type`, `log_fc` of the DE pairs; every other pair is null. `log_fc` is the
        difference in the unit of the values, that of the estimates of a fit.
    variance_factor : (genes,) array
        What each gene's variances are multiplied by; ones where `variance_spread` is zero.
    treated : str
        The condition in which the effects act.
    spec : SimulationSpec
    seed : int or sequence of int or SeedSequence
    notes : tuple of str
        What was decided on the way.
    """

    groups: GroupStatistics
    truth: pd.DataFrame
    variance_factor: Floats
    treated: str
    spec: SimulationSpec
    seed: Seed
    notes: tuple[str, ...] = ()


def simulate_gaussian_groups(spec: SimulationSpec, seed: Seed) -> GaussianSimulation:
    """Simulate normal values of cells as the sums over groups that a mixed model is fitted from.

    For gene g in a cell of subject s and cell type t,

        y = a_sg + b_stg + log_fc_gt · treated + e,

    a ~ N(0, f_g · subject_variance), b ~ N(0, f_g · subject_cell_type_variance), e ~ N(0, f_g ·
    residual_variance). With n cells in a group of mean μ, its sums are drawn by themselves: the
    mean of the cells is N(μ, σ²/n), the sum of squares about it is σ² χ²(n − 1), and the two are
    independent (Cochran 1934). Their joint distribution is that of sums over cells drawn one by
    one, at the cost of two numbers per group and gene.

    Parameters
    ----------
    spec : SimulationSpec
        With ``distribution="gaussian"``.
    seed : int, sequence of int, or numpy.random.SeedSequence
        The same spec and seed give the same sums.

    Returns
    -------
    GaussianSimulation

    Raises
    ------
    InputError
        The seed, another distribution, or more DE genes than genes.
    """
    require_distribution(spec, "gaussian", "simulate_counts")
    streams = Streams.from_seed(seed)
    n_genes = DEFAULT_GENES if spec.n_genes is None else spec.n_genes
    check_de_genes(spec, n_genes)
    genes = pd.Index(labels("gene", n_genes))
    cells = sheet_of_cells(spec, None, streams.cells)
    codes, obs = group_rows(cells[list(GROUPINGS)])
    n_cells = np.bincount(codes, minlength=len(obs))
    truth = draw_truth(spec, genes, streams.de)
    factor = np.exp(spec.variance_spread * stream(streams.genes, 0).standard_normal(n_genes))
    mean = _group_means(spec, streams, obs, truth, factor)
    total, squares = draw_group_sums(streams.counts, n_cells, mean, spec.residual_variance * factor)
    notes = design_notes(cells, truth, (cells["condition"] == spec.treated_condition).to_numpy())
    made = {"spec": spec.describe(), "seed": plain(seed)}
    return GaussianSimulation(
        groups=GroupStatistics(
            obs=obs.assign(**{N_CELLS: n_cells}),
            genes=genes,
            sum=total,
            sumsq=squares,
            covariate_sums={},
            counts=None,
            by=GROUPINGS,
            covariates=(),
            transform="none",
            provenance={"flashmm": package_version(), "simulation": made, "inputs": []},
            notes=notes,
        ),
        truth=truth,
        variance_factor=factor,
        treated=spec.treated_condition,
        spec=spec,
        seed=seed,
        notes=notes,
    )


def _group_means(
    spec: SimulationSpec,
    streams: Streams,
    obs: pd.DataFrame,
    truth: pd.DataFrame,
    factor: Floats,
) -> Floats:
    """Expected values of the cells of each group, (groups, genes): its random and fixed effects."""
    # levels without cells are dropped from the groups: codes are those of all levels
    subject, cell_type = (pd.factorize(obs[name], sort=True)[0] for name in GROUPINGS[:2])
    pair = subject * (cell_type.max() + 1) + cell_type
    mean = np.zeros((len(obs), len(factor)))
    for seed, level, variance in (
        (streams.subject, subject, spec.subject_variance),
        (streams.pair, pair, spec.subject_cell_type_variance),
    ):
        if variance > 0:
            first, place = np.unique(level, return_inverse=True)
            mean += draw_effects(seed, first, len(factor), variance)[place]
    mean *= np.sqrt(factor)
    treated = (obs["condition"] == spec.treated_condition).to_numpy()
    de = slice(len(factor) - len(truth), None)
    is_type = obs["cell_type"].to_numpy()[:, None] == truth["cell_type"].to_numpy()
    mean[:, de] += (treated[:, None] & is_type) * truth["log_fc"].to_numpy()
    return mean
