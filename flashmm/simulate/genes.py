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

from flashmm.cells.counts import CellMatrix, open_counts
from flashmm.cells.transforms import is_counts
from flashmm.kernels.negative_binomial import (
    Floats,
    Integers,
    reference_parameters,
    reference_parameters_by_type,
    resample,
    stream,
)
from flashmm.names import listed
from flashmm.options import InputError, note
from flashmm.simulate.seeds import GeneStream
from flashmm.simulate.sheet import ReferenceCells
from flashmm.simulate.spec import SimulationSpec
from flashmm.simulate.truth import check_de_genes
from flashmm.simulate.values import labels

DEFAULT_GENES = 1_000


@dataclass(frozen=True, eq=False)
class Background:
    """What to draw from: parameters of genes and, with a reference, its cells.

    `type_ratio` is the mean in each simulated cell type over that of all cells, (types, genes), and
    `types` are the reference's names of these; None and empty where all types are alike.
    """

    reference: pd.DataFrame
    cells: ReferenceCells | None = None
    type_ratio: Floats | None = None
    types: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Moments:
    """Sums over the cells of a reference, by the codes of their types; the last one is the rest."""

    genes: pd.Index
    cell_names: pd.Index
    cell_type: Integers  # (cells,)
    types: tuple[str, ...]
    libsize: Floats  # (cells,)
    total: Floats  # (types + 1, genes)
    total_of_squares: Floats  # (types + 1, genes)


def draw_background(spec: SimulationSpec, seed: np.random.SeedSequence) -> Background:
    """Parameters of the reference, or those that are built in."""
    if spec.reference is not None:
        try:
            return _parameters(_read_reference(spec.reference, spec))
        except InputError as error:
            raise InputError(f"reference: {error}") from error
    rng = stream(seed, GeneStream.PARAMETERS)
    n_genes = DEFAULT_GENES if spec.n_genes is None else spec.n_genes
    mean = 1.0 + rng.poisson(1.0, size=n_genes)
    size = 1.0 + rng.poisson(1.0, size=n_genes)
    return Background(_gene_frame(labels("gene", n_genes), mean, size))


def _read_reference(
    reference: anndata.AnnData | str | PathLike[str], spec: SimulationSpec
) -> _Moments:
    """One pass over the reference: moments of the genes, totals of the cells."""
    with open_counts(reference) as source:
        source.check_names()
        n_cells, n_genes = source.matrix.shape
        if n_cells < 2:
            raise InputError(f"{source.name} has 1 cell; variances need at least 2.")
        types, cell_type = _match_types(spec, source)
        shape = len(types) + 1, n_genes
        total, total_of_squares = np.zeros(shape), np.zeros(shape)
        libsize = np.zeros(n_cells)
        for block in source.blocks():
            if not is_counts(block.values):
                raise InputError(
                    f"{source.name} holds values below 0 or not whole; give raw counts."
                )
            place = block.genes + n_genes * cell_type[block.cells] if types else block.genes
            size = total.size
            total += np.bincount(place, block.values, size).reshape(shape)
            total_of_squares += np.bincount(place, block.values**2, size).reshape(shape)
            libsize += np.bincount(block.cells, block.values, n_cells)
        genes = source.genes.astype(str)
        names = pd.Index(map(_text, source.container.cell_names[:]))
    return _Moments(genes, names, cell_type, types, libsize, total, total_of_squares)


def _match_types(spec: SimulationSpec, source: CellMatrix) -> tuple[tuple[str, ...], Integers]:
    """Types of the reference that the simulated ones stand for, and each cell's code of these.

    They have the same names where the cells are given; drawn types take the types with most cells.
    """
    if spec.reference_cell_type is None:
        return (), np.zeros(source.n_cells, dtype=np.int64)
    column = source.columns([spec.reference_cell_type])[spec.reference_cell_type]
    missing = int(column.isna().sum())
    if missing:
        raise InputError(
            f"column {spec.reference_cell_type!r} has {missing} missing values; fill or drop them."
        )
    names = column.astype(str)
    n_cells = names.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    if spec.metadata is None:
        if len(n_cells) < spec.n_cell_types:
            raise InputError(
                f"column {spec.reference_cell_type!r} has {len(n_cells)} cell types for "
                f"n_cell_types={spec.n_cell_types}; lower it."
            )
        types = list(n_cells.index[: spec.n_cell_types])
    else:
        types = spec.cell_types
        unknown = [name for name in types if name not in n_cells.index]
        if unknown:
            raise InputError(
                f"column {spec.reference_cell_type!r} has no cell type {listed(unknown)} of the "
                f"metadata; there are {listed(n_cells.index)}."
            )
    code = pd.Index(types).get_indexer(pd.Index(names))
    return tuple(types), np.where(code < 0, len(types), code).astype(np.int64)


def _parameters(read: _Moments) -> Background:
    """Moments to the parameters of the genes that a negative binomial fits."""
    n_cells = len(read.libsize)
    totals = pd.Series(read.libsize, index=read.cell_names)
    mean, size = reference_parameters(
        n_cells, read.total.sum(axis=0), read.total_of_squares.sum(axis=0)
    )
    cells, ratio = ReferenceCells(totals), None
    if read.types:
        cells = ReferenceCells(totals, read.cell_type)
        ratio, size = _within_types(read, mean)
    kept = np.isfinite(size)
    return Background(
        reference=_gene_frame(read.genes[kept], mean[kept], size[kept]),
        cells=cells,
        type_ratio=None if ratio is None else ratio[:, kept],
        types=read.types,
        notes=_reference_notes(mean, kept, read.libsize),
    )


def _within_types(read: _Moments, mean: Floats) -> tuple[Floats, Floats]:
    """Means of the types over that of all cells, at the same library size; and the sizes."""
    n_types = len(read.types)
    n_cells = np.bincount(read.cell_type, minlength=n_types + 1)[:n_types]
    libsize = np.bincount(read.cell_type, read.libsize, n_types + 1)[:n_types]
    for name, n, total in zip(read.types, n_cells, libsize, strict=True):
        if n < 2 or total == 0:
            raise InputError(
                f"cell type {name!r} has {n} cells with {total:.0f} counts in all; its means need "
                "two cells and some counts. Choose fewer types, or merge it with another."
            )
    own, size = reference_parameters_by_type(
        n_cells, read.total[:n_types], read.total_of_squares[:n_types]
    )
    # expected counts of a cell with the mean library size of all cells
    own *= (read.libsize.mean() / (libsize / n_cells))[:, None]
    return np.divide(own, mean, out=np.ones_like(own), where=mean > 0), size


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
    spec: SimulationSpec, background: Background, seed: np.random.SeedSequence
) -> tuple[pd.DataFrame, Integers]:
    """The simulated genes, the reference's in their order or drawn from them; and their places."""
    reference = background.reference
    n_genes = len(reference) if spec.n_genes is None else spec.n_genes
    check_de_genes(spec, n_genes)
    place = resample(stream(seed, GeneStream.RESAMPLED), len(reference), n_genes)
    drawn = reference.iloc[place]
    names = make_index_unique(pd.Index(drawn["gene"].to_numpy(), dtype=object))
    var = drawn[["mean", "dispersion"]].set_axis(names, axis=0)
    if spec.reference is not None:
        var["reference_gene"] = drawn["gene"].to_numpy()
    return var, place


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
