"""How genes differ: markers of cell types, variances between subjects, and modules.

None of it is differential expression: a marker has another mean in one cell type, alike in all
conditions. Each trait of a gene comes from a random stream of its own, gene by gene.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashmm.kernels.negative_binomial import Floats, Integers, draw_effects, stream
from flashmm.simulate.seeds import GeneStream
from flashmm.simulate.spec import SimulationSpec


@dataclass(frozen=True, eq=False)
class GeneTraits:
    """What is drawn for each gene besides its parameters.

    Attributes
    ----------
    marker_of : (genes,) array of int64
        Code of the cell type in which the gene is up, -1 where it is no marker.
    is_exclusive : (genes,) array of bool
        Whether no other type expresses the marker.
    variance_factor : (genes,) array
        What the variances between subjects are multiplied by.
    ratio_factor : (genes,) array
        What those of Gaussian values are multiplied by besides, the residual variance not.
    module : (genes,) array of int64, or None
        Number of the module with which the gene goes; None without correlation.
    """

    marker_of: Integers
    is_exclusive: NDArray[np.bool_]
    variance_factor: Floats
    ratio_factor: Floats
    module: Integers | None


def draw_traits(
    spec: SimulationSpec,
    n_genes: int,
    n_de: int,
    seed: np.random.SeedSequence,
    variances: GeneStream,
) -> GeneTraits:
    """Draw the traits of all genes.

    Parameters
    ----------
    spec : SimulationSpec
    n_genes, n_de : int
        The last `n_de` genes are differentially expressed, so they are expressed everywhere.
    seed : numpy.random.SeedSequence
        Root of the streams of genes.
    variances : GeneStream
        The stream that the factors of the variances come from.

    Returns
    -------
    GeneTraits
    """
    marker_of, is_exclusive = _draw_markers(spec, stream(seed, GeneStream.MARKERS), n_genes)
    is_exclusive[n_genes - n_de :] = False
    # f ~ log-normal with median 1
    spread = stream(seed, variances).standard_normal(n_genes)
    module = None
    if spec.gene_correlation > 0:
        module = stream(seed, GeneStream.MODULES).integers(spec.gene_modules, size=n_genes)
    factor = np.exp(spec.variance_spread * spread)
    ratio = stream(seed, GeneStream.RATIOS).standard_normal(n_genes)
    return GeneTraits(marker_of, is_exclusive, factor, np.exp(spec.ratio_spread * ratio), module)


def _draw_markers(
    spec: SimulationSpec, rng: np.random.Generator, n_genes: int
) -> tuple[Integers, NDArray[np.bool_]]:
    """Code of the type of each marker, else -1; and whether the others do not express it."""
    which, alone = rng.random((n_genes, 2)).T
    is_marker = which < spec.marker_fraction
    n_types = len(spec.cell_types)
    # below the fraction the uniform number is uniform still, and says the type
    share = which / spec.marker_fraction if spec.marker_fraction else which
    cell_type = np.minimum((share * n_types).astype(np.int64), n_types - 1)
    return np.where(is_marker, cell_type, -1), is_marker & (alone < spec.exclusive_markers)


def marker_shift(spec: SimulationSpec, traits: GeneTraits) -> Floats:
    """What markers add to the means of their types, (types, genes); −∞ where they are silent."""
    n_types, markers = len(spec.cell_types), np.flatnonzero(traits.marker_of >= 0)
    shift = np.zeros((n_types, len(traits.marker_of)))
    shift[:, traits.is_exclusive] = -np.inf
    shift[traits.marker_of[markers], markers] = spec.marker_log_fc
    return shift


def trait_columns(spec: SimulationSpec, traits: GeneTraits) -> dict[str, Any]:
    """Columns of the sheet of genes for the traits that the spec asks for."""
    columns: dict[str, Any] = {}
    if spec.marker_fraction > 0:
        columns["marker_of"] = pd.Categorical.from_codes(
            traits.marker_of, pd.Index(list(spec.cell_types))
        )
        columns["exclusive"] = traits.is_exclusive
    if spec.variance_spread > 0:
        columns["variance_factor"] = traits.variance_factor
    if spec.ratio_spread > 0:
        columns["ratio_factor"] = traits.ratio_factor
    if traits.module is not None:
        columns["module"] = traits.module
    return columns


def effects_of(
    spec: SimulationSpec,
    traits: GeneTraits,
    seed: np.random.SeedSequence,
    levels: Integers,
    variance: Floats | float,
) -> Floats:
    """Effects of some levels on every gene, (levels, genes), genes of a module going together."""
    n_genes = len(traits.marker_of)
    return draw_effects(seed, levels, n_genes, variance, traits.module, spec.gene_correlation)
