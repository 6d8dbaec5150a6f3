"""Which genes are differentially expressed, where, and by how much."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashmm.kernels.negative_binomial import Floats, Integers, apportion, draw_log_fc, stream
from flashmm.names import listed
from flashmm.options import InputError, note
from flashmm.simulate.spec import SimulationSpec
from flashmm.simulate.values import GROUPINGS


def draw_truth(spec: SimulationSpec, genes: pd.Index, seed: np.random.SeedSequence) -> pd.DataFrame:
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


def check_de_genes(spec: SimulationSpec, n_genes: int) -> None:
    """Refuse more DE genes than genes."""
    if spec.total_de_genes > n_genes:
        raise InputError(
            f"SimulationSpec: {spec.total_de_genes} DE genes asked for among {n_genes} genes; "
            "lower n_de_genes (or n_de_by_type) or raise n_genes"
        )


def design_notes(
    cells: pd.DataFrame, truth: pd.DataFrame, is_treated: NDArray[np.bool_]
) -> tuple[str, ...]:
    """Say what of the design got no cell: levels, and DE genes that cannot show."""
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


def silence_notes(
    truth: pd.DataFrame, de_cell_type: Integers, type_shift: Floats | None
) -> tuple[str, ...]:
    """Say how many DE genes their cell type does not express at all."""
    if type_shift is None or truth.empty:
        return ()
    first = type_shift.shape[1] - len(truth)
    silent = np.isneginf(type_shift[de_cell_type, first + np.arange(len(truth))])
    if not silent.any():
        return ()
    return (
        note(
            f"simulate_counts: {silent.sum()} of {len(truth)} DE genes have no counts in their "
            "cell type of the reference, so that no method can find them."
        ),
    )
