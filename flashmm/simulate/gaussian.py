"""Simulate the sums over groups of normal values, from which mixed models are fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from flashmm.cells.groups import N_CELLS, GroupStatistics, group_rows
from flashmm.kernels.gaussian_groups import draw_group_sums
from flashmm.kernels.negative_binomial import Floats, Integers
from flashmm.options import checked
from flashmm.shown import Shown
from flashmm.simulate.genes import DEFAULT_GENES
from flashmm.simulate.seeds import GeneStream, Seed, Streams
from flashmm.simulate.sheet import sheet_of_cells
from flashmm.simulate.spec import SimulationSpec, require_distribution
from flashmm.simulate.truth import check_de_genes, design_notes, draw_truth
from flashmm.simulate.values import GROUPINGS, labels, plain
from flashmm.simulate.variation import (
    GeneTraits,
    draw_traits,
    effects_of,
    marker_shift,
    trait_columns,
)
from flashmm.storage.files import package_version


@dataclass(frozen=True, eq=False, repr=False)
class GaussianSimulation(Shown):
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
    var : DataFrame
        By gene, as far as the spec asks for them: `marker_of` (a cell type, or missing),
        `variance_factor`, `ratio_factor`, `module`.
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
    var: pd.DataFrame
    treated: str
    spec: SimulationSpec
    seed: Seed
    notes: tuple[str, ...] = ()


@checked
def simulate_gaussian_groups(spec: SimulationSpec, seed: Seed) -> GaussianSimulation:
    """Simulate normal values of cells as the sums over groups that a mixed model is fitted from.

    For gene g in a cell of subject s and cell type t,

        y = m_gt + a_sg + b_stg + c_scg + log_fc_gt · treated + e,

    a ~ N(0, r_g f_gt · subject_variance), b ~ N(0, r_g f_gt · subject_cell_type_variance),
    c ~ N(0, r_g f_gt · subject_condition_variance) per subject and condition,
    e ~ N(0, f_gt · residual_variance). A marker has m_gt = marker_log_fc in its type, where f_gt is
    marker_variance_ratio times that of the other types; in all else m_gt = 0, and f_g is 1 or
    log-normal with `variance_spread`, r_g with `ratio_spread`.

    With n cells in a group of mean μ, its sums are drawn by themselves: the mean of the cells is
    N(μ, σ²/n), the sum of squares about it is σ² χ²(n − 1), and the two are independent (Cochran
    1934). Their joint distribution is that of sums over cells drawn one by one, at the cost of two
    numbers per group and gene.

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
    traits = draw_traits(spec, n_genes, len(truth), streams.genes, GeneStream.PARAMETERS)
    cell_type = pd.Categorical(obs["cell_type"], spec.cell_types).codes.astype(np.int64)
    factor = _variance_factors(spec, traits)
    mean = _random_effects(spec, streams, obs, traits)
    scale = np.sqrt(factor * traits.ratio_factor)
    _to_scale_of_types(mean, cell_type, scale, marker_shift(spec, traits))
    _add_differences(mean, spec, obs, truth)
    residual = spec.residual_variance * factor
    total, squares = draw_group_sums(streams.counts, n_cells, mean, residual, cell_type)
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
        variance_factor=traits.variance_factor,
        var=pd.DataFrame(trait_columns(spec, traits), index=genes).drop(
            columns="exclusive", errors="ignore"
        ),
        treated=spec.treated_condition,
        spec=spec,
        seed=seed,
        notes=notes,
    )


def _variance_factors(spec: SimulationSpec, traits: GeneTraits) -> Floats:
    """What the variances of each gene are multiplied by in each type, (types, genes)."""
    factor = np.tile(traits.variance_factor, (len(spec.cell_types), 1))
    markers = np.flatnonzero(traits.marker_of >= 0)
    factor[traits.marker_of[markers], markers] *= spec.marker_variance_ratio
    return factor


def _random_effects(
    spec: SimulationSpec, streams: Streams, obs: pd.DataFrame, traits: GeneTraits
) -> Floats:
    """Effects of subjects, with types and with conditions, on each group: (groups, genes)."""
    # levels without cells are dropped from the groups: codes are those of all levels
    subject, cell_type, condition = (pd.factorize(obs[name], sort=True)[0] for name in GROUPINGS)
    effects = np.zeros((len(obs), len(traits.marker_of)))
    for seed, level, variance in (
        (streams.subject, subject, spec.subject_variance),
        (
            streams.pair,
            subject * (cell_type.max() + 1) + cell_type,
            spec.subject_cell_type_variance,
        ),
        (
            streams.subject_condition,
            subject * (condition.max() + 1) + condition,
            spec.subject_condition_variance,
        ),
    ):
        if variance > 0:
            first, place = np.unique(level, return_inverse=True)
            effects += effects_of(spec, traits, seed, first, variance)[place]
    return effects


def _to_scale_of_types(mean: Floats, cell_type: Integers, scale: Floats, shift: Floats) -> None:
    """Multiply the effects on each group and add to them what belongs to its type, in place."""
    for row, code in zip(mean, cell_type, strict=True):
        row *= scale[code]
        row += shift[code]


def _add_differences(
    mean: Floats, spec: SimulationSpec, obs: pd.DataFrame, truth: pd.DataFrame
) -> None:
    """Add the effects of the treated groups, in place."""
    treated = (obs["condition"] == spec.treated_condition).to_numpy()
    de = slice(mean.shape[1] - len(truth), None)
    is_type = obs["cell_type"].to_numpy()[:, None] == truth["cell_type"].to_numpy()
    mean[:, de] += (treated[:, None] & is_type) * truth["log_fc"].to_numpy()
