"""The sheet of simulated cells: subject, cell type, condition and library size of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

import numpy as np
import pandas as pd
from anndata.utils import make_index_unique

from flashmm.kernels.gaussian_groups import spread_cells
from flashmm.kernels.negative_binomial import Floats, Integers, resample
from flashmm.options import InputError
from flashmm.simulate.spec import SimulationSpec
from flashmm.simulate.values import GROUPINGS, categorical, labels

DEFAULT_CELLS = 5_000
LOG_LIBSIZE_SD = 0.5  # droplet data: 0.56 in the Kang 2018 PBMC subset that the tests read


@dataclass(frozen=True, eq=False)
class ReferenceCells:
    """Cells of a reference: their totals by name, and the codes of the types they stand for.

    Codes from the number of simulated types on belong to none; None where types are all alike.
    """

    totals: pd.Series
    cell_type: Integers | None = None


def sheet_of_cells(
    spec: SimulationSpec, reference: ReferenceCells | None, seed: np.random.SeedSequence
) -> pd.DataFrame:
    """The sheet of cells, categories in the order of the spec; `libsize` where it was given."""
    rng = np.random.default_rng(seed)
    if spec.metadata is None:
        default = DEFAULT_CELLS if reference is None else int(np.count_nonzero(reference.totals))
        n_cells = default if spec.n_cells is None else spec.n_cells
        if spec.cells_cv is not None:
            return _spread_sheet(spec, rng, n_cells, spec.cells_cv)
        design = (spec.n_subjects, spec.n_cell_types, spec.n_conditions, spec.nested)
        return draw_metadata(rng, n_cells, *design)
    given = spec.metadata.assign(**{name: categorical(spec.metadata[name]) for name in GROUPINGS})
    n_cells = len(given) if spec.n_cells is None else spec.n_cells
    return given.iloc[resample(rng, len(given), n_cells)]


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


def _spread_sheet(
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


def _nested_labels(conditions: Sequence[str], per_condition: Integers) -> list[str]:
    width = len(str(per_condition.max()))
    return [
        f"{condition}{number:0{width}d}"
        for condition, n in zip(conditions, per_condition, strict=True)
        for number in range(1, n + 1)
    ]


def library_sizes(
    spec: SimulationSpec,
    cells: pd.DataFrame,
    reference: ReferenceCells | None,
    expected_total: float,
    seed: np.random.SeedSequence,
) -> Floats:
    """Target library size of each cell: given, the reference's, or log-normal."""
    rng = np.random.default_rng(seed)
    if "libsize" in cells:
        libsize = cells["libsize"].to_numpy(np.float64)
    elif reference is None:
        deviation = rng.normal(0.0, LOG_LIBSIZE_SD * spec.adjust_libsize, size=len(cells))
        libsize = expected_total * np.exp(deviation - deviation.mean())
    elif spec.metadata is not None and cells.index.astype(str).isin(reference.totals.index).all():
        libsize = _own_totals(cells, reference.totals)
    else:
        libsize = _drawn_totals(rng, cells, reference)
    if not spec.adjust_libsize:
        return np.full(len(cells), libsize.mean())
    return _by_condition(libsize, cells["condition"] == spec.treated_condition, spec.libsize_ratio)


def _drawn_totals(
    rng: np.random.Generator, cells: pd.DataFrame, reference: ReferenceCells
) -> Floats:
    """Totals of cells of the reference, of the same type where types are told apart."""
    totals = reference.totals.to_numpy()
    if reference.cell_type is None:
        pool = totals[totals > 0]
        return pool[resample(rng, len(pool), len(cells))]
    drawn, wanted = np.empty(len(cells)), cells["cell_type"].cat.codes.to_numpy()
    for code in np.unique(wanted):
        pool = totals[(reference.cell_type == code) & (totals > 0)]
        members = np.flatnonzero(wanted == code)
        drawn[members] = pool[resample(rng, len(pool), len(members))]
    return drawn


def _by_condition(libsize: Floats, treated: pd.Series, ratio: float) -> Floats:
    """Library sizes that differ by a factor between treated and other cells."""
    if ratio == 1:
        return libsize
    # ratio^(treated − its mean): the geometric mean over all cells stays
    is_treated = treated.to_numpy(np.float64)
    return libsize * ratio ** (is_treated - is_treated.mean())


def _own_totals(cells: pd.DataFrame, totals: pd.Series) -> Floats:
    """Totals of cells that the metadata and the reference both name."""
    libsize = totals.loc[cells.index.astype(str)].to_numpy()
    if not libsize.all():
        raise InputError(
            f"metadata: {np.count_nonzero(libsize == 0)} of the cells have no counts in the "
            "reference; drop them, or give their libsize"
        )
    return libsize


def tidy_obs(cells: pd.DataFrame, libsize: Floats) -> pd.DataFrame:
    """Obs of the result: the four columns first, levels without cells dropped, unique names."""
    obs = cells.drop(columns="libsize", errors="ignore").assign(
        **{name: cells[name].cat.remove_unused_categories() for name in GROUPINGS}
    )
    obs.insert(0, "libsize", libsize)
    obs.index = make_index_unique(pd.Index(cells.index.astype(str), dtype=object))
    return obs[[*GROUPINGS, *obs.columns.difference(list(GROUPINGS), sort=False)]]
