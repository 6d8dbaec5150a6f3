"""Simulate counts of many subjects, cell types and conditions from a negative binomial model.

For gene g in a cell of subject s and cell type t,

    y ~ NB(mean = mu, size = size_g),  variance mu + mu² / size_g,
    log mu = log mean_g + (log libsize − its mean over cells) + a_sg + b_stg + log_fc_gt · treated,

with a ~ N(0, subject_variance), b ~ N(0, subject_cell_type_variance) and natural logarithms.
The model is that of FLASHMM's ``simuRNAseq`` (Xu et al., Nat Commun 17:2384, 2026) with the
component b added. The offset and the effects have mean zero on the log scale, so `mean_g` is the
expected count of a cell with the geometric mean library size and no effects.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple, TypeVar

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata.utils import make_index_unique
from isal import isal_zlib
from numpy.typing import NDArray
from scipy import sparse
from tqdm.auto import tqdm

from flashmm.cells.counts import open_counts
from flashmm.cells.groups import N_CELLS, GroupStatistics, group_rows
from flashmm.cells.transforms import is_counts
from flashmm.kernels.gaussian_groups import draw_group_sums, spread_cells
from flashmm.kernels.negative_binomial import (
    LARGEST_COUNT,
    Floats,
    Integers,
    apportion,
    child_seed,
    draw_block,
    draw_effects,
    draw_log_fc,
    reference_parameters,
    resample,
    stream,
)
from flashmm.names import listed
from flashmm.options import InputError, note
from flashmm.simulate.spec import (
    GROUPINGS,
    SimulationSpec,
    categorical,
    check_whole,
    labels,
    plain,
)
from flashmm.storage.files import atomic_path, file_digest, package_version
from flashmm.storage.workspace import require_disk

Seed = int | Sequence[int] | np.random.SeedSequence
T = TypeVar("T")
R = TypeVar("R")
Effect = Callable[[int], Floats]  # of a level, on every gene

DEFAULT_GENES = 1_000
DEFAULT_CELLS = 5_000
LOG_LIBSIZE_SD = 0.5  # droplet data: 0.56 in the Kang 2018 PBMC subset that the tests read
KEPT_EFFECTS = 2**25  # numbers of each component that stay in memory: 256 MB
CHUNK = 2**16  # stored numbers per compressed chunk of a file
BYTES_PER_COUNT, BYTES_PER_CELL = 2.0, 50.0  # of a file, compressed: what is needed at least
PIECES_AHEAD = 8  # chunks that are compressed or wait to be written
GENES = 2_048  # drawn at a time, so that their means stay in the cache; part of what a seed means
BLOCK_CELLS = 256  # cells per random stream; part of what a seed means, so never an option


@dataclass(frozen=True, eq=False)
class Simulation:
    """Simulated counts and what is true about them.

    Attributes
    ----------
    adata : AnnData (cells, genes)
        `X`: whole counts as CSR float32, the form in which scanpy reads and writes counts. `obs`:
        categories `subject`, `cell_type`, `condition`, and `libsize`, the target library size (not
        the realised total). `var`: `mean` and `dispersion` of each gene, and `reference_gene` with
        a reference. `uns["flashmm"]`: `truth`, `reference`, `treated`, and JSON texts of the rest.
        Backed by the file when the simulation was written to one.
    truth : DataFrame
        `gene`, `cell_type`, `log_fc` (natural log) of the DE pairs; every other pair is null.
    reference : DataFrame
        `gene`, `mean`, `dispersion` of the genes that were drawn from. The dispersion is the *size*
        of the negative binomial: variance = mean + mean² / dispersion.
    treated : str
        The condition in which the effects act.
    spec : SimulationSpec
    seed : int or sequence of int or SeedSequence
    notes : tuple of str
        What was decided on the way, such as genes left out.
    path : Path or None
        The file that holds the counts; None when they are in memory.
    """

    adata: anndata.AnnData
    truth: pd.DataFrame
    reference: pd.DataFrame
    treated: str
    spec: SimulationSpec
    seed: Seed
    notes: tuple[str, ...] = ()
    path: Path | None = None


def simulate_counts(
    spec: SimulationSpec,
    seed: Seed,
    *,
    path: str | PathLike[str] | None = None,
    chunk_cells: int = 4_096,
    threads: int = 2,
    progress: bool | None = None,
) -> Simulation:
    """Simulate counts, in memory or straight into an .h5ad file.

    The design, the effects and the counts come from separate random streams (the counts from one
    per 256 cells), so that changing the DE genes leaves the cells as they are, and the result
    depends neither on `chunk_cells` and `threads` nor on where it is kept.

    Parameters
    ----------
    spec : SimulationSpec
    seed : int, sequence of int, or numpy.random.SeedSequence
        The same spec and seed give the same counts.
    path : path of an .h5ad file, optional
        Write there while drawing, and return an AnnData backed by it: memory then holds the cells
        that are drawn ahead and the sheet of cells, whatever the number of cells. The file appears
        when it is complete.
    chunk_cells : int
        Cells to draw ahead of the writing, rounded up to whole blocks of 256 cells.
    threads : int
        Threads that draw and compress.
    progress : bool, optional
        Whether to show a progress bar; None shows it on a terminal.

    Returns
    -------
    Simulation

    Raises
    ------
    InputError
        The seed, the reference or a number that the reference cannot serve; another distribution
        than "nb"; or the disk of `path` has no room for the counts, before they are drawn.
    """
    check_whole("chunk_cells", chunk_cells, 1)
    check_whole("threads", threads, 1)
    _require_distribution(spec, "nb", "simulate_gaussian_groups")
    plan = _plan(spec, seed)
    if path is not None:
        require_disk(path, _stored_size(plan), "simulated counts")
    sheet = anndata.AnnData(obs=plan.obs, var=plan.var, uns={"flashmm": _self_description(plan)})
    with ThreadPoolExecutor(threads) as pool:
        blocks = _blocks(plan, pool, max(threads, -(-chunk_cells // BLOCK_CELLS)), progress)
        if path is None:
            sheet.X = sparse.vstack(list(blocks), format="csr")
        else:
            sheet = _write(sheet, blocks, pool, Path(path))
    return Simulation(
        adata=sheet,
        truth=plan.truth,
        reference=plan.reference,
        treated=spec.treated_condition,
        spec=spec,
        seed=seed,
        notes=plan.notes,
        path=None if path is None else Path(path),
    )


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
    _require_distribution(spec, "gaussian", "simulate_counts")
    streams = _Streams.from_seed(seed)
    n_genes = DEFAULT_GENES if spec.n_genes is None else spec.n_genes
    _check_de_genes(spec, n_genes)
    genes = pd.Index(labels("gene", n_genes))
    cells = _cells(spec, None, streams.cells)
    codes, obs = group_rows(cells[list(GROUPINGS)])
    n_cells = np.bincount(codes, minlength=len(obs))
    truth = _truth(spec, genes, streams.de)
    factor = np.exp(spec.variance_spread * stream(streams.genes, 0).standard_normal(n_genes))
    mean = _group_means(spec, streams, obs, truth, factor)
    total, squares = draw_group_sums(streams.counts, n_cells, mean, spec.residual_variance * factor)
    notes = _design_notes(cells, truth, (cells["condition"] == spec.treated_condition).to_numpy())
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
    streams: _Streams,
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


def _require_distribution(spec: SimulationSpec, wanted: str, other: str) -> None:
    if spec.distribution != wanted:
        raise InputError(
            f"distribution: {wanted!r} expected, found {spec.distribution!r}, which {other} draws"
        )


def draw_metadata(
    rng: np.random.Generator,
    n_cells: int,
    n_subjects: int,
    n_cell_types: int,
    n_conditions: int = 2,
    nested: bool = True,
) -> pd.DataFrame:
    """Draw the cell type, condition and subject of each cell uniformly.

    Parameters
    ----------
    rng : numpy.random.Generator
    n_cells, n_subjects, n_cell_types, n_conditions : int
    nested : bool
        Draw the subject among those of the cell's condition, `n_subjects` being split over the
        conditions evenly, instead of among all.

    Returns
    -------
    DataFrame (cells, 3)
        Categories `subject`, `cell_type`, `condition`; the index names the cells.
    """
    cell_type = rng.integers(n_cell_types, size=n_cells)
    condition = rng.integers(n_conditions, size=n_cells)
    conditions = ascii_uppercase[:n_conditions]
    if nested:
        per_condition = n_subjects // n_conditions + (
            np.arange(n_conditions) < n_subjects % n_conditions
        )
        first = np.cumsum(per_condition) - per_condition
        subject = first[condition] + rng.integers(per_condition[condition])
        subjects = _nested_labels(conditions, per_condition)
    else:
        subject = rng.integers(n_subjects, size=n_cells)
        subjects = labels("S", n_subjects)
    return pd.DataFrame(
        {
            "subject": pd.Categorical.from_codes(subject, pd.Index(subjects)),
            "cell_type": pd.Categorical.from_codes(
                cell_type, pd.Index(labels("type", n_cell_types))
            ),
            "condition": pd.Categorical.from_codes(condition, pd.Index(list(conditions))),
        },
        index=pd.Index(labels("cell", n_cells), dtype=object),
    )


# --- the plan: everything except the counts -------------------------------------------------------


class _Streams(NamedTuple):
    """One seed per purpose, so that no purpose disturbs another."""

    cells: np.random.SeedSequence
    libsize: np.random.SeedSequence
    genes: np.random.SeedSequence
    de: np.random.SeedSequence
    subject: np.random.SeedSequence
    pair: np.random.SeedSequence
    counts: np.random.SeedSequence

    @classmethod
    def from_seed(cls, seed: Seed) -> _Streams:
        root = _seed_sequence(seed)
        return cls(*(child_seed(root, purpose) for purpose in range(len(cls._fields))))


@dataclass(frozen=True, eq=False)
class _Background:
    """What to draw from: parameters of genes and, with a reference, the totals of its cells."""

    reference: pd.DataFrame
    totals: pd.Series | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Plan:
    """A simulation whose design and effects are decided; `block` draws its counts."""

    spec: SimulationSpec
    seed: Seed
    streams: _Streams
    obs: pd.DataFrame
    var: pd.DataFrame
    reference: pd.DataFrame
    truth: pd.DataFrame
    offset: Floats  # (cells,) centred log library sizes
    subject: Integers  # (cells,) codes
    cell_type: Integers  # (cells,) codes
    pair: Integers  # (cells,) codes of subject x cell type
    is_treated: NDArray[np.bool_]  # (cells,)
    de_cell_type: Integers  # (DE genes,) codes; the DE genes are the last genes
    subject_effect: Effect | None
    pair_effect: Effect | None
    notes: tuple[str, ...]

    @property
    def n_blocks(self) -> int:
        return -(-len(self.obs) // BLOCK_CELLS)

    @property
    def n_null(self) -> int:
        return len(self.var) - len(self.truth)

    def block(self, index: int) -> sparse.csr_matrix:
        """Counts of one block of cells, from its own random stream."""
        last = min((index + 1) * BLOCK_CELLS, len(self.obs))
        cells = np.arange(index * BLOCK_CELLS, last)
        rng = stream(self.streams.counts, index)
        # the null genes first, so that they do not notice the others
        null = self.pair if self.pair_effect else self.subject
        parts = [
            self._draw(rng, cells, genes, level[cells])
            for start, stop, level in (
                (0, self.n_null, null),
                (self.n_null, len(self.var), 2 * self.pair + self.is_treated),
            )
            for genes in _slices(start, stop, GENES)
        ]
        return parts[0] if len(parts) == 1 else sparse.hstack(parts, format="csr")

    def _draw(
        self, rng: np.random.Generator, cells: Integers, genes: slice, level: Integers
    ) -> sparse.csr_matrix:
        """Counts of some genes; cells of the same level have the same effects on them."""
        _, first, level = np.unique(level, return_index=True, return_inverse=True)
        size = self.var["dispersion"].to_numpy()[genes]
        try:
            return draw_block(
                rng, self.log_mean(cells[first], genes), size, level, self.offset[cells]
            )
        except OverflowError as error:
            raise InputError(
                f"simulate_counts: {error} is not one that cells have (limit {LARGEST_COUNT:,}); "
                "lower the variances, max_log_fc or the means of the reference"
            ) from error

    def log_mean(self, cells: Integers, genes: slice) -> Floats:
        """Natural log of the expected counts (cells, genes), without the offset."""
        log_mean = np.tile(np.log(self.var["mean"].to_numpy()[genes]), (len(cells), 1))
        for effect, level in ((self.subject_effect, self.subject), (self.pair_effect, self.pair)):
            if effect is not None:
                for row, code in zip(log_mean, level[cells], strict=True):
                    row += effect(int(code))[genes]
        if genes.start >= self.n_null:
            de = slice(genes.start - self.n_null, genes.stop - self.n_null)
            is_type = self.cell_type[cells, None] == self.de_cell_type[de]
            responds = self.is_treated[cells, None] & is_type
            log_mean += responds * self.truth["log_fc"].to_numpy()[de]
        return log_mean


def _slices(start: int, stop: int, step: int) -> Iterator[slice]:
    for first in range(start, stop, step):
        yield slice(first, min(first + step, stop))


def _effect(seed: np.random.SeedSequence, n_genes: int, variance: float) -> Effect | None:
    """Draw the effects of a level when they are first met, and keep the latest ones."""
    if variance == 0:
        return None

    @lru_cache(max(1, KEPT_EFFECTS // n_genes))
    def effect(level: int) -> Floats:
        return draw_effects(seed, np.array([level]), n_genes, variance)[0]

    return effect


def _plan(spec: SimulationSpec, seed: Seed) -> _Plan:
    streams = _Streams.from_seed(seed)
    background = _background(spec, streams.genes)
    var = _genes(spec, background.reference, streams.genes)
    cells = _cells(spec, background.totals, streams.cells)
    libsize = _library_sizes(spec, cells, background.totals, var["mean"].sum(), streams.libsize)
    truth = _truth(spec, var.index, streams.de)
    subject, cell_type = _codes(cells["subject"]), _codes(cells["cell_type"])
    is_treated = (cells["condition"] == spec.treated_condition).to_numpy()
    log_libsize = np.log(libsize)
    return _Plan(
        spec=spec,
        seed=seed,
        streams=streams,
        obs=_obs(cells, libsize),
        var=var,
        reference=background.reference,
        truth=truth,
        offset=log_libsize - log_libsize.mean(),
        subject=subject,
        cell_type=cell_type,
        pair=subject * len(spec.cell_types) + cell_type,
        is_treated=is_treated,
        de_cell_type=_codes(truth["cell_type"].astype(cells["cell_type"].dtype)),
        subject_effect=_effect(streams.subject, len(var), spec.subject_variance),
        pair_effect=_effect(streams.pair, len(var), spec.subject_cell_type_variance),
        notes=(*background.notes, *_design_notes(cells, truth, is_treated)),
    )


def _codes(values: pd.Series) -> Integers:
    return np.asarray(values.cat.codes, dtype=np.int64)


def _background(spec: SimulationSpec, seed: np.random.SeedSequence) -> _Background:
    if spec.reference is not None:
        try:
            return _read_reference(spec.reference)
        except InputError as error:
            raise InputError(f"reference: {error}") from error
    rng = stream(seed, 0)
    n_genes = DEFAULT_GENES if spec.n_genes is None else spec.n_genes
    mean = 1.0 + rng.poisson(1.0, size=n_genes)
    size = 1.0 + rng.poisson(1.0, size=n_genes)
    return _Background(_gene_frame(labels("gene", n_genes), mean, size))


def _read_reference(reference: anndata.AnnData | str | PathLike[str]) -> _Background:
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
        genes, cells = source.genes.astype(str), map(_text, source.container.cell_names[:])
    mean, size = reference_parameters(n_cells, total, total_of_squares)
    kept = np.isfinite(size)
    return _Background(
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


def _genes(
    spec: SimulationSpec, reference: pd.DataFrame, seed: np.random.SeedSequence
) -> pd.DataFrame:
    """The simulated genes: the reference's in their order, or drawn from them."""
    n_genes = len(reference) if spec.n_genes is None else spec.n_genes
    _check_de_genes(spec, n_genes)
    drawn = reference.iloc[resample(stream(seed, 1), len(reference), n_genes)]
    names = make_index_unique(pd.Index(drawn["gene"].to_numpy(), dtype=object))
    var = drawn[["mean", "dispersion"]].set_axis(names, axis=0)
    if spec.reference is not None:
        var["reference_gene"] = drawn["gene"].to_numpy()
    return var


