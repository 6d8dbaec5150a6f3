"""The plan of a simulation of counts: everything is decided, and counts are drawn by blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from flashmm.kernels.negative_binomial import (
    LARGEST_COUNT,
    Floats,
    Integers,
    draw_block,
    draw_effects,
    stream,
)
from flashmm.options import InputError
from flashmm.simulate.genes import draw_background, simulated_genes
from flashmm.simulate.seeds import Seed, Streams
from flashmm.simulate.sheet import library_sizes, sheet_of_cells, tidy_obs
from flashmm.simulate.spec import SimulationSpec
from flashmm.simulate.truth import design_notes, draw_truth

Effect = Callable[[int], Floats]  # of a level, on every gene

KEPT_EFFECTS = 2**25  # numbers of each component that stay in memory: 256 MB
GENES = 2_048  # drawn at a time, so that their means stay in the cache; part of what a seed means
BLOCK_CELLS = 256  # cells per random stream; part of what a seed means, so never an option


@dataclass(frozen=True, eq=False)
class Plan:
    """A simulation whose design and effects are decided; `block` draws its counts."""

    spec: SimulationSpec
    seed: Seed
    streams: Streams
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
        """Blocks of cells, the last one perhaps short."""
        return -(-len(self.obs) // BLOCK_CELLS)

    @property
    def n_null(self) -> int:
        """Genes that are nowhere differentially expressed; they come first."""
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


def make_plan(spec: SimulationSpec, seed: Seed) -> Plan:
    """Decide everything but the counts."""
    streams = Streams.from_seed(seed)
    background = draw_background(spec, streams.genes)
    var = simulated_genes(spec, background.reference, streams.genes)
    cells = sheet_of_cells(spec, background.totals, streams.cells)
    libsize = library_sizes(spec, cells, background.totals, var["mean"].sum(), streams.libsize)
    truth = draw_truth(spec, var.index, streams.de)
    subject, cell_type = _codes(cells["subject"]), _codes(cells["cell_type"])
    is_treated = (cells["condition"] == spec.treated_condition).to_numpy()
    log_libsize = np.log(libsize)
    return Plan(
        spec=spec,
        seed=seed,
        streams=streams,
        obs=tidy_obs(cells, libsize),
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
        notes=(*background.notes, *design_notes(cells, truth, is_treated)),
    )


def _codes(values: pd.Series) -> Integers:
    return np.asarray(values.cat.codes, dtype=np.int64)
