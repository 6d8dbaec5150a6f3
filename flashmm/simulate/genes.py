"""The simulated genes: their means and dispersions, built in or from a reference."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata.utils import make_index_unique
from numpy.typing import NDArray

from flashmm.cells.counts import is_counts, open_counts
from flashmm.kernels.negative_binomial import Floats, reference_parameters, resample, stream
from flashmm.options import InputError, note
from flashmm.simulate.spec import SimulationSpec
from flashmm.simulate.truth import check_de_genes
from flashmm.simulate.values import labels

DEFAULT_GENES = 1_000


@dataclass(frozen=True, eq=False)
class Background:
    """What to draw from: parameters of genes and, with a reference, the totals of its cells."""

    reference: pd.DataFrame
    totals: pd.Series | None = None
    notes: tuple[str, ...] = ()


def draw_background(spec: SimulationSpec, seed: np.random.SeedSequence) -> Background:
    """Parameters of the reference, or those that are built in."""
    if spec.reference is not None:
        try:
            return _read_reference(spec.reference)
        except InputError as error:
            raise InputError(f"reference: {error}") from error
    rng = stream(seed, 0)
    n_genes = DEFAULT_GENES if spec.n_genes is None else spec.n_genes
    mean = 1.0 + rng.poisson(1.0, size=n_genes)
    size = 1.0 + rng.poisson(1.0, size=n_genes)
    return Background(_gene_frame(labels("gene", n_genes), mean, size))


def _read_reference(reference: anndata.AnnData | str | PathLike[str]) -> Background:
    """One pass over the reference: moments of the genes, totals of the cells."""
    with open_counts(reference) as source:
        source.check_names()
        n_cells, n_genes = source.matrix.shape
        if n_cells < 2:
            raise InputError(f"{source.name} has 1 cell; variances need at least 2.")
        total, total_of_squares = np.zeros(n_genes), np.zeros(n_genes)
        libsize = np.zeros(n_cells)
        for block in source.blocks():
            if not is_counts(block.values):
                raise InputError(
                    f"{source.name} holds values below 0 or not whole; give raw counts."
                )
            total += np.bincount(block.genes, block.values, n_genes)
            total_of_squares += np.bincount(block.genes, block.values**2, n_genes)
            libsize += np.bincount(block.cells, block.values, n_cells)
        genes, cells = source.genes.astype(str), map(_text, source.cell_names[:])
    mean, size = reference_parameters(n_cells, total, total_of_squares)
    kept = np.isfinite(size)
    return Background(
        reference=_gene_frame(genes[kept], mean[kept], size[kept]),
        totals=pd.Series(libsize, index=pd.Index(cells)),
        notes=_reference_notes(mean, kept, libsize),
    )


def _gene_frame(genes: Iterable[str], mean: NDArray[Any], size: NDArray[Any]) -> pd.DataFrame:
    return pd.DataFrame({"gene": list(genes), "mean": mean, "dispersion": size})


def _reference_notes(mean: Floats, kept: NDArray[np.bool_], libsize: Floats) -> tuple[str, ...]:
    if not kept.any():
        raise InputError(
            "no gene has a variance above its mean, so no negative binomial fits; "
            "give raw counts of more cells."
        )
    notes = []
    left_out, empty = np.count_nonzero(~kept), np.count_nonzero(mean == 0)
    if left_out:
        notes.append(
            note(
                f"reference: {left_out} of {len(kept)} genes left out "
                f"({empty} without counts, {left_out - empty} with variance <= mean)."
            )
        )
    if not libsize.all():
        without = np.count_nonzero(libsize == 0)
        notes.append(note(f"reference: {without} cells without counts left out."))
    return tuple(notes)


def simulated_genes(
    spec: SimulationSpec, reference: pd.DataFrame, seed: np.random.SeedSequence
) -> pd.DataFrame:
    """The simulated genes: the reference's in their order, or drawn from them."""
    n_genes = len(reference) if spec.n_genes is None else spec.n_genes
    check_de_genes(spec, n_genes)
    drawn = reference.iloc[resample(stream(seed, 1), len(reference), n_genes)]
    names = make_index_unique(pd.Index(drawn["gene"].to_numpy(), dtype=object))
    var = drawn[["mean", "dispersion"]].set_axis(names, axis=0)
    if spec.reference is not None:
        var["reference_gene"] = drawn["gene"].to_numpy()
    return var


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