def _check_de_genes(spec: SimulationSpec, n_genes: int) -> None:
    if spec.total_de_genes > n_genes:
        raise InputError(
            f"SimulationSpec: {spec.total_de_genes} DE genes asked for among {n_genes} genes; "
            "lower n_de_genes (or n_de_by_type) or raise n_genes"
        )


def _cells(
    spec: SimulationSpec, totals: pd.Series | None, seed: np.random.SeedSequence
) -> pd.DataFrame:
    """The sheet of cells, categories in the order of the spec; `libsize` where it was given."""
    rng = np.random.default_rng(seed)
    if spec.metadata is None:
        default = DEFAULT_CELLS if totals is None else int(np.count_nonzero(totals))
        n_cells = default if spec.n_cells is None else spec.n_cells
        if spec.cells_cv is not None:
            return _dealt_cells(spec, rng, n_cells, spec.cells_cv)
        design = (spec.n_subjects, spec.n_cell_types, spec.n_conditions, spec.nested)
        return draw_metadata(rng, n_cells, *design)
    given = spec.metadata.assign(**{name: categorical(spec.metadata[name]) for name in GROUPINGS})
    n_cells = len(given) if spec.n_cells is None else spec.n_cells
    return given.iloc[resample(rng, len(given), n_cells)]


