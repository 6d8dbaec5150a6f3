"""From counts to statistics of groups, in one pass over the cells.

Values that are no counts may vary little beside their mean, so that sums of squares would lose what
varies; such genes take a second pass, which sums the differences from their mean (`origin`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import anndata as ad
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from flashmm.cells.block import Block
from flashmm.cells.cell_columns import complete_cells, grouping_key
from flashmm.cells.counts import ALL_CELLS, CHUNK_NNZ, CellMatrix, CellRange, open_counts
from flashmm.cells.covariates import covariate_columns, evaluate_covariate, known_covariates
from flashmm.cells.gene_names import STORED_NAMES, GeneNames
from flashmm.cells.groups import (
    GroupStatistics,
    align_tables,
    check_same_genes,
    group_rows,
    note_references,
    unsorted_columns,
)
from flashmm.cells.matrices import CompressedMatrix
from flashmm.cells.moments import N_CELLS, moments_of, origin_of_covariates
from flashmm.cells.origins import group_of_cells, sum_from_means
from flashmm.cells.running_sums import RunningSums
from flashmm.cells.sheet import Sheet, check_one_sheet, sheet_record, sheets_of
from flashmm.cells.transforms import TRANSFORMS, Transform, check_libsize, find_transform
from flashmm.cells.withheld import check_minimum, without_small_groups
from flashmm.kernels.group_sums import MOST_CELLS
from flashmm.names import listed
from flashmm.options import InputError, checked, note
from flashmm.storage.aside import digest_aside
from flashmm.storage.files import (
    PathLike,
    file_state,
    package_version,
    reading,
    require_state,
)

Data: TypeAlias = ad.AnnData | PathLike

_LIBSIZE = "libsize"
_FRACTIONAL = (
    "{} holds counts that are fractional, as a correction (SoupX, CellBender) or shared reads "
    "(alevin, RSEM) leave them; they are taken as they are."
)
# Cells of each group that a block holds on average, and the most values that it may hold.
_CELLS_PER_GROUP = 10
_MOST_VALUES = 2**24
# Above this, groups of one cell each are taken for a mistake: the result would be a dense matrix.
_MOST_SINGLE_CELLS = 20_000


@dataclass(frozen=True)
class _Request:
    """The arguments of `summarise`, checked."""

    by: tuple[str, ...]
    covariates: tuple[str, ...]
    transform: str
    layer: str | None
    libsize: str
    missing: str
    chunk_nnz: int | None
    progress: bool | None
    part: CellRange = ALL_CELLS
    gene_names: GeneNames = STORED_NAMES

    def __post_init__(self) -> None:
        find_transform(self.transform)
        if not self.by:
            raise InputError("by is empty: name the columns of obs that define the groups.")
        for argument in ("by", "covariates"):
            names = getattr(self, argument)
            if len(set(names)) < len(names):
                raise InputError(f"{argument} names something twice: {listed(names)}.")
        reserved = [name for name in self.by if name == N_CELLS or name.startswith("sum:")]
        if reserved:
            raise InputError(f"by holds {listed(reserved)}, a name kept for results; rename it.")
        if self.chunk_nnz is not None and self.chunk_nnz < 1:
            raise InputError(f"chunk_nnz={self.chunk_nnz} must be at least 1.")
        if self.missing not in ("error", "drop"):
            raise InputError(f"missing={self.missing!r} is not known; use 'error' or 'drop'.")


@dataclass
class _Input:
    """One matrix of cells x genes on its way into the sums.

    `rows` are the cells that are read, of `n_all`; cells are counted from the first of them.
    `x` (covariates, cells) and `libsize` (cells,) are filled block by block where the library size
    has to be counted (`counted`); `keys` (kept cells, by) has a row per kept cell only. `origin`
    (covariates,) is what is subtracted from `x`.
    """

    data: Data
    obs: Sheet | None
    name: str
    genes: pd.Index
    columns: pd.DataFrame
    keys: pd.DataFrame
    kept: np.ndarray
    x: np.ndarray
    libsize: np.ndarray
    counted: bool
    transform: Transform
    rows: slice
    n_all: int
    cell_names: Any
    state: tuple[int, ...] = ()
    notes: list[str] = field(default_factory=list)
    source: CellMatrix | None = None
    origin: np.ndarray | None = None

    def open(self, request: _Request) -> AbstractContextManager[CellMatrix]:
        """Open the values again, or give those that are still open (`source`)."""
        if self.source is not None:
            return nullcontext(self.source)
        return _opened(self.data, self.obs, request)

    def fill(self, rows: slice, request: _Request) -> None:
        """Evaluate the covariates of some cells."""
        cells = np.arange(rows.start, rows.stop)[self.kept[rows]]
        if len(cells) == 0:
            return
        table = self.columns if len(cells) == len(self.columns) else self.columns.iloc[cells]
        if self.counted:
            table = table.assign(**{request.libsize: self.libsize[cells]})
        origin = np.zeros(len(self.x)) if self.origin is None else self.origin
        try:
            for x, covariate, c in zip(self.x, request.covariates, origin, strict=True):
                x[cells] = evaluate_covariate(covariate, table) - c
        except InputError as error:
            self._refuse_empty(cells, request)
            raise InputError(f"{self.name}: {error}") from error

    def subtract(self, origin: np.ndarray) -> None:
        """Take a constant from each covariate, now and whenever they are filled in."""
        self.origin, self.x = origin, self.x - origin[:, None]

    def _refuse_empty(self, cells: np.ndarray, request: _Request) -> None:
        """Say so where cells have no counts, of which there is no logarithm."""
        empty = cells[self.libsize[cells] == 0] if self.counted else cells[:0]
        if len(empty):
            raise InputError(
                f"{self.name}: {len(empty)} of {len(cells)} cells have no counts at all (the first "
                f"is number {empty[0]}), so that there is no logarithm of '{request.libsize}'. "
                "Leave empty cells out, adata[adata.X.sum(1) > 0], or give the column "
                f"'{request.libsize}' in obs."
            )

    def read_libsize(self, request: _Request) -> None:
        """Take the library sizes, where the transform divides by them, from their column."""
        if self.transform.needs_libsize:
            sizes = evaluate_covariate(request.libsize, self.columns[self.kept])
            check_libsize(sizes, request.libsize, self.name)
            self.libsize[self.kept] = sizes


@checked
def summarise(
    data: Data | Sequence[Data],
    by: str | Sequence[str],
    covariates: str | Sequence[str] = (),
    transform: str = "log2p1",
    *,
    obs: Sheet | Sequence[Sheet] | None = None,
    layer: str | None = None,
    gene_names: str | None = None,
    duplicate_genes: str | None = None,
    libsize: str = _LIBSIZE,
    missing: str = "error",
    chunk_nnz: int | None = None,
    progress: bool | None = None,
    cells: tuple[int, int] | None = None,
    shard: tuple[int, int] | None = None,
    minimum_cells: int | None = None,
) -> GroupStatistics:
    """Reduce cells to statistics of groups, in one pass and bounded memory.

    Parameters
    ----------
    data : anndata.AnnData, path, or list of these
        Cells x genes: an AnnData (in memory, backed, of dask arrays or lazy), an `.h5ad` file, a
        zarr store, a `.h5` file or a folder with a `matrix.mtx` of 10x; CSR, CSC or dense. Several
        have the same genes and are read one after another, as if they were one.
    by : str or sequence of str
        Columns of obs whose combinations are the groups. Text becomes a category with sorted
        levels, a declared category keeps its order, booleans and numbers stay what they are.
    covariates : str or sequence of str
        Cell-level covariates: numeric columns of obs, functions of them such as "log(libsize)",
        and products "a:b".
    transform : {"log2p1", "log1p", "log1p_cp10k", "none"}
        y = log2(1 + count), log(1 + count), log(1 + 10^4 count / library size), or the value.
    obs : DataFrame or path, or list of these, optional
        Columns of the cells beside those of `data`, before which they go: a frame, or a table of
        text (TSV, CSV) or Parquet, matched by the names of the cells (barcodes), which are its
        index or one of its columns. Cells without a row have missing values. A list has a sheet for
        each of several `data`.
    layer : str, optional
        Layer to read instead of `X`, "raw" for `.raw`; of 10x files, a kind of features ("Antibody
        Capture") or a genome.
    gene_names : str, optional
        Column of var with the names of the genes ("gene_ids"), instead of its index; of 10x files,
        "id" instead of "name".
    duplicate_genes : {"error", "sum", "unique"}, optional
        What becomes of genes that have one name: an error, their sum, or names that differ (with
        the identifier where there is one, else numbered). By default an error, and "unique" for
        files of 10x, which repeat symbols.
    libsize : str
        Column with the library size of each cell. Where there is none it is the cell's total over
        all genes of the matrix that is read (for CSC this takes a pass of its own).
    missing : {"error", "drop"}
        Whether missing values in columns in use are an error, or their cells are left out.
    chunk_nnz : int, optional
        Nonzero values read at a time; bounds the memory, never changes a result. None takes some
        cells of every group, but between 2 and 17 million values (half a GB as they are stored).
    progress : bool, optional
        Whether to show a progress bar; None shows it on a terminal.
    cells : tuple of int, optional
        (start, stop): only the cells at these positions of one input, stop excluded. All ranges of
        a file, put together by `merge`, have the groups of the whole file, the same counts, and
        sums that differ by rounding only. CSR and dense input is read within the range; of CSC all
        values are read, and those of other cells dropped.
    shard : tuple of int, optional
        (i, n): instead of `cells`, part i from 1 to n of n ranges of (almost) as many cells.
    minimum_cells : int, optional
        Leave out groups of fewer cells, as `write_groups` does: for sums that leave a site.

    Returns
    -------
    GroupStatistics
        The groups that have cells, in the order of the levels.

    Raises
    ------
    InputError
        Where a file, layer or column is not there, names are given twice, values are missing, not
        finite, or not counts although `transform` needs counts; nothing is returned in part. Where
        neither memory nor disk has room for the sums, before any value is read.
    FormulaError
        Where a covariate is not an allowed expression.

    Notes
    -----
    Sums that take more than half of the available memory (or than FLASHMM_MEMORY_MB, in the
    environment) are kept in a temporary file in the folder TMPDIR; the numbers are the same.

    Checks of a range of cells concern these cells; the range with the first cell also looks for
    cell names that are given twice in the whole table. A range does not hash the whole file, which
    other ranges would do again: its record holds the digest of as large a part of the file's bytes
    as it has of the cells (`bytes`), so that the ranges together cover the file once, and a
    `file_id` (`storage.files.file_identity`), by which `merge` finds cells that are counted twice.
    """
    request = _Request(
        by=_names(by),
        covariates=_names(covariates),
        transform=transform,
        layer=layer,
        libsize=libsize,
        missing=missing,
        chunk_nnz=chunk_nnz,
        progress=progress,
        part=CellRange(cells, shard),
        gene_names=GeneNames(gene_names, duplicate_genes),
    )
    items = _items(data)
    sheets = sheets_of(obs, len(items))
    if len(items) > 1 and not request.part.is_whole:
        raise InputError(
            f"cells and shard choose among the cells of one input; data holds {len(items)}. "
            "Summarise each of them in a call of its own."
        )
    check_minimum(minimum_cells, request.part.is_whole)
    with ExitStack() as stays_open:
        groups = _summarised(items, obs, sheets, request, stays_open)
    return groups if minimum_cells is None else without_small_groups(groups, minimum_cells)


def _summarised(
    items: Sequence[Data],
    obs: Sheet | Sequence[Sheet] | None,
    sheets: Sequence[Sheet | None],
    request: _Request,
    stays_open: ExitStack,
) -> GroupStatistics:
    """Prepare all inputs, then read their values one after another; one alone is opened once."""
    alone = stays_open if len(items) == 1 else None
    inputs = [_prepare(*pair, request, alone) for pair in zip(items, sheets, strict=True)]
    check_one_sheet(obs, [cells.cell_names for cells in inputs])
    for other in inputs[1:]:
        check_same_genes(inputs[0].genes, other.genes, inputs[0].name, other.name)
    keys = [cells.keys for cells in inputs]
    codes, table = group_rows(pd.concat(align_tables(keys), ignore_index=True))
    notes = note_references(keys, table, unsorted_columns(keys)) + _note_libsizes(inputs)
    _check_group_number(table, len(codes))

    covariate_origin = _centre(inputs, request)
    numbered, genes = bool(np.bincount(codes).max() <= MOST_CELLS), inputs[0].genes
    sums = RunningSums.empty(len(table), len(genes), 3 + len(request.covariates), numbered)
    parts = np.split(codes, np.cumsum([len(key) for key in keys])[:-1])
    records = [
        _stream(cells, part, genes, sums, request)
        for cells, part in zip(inputs, parts, strict=True)
    ]
    (total, squares, counts, *crossed), expressing = sums.by_kind()
    origin = None
    if not find_transform(request.transform).needs_counts:
        again = partial(_blocks_again, request=request)
        origin = sum_from_means(inputs, parts, genes, (total, squares, *crossed), again)
    x = np.concatenate([cells.x[:, cells.kept] for cells in inputs], axis=1)
    return GroupStatistics(
        obs=table.assign(**moments_of(codes, x, request.covariates, len(table))),
        genes=genes,
        sum=total,
        sumsq=squares,
        covariate_sums=dict(zip(request.covariates, crossed, strict=True)),
        counts=counts if sums.of_counts else None,
        by=request.by,
        covariates=request.covariates,
        transform=request.transform,
        provenance=_provenance(request, records),
        notes=tuple(text for cells in inputs for text in cells.notes) + tuple(notes),
        expressing=expressing,
        origin=origin,
        covariate_origin=covariate_origin,
    )


def _centre(inputs: Sequence[_Input], request: _Request) -> np.ndarray | None:
    """Let covariates that vary little beside their mean be differences from it.

    Not those of library sizes, which size factors change.
    """
    names, size = request.covariates, request.libsize
    x = [known_covariates(names, cells.columns, cells.kept, size) for cells in inputs]
    origin = origin_of_covariates(np.concatenate(x, axis=1))
    if origin is not None:
        for cells in inputs:
            cells.subtract(origin)
    return origin


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _items(data: Data | Sequence[Data]) -> list[Data]:
    """List the inputs; none may come twice, its cells would count double."""
    several = isinstance(data, Iterable) and not isinstance(data, str | ad.AnnData)
    items: list[Data] = list(data) if several else [data]  # type: ignore[arg-type]
    if not items:
        raise InputError("data is an empty list: give at least one AnnData or file.")
    seen = set()
    for item in items:
        place = Path(item).resolve() if isinstance(item, str | Path) else id(item)
        if place in seen:
            raise InputError(f"data holds '{item}' twice, so its cells would count double.")
        seen.add(place)
    return items


def _opened(data: Data, obs: Sheet | None, request: _Request) -> AbstractContextManager[CellMatrix]:
    return open_counts(data, request.layer, request.part, obs=obs, genes=request.gene_names)


def _prepare(
    data: Data, obs: Sheet | None, request: _Request, stays_open: ExitStack | None
) -> _Input:
    """Read and check all that is known of the cells before their values."""
    state = () if isinstance(data, ad.AnnData) else file_state(data)
    with ExitStack() as closes:
        source = (stays_open or closes).enter_context(_opened(data, obs, request))
        source.check_names()
        wanted, counted = _columns_in_use(source, request)
        source.check_looks(request.transform, request.libsize if counted else None)
        columns = source.columns(wanted)
        name, genes, rows = source.name, source.genes, source.rows
        n_all = len(source.container.cell_names)
        said = [note(text) for text in source.said(wanted)]
        unlisted = source.unlisted()
        cell_names = None if obs is None else np.asarray(source.container.cell_names[:])
    kept, notes = complete_cells(columns, request.missing, name, unlisted)
    if counted and request.libsize != _LIBSIZE:
        text = f"{name} has no column '{request.libsize}' in obs; totals of the cells are used."
        notes.append(note(text))
    cells = _Input(
        data=data,
        obs=obs,
        name=name,
        genes=genes,
        columns=columns,
        keys=pd.DataFrame({by: grouping_key(columns.loc[kept, by], name) for by in request.by}),
        kept=kept,
        x=np.full((len(request.covariates), len(kept)), np.nan),
        libsize=np.ones(len(kept)),
        counted=counted,
        transform=find_transform(request.transform),
        rows=rows,
        n_all=n_all,
        cell_names=cell_names,
        state=state,
        notes=[*said, *notes],
        source=source if stays_open else None,
    )
    if not counted:
        cells.fill(slice(0, len(kept)), request)
        cells.read_libsize(request)
    return cells


def _columns_in_use(source: CellMatrix, request: _Request) -> tuple[list[str], bool]:
    """Name the columns to read, and say whether the library size has to be counted instead."""
    there = source.column_names()
    used = {name for x in request.covariates for name in covariate_columns(x, there)}
    if TRANSFORMS[request.transform].needs_libsize:
        used.add(request.libsize)
    counted = request.libsize in used and request.libsize not in there
    if counted:
        used.remove(request.libsize)
    return list(dict.fromkeys((*request.by, *sorted(used)))), counted


def _note_libsizes(inputs: Sequence[_Input]) -> list[str]:
    counted = [cells.name for cells in inputs if cells.counted]
    if len(counted) in (0, len(inputs)):
        return []
    return [note(f"Library sizes are a column of some inputs, and counted in {listed(counted)}.")]


def _check_group_number(groups: pd.DataFrame, n_cells: int) -> None:
    if len(groups) == n_cells > _MOST_SINGLE_CELLS:
        finest = groups.nunique().idxmax()
        raise InputError(
            f"Every one of the {n_cells} cells is a group of its own, by the column '{finest}'; "
            "'by' takes columns that cells share, cell-level numbers belong into 'covariates'."
        )


def _stream(
    cells: _Input, codes: np.ndarray, genes: pd.Index, sums: RunningSums, request: _Request
) -> dict[str, Any]:
    """Add all values of one input to the sums; return what is recorded of it."""
    group = group_of_cells(cells, codes)
    gene = genes.get_indexer(cells.genes)
    n_nonzero, total, fractional = 0, 0.0, False
    in_memory = isinstance(cells.data, ad.AnnData)
    part = (cells.rows.start, cells.rows.stop, cells.n_all)
    with (
        cells.open(request) as source,
        nullcontext() if in_memory else digest_aside(cells.data, part) as identity,
    ):
        for block in _blocks(source, cells, request, len(sums.values)):
            if cells.transform.needs_counts and source.has_fractions(block, request.transform):
                fractional = True
            sums.add(block, cells, group, gene)
            if identity is None:
                n_nonzero += int(np.count_nonzero(block.values))
                total += float(block.values.sum())
        if fractional:
            cells.notes.append(note(_FRACTIONAL.format(cells.name)))
        if identity is not None:
            with reading(_label(cells.data)):
                found = identity()
            require_state(cells.data, cells.state)
            return _record(cells, found, request)
    content = f"{len(cells.kept)} {len(genes)} {n_nonzero} {total!r}"
    digest = hashlib.sha256(content.encode()).hexdigest()
    return _record(cells, {"digest": f"sha256:{digest}"}, request)


def _blocks_again(cells: _Input, request: _Request) -> Iterator[Block]:
    """Yield the values of one input a second time."""
    with cells.open(request) as source:
        yield from source.blocks(request.chunk_nnz or CHUNK_NNZ)
    if not isinstance(cells.data, ad.AnnData):
        require_state(cells.data, cells.state)


def _blocks(source: CellMatrix, cells: _Input, request: _Request, n_groups: int) -> Iterator[Block]:
    """Yield blocks whose cells have their library sizes and covariates."""
    pending, chunk_nnz = (
        cells.counted,
        request.chunk_nnz or _values_at_a_time(source, cells, n_groups),
    )
    if pending and not source.matrix.by_cells:
        cells.libsize = source.totals(chunk_nnz)
        cells.fill(slice(0, source.n_cells), request)
        pending = False
    disable = None if request.progress is None else not request.progress
    with tqdm(
        total=source.matrix.size,
        desc=_label(cells.data),
        unit="values",
        unit_scale=True,
        disable=disable,
    ) as bar:
        for block in source.blocks(chunk_nnz):
            if pending:
                cells.libsize[block.rows] = block.totals()
                cells.fill(block.rows, request)
            yield block
            bar.update(block.n_read)


def _values_at_a_time(source: CellMatrix, cells: _Input, n_groups: int) -> int:
    """Values of some cells per group: the sums of a group are fetched once for all of these."""
    matrix, size = source.matrix, source.matrix.size
    stored = isinstance(matrix, CompressedMatrix) and cells.transform.needs_counts
    if not (stored and matrix.by_cells and source.n_cells):  # others need more memory per value
        return CHUNK_NNZ
    wanted = max(2 * CHUNK_NNZ, _CELLS_PER_GROUP * n_groups * size // source.n_cells)
    # a few blocks at least, so that one is read while another is added
    return max(CHUNK_NNZ, min(wanted, size // 6, _MOST_VALUES))


def _label(data: Data) -> str:
    return "AnnData" if isinstance(data, ad.AnnData) else Path(data).name


def _record(cells: _Input, identity: dict[str, Any], request: _Request) -> dict[str, Any]:
    """Say what one input was and how it was read; names of files go without their folders."""
    in_memory = isinstance(cells.data, ad.AnnData)
    return {
        "file": None if in_memory else _label(cells.data),
        **identity,
        **({} if request.part.is_whole else _range_record(cells, request)),
        "flashmm": package_version(),
        "n_cells": len(cells.kept),
        "n_cells_left_out": int(np.count_nonzero(~cells.kept)),
        "n_genes": len(cells.genes),
        "layer": request.layer,
        **sheet_record(cells.obs),
        **request.gene_names.record(),
        "libsize": "counted" if cells.counted else request.libsize,
        "missing": request.missing,
    }


def _range_record(cells: _Input, request: _Request) -> dict[str, Any]:
    """Say which cells were read, and the orders of levels of the whole file that are not sorted.

    A range may lack some of the levels; `merge` then knows their order all the same.
    """
    levels = {
        name: cells.keys[name].cat.categories.tolist() for name in unsorted_columns([cells.keys])
    }
    shard = request.part.shard
    return {
        "cells": [cells.rows.start, cells.rows.stop],
        **({} if shard is None else {"shard": list(shard)}),
        "levels": levels,
    }


def _provenance(request: _Request, records: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "flashmm": package_version(),
        "options": {
            "by": list(request.by),
            "covariates": list(request.covariates),
            "transform": request.transform,
        },
        "inputs": records,
    }
