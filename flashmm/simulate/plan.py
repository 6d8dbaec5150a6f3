"""The plan of a simulation of counts: everything is decided, and counts are drawn by blocks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
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
    stream,
)
from flashmm.options import InputError
from flashmm.simulate.genes import Background, draw_background, simulated_genes
from flashmm.simulate.seeds import GeneStream, Seed, Streams
from flashmm.simulate.sheet import library_sizes, sheet_of_cells, tidy_obs
from flashmm.simulate.spec import SimulationSpec
from flashmm.simulate.truth import design_notes, draw_truth, silence_notes
from flashmm.simulate.variation import (
    GeneTraits,
    draw_traits,
    effects_of,
    marker_shift,
    trait_columns,
)

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
    background: Background
    truth: pd.DataFrame
    offset: Floats  # (cells,) centred log library sizes
    cell_type: Integers  # (cells,) codes
    is_treated: NDArray[np.bool_]  # (cells,)
    de_cell_type: Integers  # (DE genes,) codes; the DE genes are the last genes
    type_shift: Floats | None  # (types, genes) added to the log means; None: types are alike
    effects: tuple[tuple[Effect, Integers], ...]  # with the level of each cell
    null_level: Integers  # (cells,) cells that are alike but for their offset, on null genes
    de_level: Integers  # (cells,) and on DE genes
    notes: tuple[str, ...]

    @property
    def n_blocks(self) -> int:
        """Blocks of cells, the last one perhaps short."""
        return -(-len(self.obs) // BLOCK_CELLS)

    @property
    def n_null(self) -> int:
        """Genes that are nowhere differentially expressed; they come first."""
        return len(self.var) - len(self.truth)

    @property
    def varm(self) -> dict[str, Floats]:
        """Means of the cell types that have cells, (genes, types), where types differ."""
        if self.type_shift is None:
            return {}
        mean = self.var["mean"].to_numpy()[:, None] * np.exp(self.type_shift.T)
        return {"mean_by_type": mean[:, np.unique(self.cell_type)]}

    def block(self, index: int) -> sparse.csr_matrix:
        """Counts of one block of cells, from its own random stream."""
        last = min((index + 1) * BLOCK_CELLS, len(self.obs))
        cells = np.arange(index * BLOCK_CELLS, last)
        rng = stream(self.streams.counts, index)
        # the null genes first, so that they do not notice the others
        parts = [
            self._draw(rng, cells, genes, level[cells])
            for start, stop, level in (
                (0, self.n_null, self.null_level),
                (self.n_null, len(self.var), self.de_level),
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
        if self.type_shift is not None:
            log_mean += self.type_shift[self.cell_type[cells], genes]
        for effect, level in self.effects:
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


def make_plan(spec: SimulationSpec, seed: Seed) -> Plan:
    """Decide everything but the counts."""
    streams = Streams.from_seed(seed)
    background = draw_background(spec, streams.genes)
    var, place = simulated_genes(spec, background, streams.genes)
    cells = sheet_of_cells(spec, background.cells, streams.cells)
    libsize = library_sizes(spec, cells, background.cells, var["mean"].sum(), streams.libsize)
    truth = draw_truth(spec, var.index, streams.de)
    traits = draw_traits(spec, len(var), len(truth), streams.genes, GeneStream.VARIANCES)
    shift = _type_shift(spec, background.type_ratio, place, traits)
    is_treated = (cells["condition"] == spec.treated_condition).to_numpy()
    de_cell_type = _codes(truth["cell_type"].astype(cells["cell_type"].dtype))
    log_libsize = np.log(libsize)
    levels = _levels(spec, cells)
    effects = _effects(spec, streams, traits)
    null_level, de_level = _alike(levels, is_treated, effects.keys(), shift is not None)
    return Plan(
        spec=spec,
        seed=seed,
        streams=streams,
        obs=tidy_obs(cells, libsize),
        var=var.assign(**trait_columns(spec, traits)),
        background=background,
        truth=truth,
        offset=log_libsize - log_libsize.mean(),
        cell_type=_codes(cells["cell_type"]),
        is_treated=is_treated,
        de_cell_type=de_cell_type,
        type_shift=shift,
        effects=tuple((effect, levels[name]) for name, effect in effects.items()),
        null_level=null_level,
        de_level=de_level,
        notes=(
            *background.notes,
            *design_notes(cells, truth, is_treated),
            *silence_notes(truth, de_cell_type, shift),
        ),
    )


def _codes(values: pd.Series) -> Integers:
    return np.asarray(values.cat.codes, dtype=np.int64)


def _type_shift(
    spec: SimulationSpec, type_ratio: Floats | None, place: Integers, traits: GeneTraits
) -> Floats | None:
    """Natural log of the mean in each type over that of the gene, (types, genes)."""
    if type_ratio is None and spec.marker_fraction == 0:
        return None
    shift = marker_shift(spec, traits)
    if type_ratio is not None:
        with np.errstate(divide="ignore"):  # a type that does not express the gene: −∞
            shift += np.log(type_ratio[:, place])
    return shift


def _levels(spec: SimulationSpec, cells: pd.DataFrame) -> dict[str, Integers]:
    """Codes of the levels of each cell: subjects, and their combinations."""
    subject, cell_type = _codes(cells["subject"]), _codes(cells["cell_type"])
    condition = _codes(cells["condition"])
    n_types, n_conditions = len(spec.cell_types), len(spec.conditions)
    pair = subject * n_types + cell_type
    return {
        "subject": subject,
        "pair": pair,
        "subject_condition": subject * n_conditions + condition,
        "group": pair * n_conditions + condition,
    }


def _effects(spec: SimulationSpec, streams: Streams, traits: GeneTraits) -> dict[str, Effect]:
    """The components that have a variance, by the names of their levels."""
    wanted = {
        "subject": (streams.subject, spec.subject_variance),
        "pair": (streams.pair, spec.subject_cell_type_variance),
        "subject_condition": (streams.subject_condition, spec.subject_condition_variance),
    }
    return {
        name: _effect(spec, traits, seed, variance)
        for name, (seed, variance) in wanted.items()
        if variance > 0
    }


def _effect(
    spec: SimulationSpec, traits: GeneTraits, seed: np.random.SeedSequence, variance: float
) -> Effect:
    """Draw the effects of a level when they are first met, and keep the latest ones."""
    own = variance * traits.variance_factor

    @lru_cache(max(1, KEPT_EFFECTS // len(own)))
    def effect(level: int) -> Floats:
        return effects_of(spec, traits, seed, np.array([level]), own)[0]

    return effect


def _alike(
    levels: Mapping[str, Integers],
    is_treated: NDArray[np.bool_],
    components: Collection[str],
    types_differ: bool,
) -> tuple[Integers, Integers]:
    """Levels within which cells have the same means but for their offset: of null and DE genes."""
    if "subject_condition" in components:
        return levels["group"], levels["group"]
    null = levels["pair"] if "pair" in components or types_differ else levels["subject"]
    return null, 2 * levels["pair"] + is_treated