def _dealt_cells(
    spec: SimulationSpec, rng: np.random.Generator, n_cells: int, cv: float
) -> pd.DataFrame:
    """The sheet of cells whose numbers per subject, type and condition are spread by `cells_cv`."""
    units = _units(spec)
    n_groups = len(units) * spec.n_cell_types
    if n_cells < n_groups:
        raise InputError(
            f"n_cells: {n_cells} cells cannot give one to each of the {n_groups} groups of "
            "subject, cell type and condition; raise n_cells"
        )
    numbers = spread_cells(rng, n_cells, len(units), spec.n_cell_types, cv)
    group = np.repeat(np.arange(n_groups), numbers.ravel())
    unit, cell_type = np.divmod(group, spec.n_cell_types)
    sheet = units.iloc[unit].set_axis(pd.Index(labels("cell", n_cells), dtype=object), axis=0)
    types = pd.Categorical.from_codes(cell_type, pd.Index(spec.cell_types))
    return sheet.assign(cell_type=types)[list(GROUPINGS)]


def _units(spec: SimulationSpec) -> pd.DataFrame:
    """Each subject with its condition, or once with every condition, as categories."""
    conditions = np.arange(spec.n_conditions)
    if spec.nested:
        # the first conditions take what is left over
        per_condition = spec.n_subjects // spec.n_conditions + (
            conditions < spec.n_subjects % spec.n_conditions
        )
        names = _nested_labels(spec.conditions, per_condition)
        subject, condition = np.arange(spec.n_subjects), np.repeat(conditions, per_condition)
    else:
        names = labels("S", spec.n_subjects)
        subject = np.repeat(np.arange(spec.n_subjects), spec.n_conditions)
        condition = np.tile(conditions, spec.n_subjects)
    return pd.DataFrame(
        {
            "subject": pd.Categorical.from_codes(subject, pd.Index(names)),
            "condition": pd.Categorical.from_codes(condition, pd.Index(spec.conditions)),
        }
    )


def _library_sizes(
    spec: SimulationSpec,
    cells: pd.DataFrame,
    totals: pd.Series | None,
    expected_total: float,
    seed: np.random.SeedSequence,
) -> Floats:
    """Target library size of each cell: given, the reference's, or log-normal."""
    rng = np.random.default_rng(seed)
    if "libsize" in cells:
        libsize = cells["libsize"].to_numpy(np.float64)
    elif totals is None:
        deviation = rng.normal(0.0, LOG_LIBSIZE_SD * spec.adjust_libsize, size=len(cells))
        libsize = expected_total * np.exp(deviation - deviation.mean())
    elif spec.metadata is not None and cells.index.astype(str).isin(totals.index).all():
        libsize = _own_totals(cells, totals)
    else:
        pool = totals[totals > 0].to_numpy()
        libsize = pool[resample(rng, len(pool), len(cells))]
    return libsize if spec.adjust_libsize else np.full(len(cells), libsize.mean())


def _own_totals(cells: pd.DataFrame, totals: pd.Series) -> Floats:
    """Totals of cells that the metadata and the reference both name."""
    libsize = totals.loc[cells.index.astype(str)].to_numpy()
    if not libsize.all():
        raise InputError(
            f"metadata: {np.count_nonzero(libsize == 0)} of the cells have no counts in the "
            "reference; drop them, or give their libsize"
        )
    return libsize


def _truth(spec: SimulationSpec, genes: pd.Index, seed: np.random.SeedSequence) -> pd.DataFrame:
    """The DE genes: the last ones, cell type by cell type."""
    n_by_type = _de_numbers(spec, stream(seed, 0))
    n_de = int(n_by_type.sum())
    log_fc = draw_log_fc(stream(seed, 1), n_de, spec.direction, spec.min_log_fc, spec.max_log_fc)
    return pd.DataFrame(
        {
            "gene": np.asarray(genes[len(genes) - n_de :], dtype=object),
            "cell_type": np.repeat(np.asarray(spec.cell_types, dtype=object), n_by_type),
            "log_fc": log_fc,
        }
    )


def _de_numbers(spec: SimulationSpec, rng: np.random.Generator) -> Integers:
    types = spec.cell_types
    if spec.n_de_by_type is not None:
        return np.array([spec.n_de_by_type.get(name, 0) for name in types], dtype=np.int64)
    return apportion(rng, spec.total_de_genes, _de_weights(spec))


def _de_weights(spec: SimulationSpec) -> Floats:
    if spec.de_proportions is None:
        return np.ones(len(spec.cell_types))
    if isinstance(spec.de_proportions, Mapping):
        return np.array([spec.de_proportions.get(name, 0.0) for name in spec.cell_types], float)
    return np.asarray(spec.de_proportions, dtype=float)


def _obs(cells: pd.DataFrame, libsize: Floats) -> pd.DataFrame:
    """Obs of the result: the four columns first, levels without cells dropped, unique names."""
    obs = cells.drop(columns="libsize", errors="ignore").assign(
        **{name: cells[name].cat.remove_unused_categories() for name in GROUPINGS}
    )
    obs.insert(0, "libsize", libsize)
    obs.index = make_index_unique(pd.Index(cells.index.astype(str), dtype=object))
    return obs[[*GROUPINGS, *obs.columns.difference(list(GROUPINGS), sort=False)]]


def _design_notes(
    cells: pd.DataFrame, truth: pd.DataFrame, is_treated: NDArray[np.bool_]
) -> tuple[str, ...]:
    notes = []
    for name in GROUPINGS:
        empty = [level for level, n in cells[name].value_counts(sort=False).items() if n == 0]
        if empty:
            notes.append(note(f"simulate_counts: no cell was drawn for {name} {listed(empty)}."))
    unseen = set(truth["cell_type"]) - set(cells["cell_type"][is_treated])
    if unseen:
        notes.append(
            note(
                f"simulate_counts: cell type {listed(sorted(unseen))} has DE genes in the truth "
                "but no treated cells in which they could show."
            )
        )
    return tuple(notes)


# --- counts to memory or to disk ------------------------------------------------------------------


def _in_order(
    pool: Executor, call: Callable[[T], R], items: Iterable[T], ahead: int
) -> Iterator[R]:
    """Results of the calls in the order of the items, at most `ahead` of them not yet taken."""
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(call, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _blocks(
    plan: _Plan, pool: Executor, ahead: int, progress: bool | None
) -> Iterator[sparse.csr_matrix]:
    disable = None if progress is None else not progress
    with tqdm(total=len(plan.obs), desc="simulate", unit="cells", disable=disable) as bar:
        for block in _in_order(pool, plan.block, range(plan.n_blocks), ahead):
            yield block
            bar.update(block.shape[0])


def _stored_size(plan: _Plan) -> float:
    """Bytes of the file, by the nonzero counts of a cell without effects."""
    mean, size = plan.var["mean"].to_numpy(), plan.var["dispersion"].to_numpy()
    per_cell = -np.expm1(-size * np.log1p(mean / size)).sum()  # Σ P(y > 0)
    return len(plan.obs) * (BYTES_PER_COUNT * per_cell + BYTES_PER_CELL)


def _write(
    sheet: anndata.AnnData, blocks: Iterator[sparse.csr_matrix], pool: Executor, path: Path
) -> anndata.AnnData:
    """Write the sheet, then the counts; return the file opened as backed AnnData."""
    with atomic_path(path) as temporary:
        sheet.write_h5ad(temporary)
        with h5py.File(temporary, "r+") as file:
            if "X" in file:
                del file["X"]
            _write_counts(file.create_group("X"), blocks, pool, sheet.shape)
    return anndata.read_h5ad(path, backed="r")


def _write_counts(
    group: h5py.Group,
    blocks: Iterator[sparse.csr_matrix],
    pool: Executor,
    shape: tuple[int, int],
) -> None:
    """Write blocks of rows as one matrix in compressed sparse rows, as AnnData stores it."""
    group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape})
    stored = {"compression": "gzip", "compression_opts": 1, "chunks": (CHUNK,), "maxshape": (None,)}
    for name, dtype in (("data", np.float32), ("indices", np.int32)):
        group.create_dataset(name, (0,), dtype, **stored)
    row_sizes: list[Integers] = []
    for piece, compressed in _in_order(pool, _compress, _pieces(blocks, row_sizes), PIECES_AHEAD):
        group[piece.name].resize((piece.start + len(piece.values),))
        group[piece.name].id.write_direct_chunk((piece.start,), compressed)
    # row pointers of 64 bits: a file may grow beyond 2^31 stored counts
    row_ends = np.cumsum(np.concatenate([[0], *row_sizes]), dtype=np.int64)
    group.create_dataset("indptr", data=row_ends, **stored)


class _Piece(NamedTuple):
    """Numbers that make one chunk of a dataset; the last one of a dataset may be short."""

    name: str
    start: int
    values: NDArray[Any]


def _pieces(blocks: Iterable[sparse.csr_matrix], row_sizes: list[Integers]) -> Iterator[_Piece]:
    """Cut the values and the columns into chunks; adds the number of values of each row."""
    start, data, indices = 0, np.empty(0, np.float32), np.empty(0, np.int32)
    for block in blocks:
        row_sizes.append(np.diff(block.indptr))
        data = np.concatenate([data, block.data])
        indices = np.concatenate([indices, block.indices])
        whole = len(data) // CHUNK * CHUNK
        for first in range(0, whole, CHUNK):
            yield _Piece("data", start + first, data[first : first + CHUNK])
            yield _Piece("indices", start + first, indices[first : first + CHUNK])
        start, data, indices = start + whole, data[whole:], indices[whole:]
    if len(data):
        yield _Piece("data", start, data)
        yield _Piece("indices", start, indices)


def _compress(piece: _Piece) -> tuple[_Piece, bytes]:
    """Compress a chunk as the filter of HDF5 does, filled up with zeros."""
    full = np.zeros(CHUNK, piece.values.dtype)
    full[: len(piece.values)] = piece.values
    return piece, isal_zlib.compress(full.data, 1)


def _self_description(plan: _Plan) -> dict[str, Any]:
    """What a file says about itself, under `uns["flashmm"]`."""
    return {
        "truth": plan.truth.set_axis(plan.truth.index.astype(str), axis=0),
        "reference": plan.reference.set_axis(plan.reference.index.astype(str), axis=0),
        "treated": plan.spec.treated_condition,
        "spec": json.dumps(plan.spec.describe()),
        "provenance": json.dumps(_provenance(plan)),
        "notes": np.array(plan.notes, dtype=object),
    }


def _provenance(plan: _Plan) -> dict[str, Any]:
    reference = plan.spec.reference
    digest = file_digest(reference) if isinstance(reference, str | PathLike) else None
    return {
        "flashmm": package_version(),
        "seed": plain(plan.seed),
        "reference_sha256": digest,
    }


# --- small helpers --------------------------------------------------------------------------------


def _seed_sequence(seed: Seed) -> np.random.SeedSequence:
    if isinstance(seed, np.random.SeedSequence):
        return seed
    try:
        if seed is None:
            raise TypeError("no seed")
        return np.random.SeedSequence(seed)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"seed: whole numbers of at least 0 expected, so that the simulation can be repeated; "
            f"found {seed!r}"
        ) from error


def _nested_labels(conditions: Sequence[str], per_condition: Integers) -> list[str]:
    width = len(str(per_condition.max()))
    return [
        f"{condition}{number:0{width}d}"
        for condition, n in zip(conditions, per_condition, strict=True)
        for number in range(1, n + 1)
    ]


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
