"""What to simulate: the record of the wishes, and the checks that they can be met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from os import PathLike
from string import ascii_uppercase
from typing import Any

import anndata
import numpy as np
import pandas as pd

from flashmm.names import listed
from flashmm.options import InputError
from flashmm.simulate.values import (
    categorical,
    check_metadata,
    check_not_negative,
    check_positive,
    check_share,
    check_type_names,
    check_whole,
    labels,
    plain,
)

DIRECTIONS = ("both", "up", "down")
DISTRIBUTIONS = ("nb", "gaussian")
# Fields that belong to one distribution, and the value that leaves them out.
GAUSSIAN_FIELDS = {"residual_variance": 1.0, "marker_variance_ratio": 1.0, "ratio_spread": 0.0}
COUNT_FIELDS = {
    "reference": None,
    "reference_cell_type": None,
    "adjust_libsize": True,
    "libsize_ratio": 1.0,
    "exclusive_markers": 0.0,
}


@dataclass(frozen=True, eq=False)
class SimulationSpec:
    """What to simulate; checked when it is made.

    Attributes
    ----------
    reference : AnnData, path of an .h5ad file, or None
        Raw counts (cells x genes) that give the means, dispersions and library sizes. None draws
        mean = 1 + Poisson(1) and size = 1 + Poisson(1) for each gene, and log-normal library sizes
        (standard deviation 0.5 of the natural log) around the sum of the means.
    reference_cell_type : str or None
        Column of the reference's obs that names the cell types of its cells. Each simulated type
        then has the means and library sizes of one of them (and one dispersion, from the variance
        within types): the one of its name where `metadata` are given; else the types with most
        cells are taken in that order, ties by name. None gives all types the same means.
    metadata : DataFrame or None
        One row per cell with `subject`, `cell_type`, `condition` and, optionally, `libsize`; other
        columns are carried along. None draws the cells; then `n_subjects`, `n_cell_types`,
        `n_conditions` and `nested` apply, which are ignored otherwise.
    n_genes : int or None
        None: as many as the reference has, 1,000 without one. Other numbers than the reference's
        are drawn from it at random, with replacement only where more are wanted than there are.
    n_cells : int or None
        None: as many as `metadata` has, else as the reference has, else 5,000. Rows of `metadata`
        and library sizes of the reference are drawn like the genes.
    n_subjects, n_cell_types, n_conditions : int
        Numbers of the drawn design; conditions are named A, B, ... (at most 26), cell types type1,
        type2, ..., subjects A1, B1, ... (nested) or S1, S2, ..., numbers padded with zeros.
    nested : bool
        Whether a subject has one condition (subjects are split over the conditions as evenly as
        possible, the first conditions taking what is left over) or cells of all conditions.
    treated : str or None
        The condition in which the DE effects act; None takes the last in sorted order.
    n_de_genes : int or None
        DE genes in total, None as many as there are cell types. A gene is DE in one cell type.
    n_de_by_type : mapping of str to int, or None
        DE genes of each cell type; types not named have none.
    de_proportions : mapping of str to float, sequence of float, or None
        Shares of `n_de_genes` per cell type, scaled to sum to 1; None is equal shares. What
        rounding leaves over is given at random, with the lost fractions as probabilities.
    direction : {"both", "up", "down"}
        Sign of the log fold changes; "both" tosses a fair coin per gene.
    min_log_fc, max_log_fc : float
        Range of the uniform absolute log fold changes (natural log).
    adjust_libsize : bool
        False gives every cell the mean library size, so that the offset is zero.
    libsize_ratio : float
        How many times larger the library size of treated cells is; 1 for no difference. The
        geometric mean over all cells stays.
    subject_variance, subject_cell_type_variance : float
        Variances of the normal effects per gene and subject, and per gene, subject and cell type.
    subject_condition_variance : float
        Variance of the effects per gene, subject and condition, the same in all cell types; for
        subjects with several conditions (``nested=False``).
    variance_spread : float
        Each gene has its variances (of the effects above, and the residual one of Gaussian values)
        multiplied by a log-normal number; this is the standard deviation of its natural logarithm.
        DE effects stay as they are.
    ratio_spread : float
        Gaussian: each gene has the variances of the effects, and not the residual one, multiplied
        by another log-normal number with this standard deviation of its natural logarithm, so that
        genes differ in the ratio of the two. (Of counts `variance_spread` does so.)
    gene_correlation : float
        Correlation, 0 to 1, of the effects above between genes of the same module. Genes of
        different modules are independent.
    gene_modules : int
        Number of modules; each gene belongs to one of them at random.
    marker_fraction : float
        Expected share of the genes, 0 to 1, that are markers of a cell type, each of one type at
        random. A marker is no DE gene by this: it is up in its type whatever the condition. DE
        genes may be markers too, of any type.
    marker_log_fc : float
        How much the natural log of the mean of a marker is higher in its type (the mean itself,
        for Gaussian values).
    exclusive_markers : float
        Expected share of the markers, 0 to 1, that no other type expresses. DE genes are never
        among them: their means are above zero in all types.
    marker_variance_ratio : float
        Gaussian: what all variances of a marker are multiplied by in its type. (Variances of
        counts follow the mean by themselves.)
    cells_cv : float or None
        None draws the group of each cell, all alike. A number fixes how many cells each subject has
        of each type (and condition, where it has several): the quantiles of a log-normal
        distribution with this coefficient of variation, randomly assigned to subjects type by type;
        one cell at least. 0 is as equal as `n_cells` allows, 1 is a tenfold range of six subjects
        and a fortyfold one of fifty.
    distribution : {"nb", "gaussian"}
        Negative binomial counts (`simulate_counts`), or values that are normal around the effects,
        of which only the sums over groups are drawn (`simulate_gaussian_groups`).
    residual_variance : float
        Gaussian: variance of the cells of a group; above zero.

    Raises
    ------
    InputError
        Names the field, what was found, and what is allowed.
    """

    reference: anndata.AnnData | str | PathLike[str] | None = None
    metadata: pd.DataFrame | None = None
    n_genes: int | None = None
    n_cells: int | None = None
    n_subjects: int = 25
    n_cell_types: int = 10
    n_conditions: int = 2
    nested: bool = True
    treated: str | None = None
    n_de_genes: int | None = None
    n_de_by_type: Mapping[str, int] | None = None
    de_proportions: Mapping[str, float] | Sequence[float] | None = None
    direction: str = "both"
    min_log_fc: float = 0.25
    max_log_fc: float = 1.0
    adjust_libsize: bool = True
    subject_variance: float = 0.1
    subject_cell_type_variance: float = 0.0
    cells_cv: float | None = None
    distribution: str = "nb"
    residual_variance: float = 1.0
    variance_spread: float = 0.0
    reference_cell_type: str | None = None
    libsize_ratio: float = 1.0
    subject_condition_variance: float = 0.0
    gene_correlation: float = 0.0
    gene_modules: int = 10
    marker_fraction: float = 0.0
    marker_log_fc: float = 1.5
    exclusive_markers: float = 0.0
    marker_variance_ratio: float = 1.0
    ratio_spread: float = 0.0

    def __post_init__(self) -> None:
        """Check every field."""
        _check_types(self)
        if self.metadata is None:
            _check_drawn_design(self)
        else:
            check_metadata(self.metadata)
        _check_effects(self)
        _check_de_numbers(self)
        _check_distribution(self)
        _check_reference_types(self)
        _check_library_sizes(self)
        _check_variation(self)

    @property
    def cell_types(self) -> list[str]:
        """Names of the cell types, in the order of their categories."""
        if self.metadata is None:
            return labels("type", self.n_cell_types)
        return list(categorical(self.metadata["cell_type"]).categories)

    @property
    def conditions(self) -> list[str]:
        """Names of the conditions, in the order of their categories."""
        if self.metadata is None:
            return list(ascii_uppercase[: self.n_conditions])
        return list(categorical(self.metadata["condition"]).categories)

    @property
    def treated_condition(self) -> str:
        """`treated`, or the last condition in sorted order."""
        return sorted(self.conditions)[-1] if self.treated is None else self.treated

    @property
    def total_de_genes(self) -> int:
        """Number of DE genes over all cell types."""
        if self.n_de_by_type is not None:
            return sum(self.n_de_by_type.values())
        return len(self.cell_types) if self.n_de_genes is None else self.n_de_genes

    def describe(self) -> dict[str, Any]:
        """All fields as plain values that JSON can hold; data are named by their shape."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}


def _check_types(spec: SimulationSpec) -> None:
    for name, minimum in (("n_subjects", 1), ("n_cell_types", 1), ("n_conditions", 1)):
        check_whole(name, getattr(spec, name), minimum)
    check_whole("gene_modules", spec.gene_modules, 1)
    for name, minimum in (("n_genes", 1), ("n_cells", 1), ("n_de_genes", 0)):
        if getattr(spec, name) is not None:
            check_whole(name, getattr(spec, name), minimum)
    for name in (
        *("min_log_fc", "max_log_fc", "subject_variance", "subject_cell_type_variance"),
        *("residual_variance", "variance_spread", "subject_condition_variance", "marker_log_fc"),
        "ratio_spread",
    ):
        check_not_negative(name, getattr(spec, name))
    for name in ("marker_fraction", "exclusive_markers", "gene_correlation"):
        check_share(name, getattr(spec, name))
    for name in ("libsize_ratio", "marker_variance_ratio"):
        check_positive(name, getattr(spec, name))
    if spec.cells_cv is not None:
        check_not_negative("cells_cv", spec.cells_cv)
    for name in ("nested", "adjust_libsize"):
        if not isinstance(getattr(spec, name), bool | np.bool_):
            raise InputError(f"{name}: True or False expected, found {getattr(spec, name)!r}")
    if not isinstance(spec.reference, anndata.AnnData | str | PathLike | None):
        raise InputError(f"reference: AnnData or a path expected, found {type(spec.reference)}")


def _check_drawn_design(spec: SimulationSpec) -> None:
    if spec.n_conditions > len(ascii_uppercase):
        raise InputError(
            f"n_conditions: at most {len(ascii_uppercase)} conditions are drawn, found "
            f"{spec.n_conditions}; give metadata for more"
        )
    if spec.nested and spec.n_subjects < spec.n_conditions:
        raise InputError(
            f"n_subjects: {spec.n_subjects} subjects cannot be nested in {spec.n_conditions} "
            "conditions; give each condition at least one, or set nested=False"
        )


def _check_distribution(spec: SimulationSpec) -> None:
    if spec.distribution not in DISTRIBUTIONS:
        raise InputError(
            f"distribution: one of {listed(DISTRIBUTIONS)} expected, found {spec.distribution!r}"
        )
    foreign = GAUSSIAN_FIELDS if spec.distribution == "nb" else COUNT_FIELDS
    for name, absent in foreign.items():
        found = getattr(spec, name)
        if found is not absent and found != absent:
            raise InputError(f"{name}: it has no meaning for the distribution {spec.distribution}")
    if spec.residual_variance == 0:
        raise InputError("residual_variance: a number above 0 expected, found 0")
    if spec.cells_cv is not None and spec.metadata is not None:
        raise InputError("cells_cv: metadata say how many cells there are; give one of the two")


def _check_reference_types(spec: SimulationSpec) -> None:
    column = spec.reference_cell_type
    if column is None:
        return
    if not isinstance(column, str) or not column:
        raise InputError(f"reference_cell_type: the name of a column expected, found {column!r}")
    if spec.reference is None:
        raise InputError(
            f"reference_cell_type: {column!r} is a column of the reference, but there is no "
            "reference; give one, or marker_fraction for the means that are built in"
        )


def _check_library_sizes(spec: SimulationSpec) -> None:
    if spec.libsize_ratio == 1:
        return
    asked = f"libsize_ratio: {spec.libsize_ratio} asked for, but"
    if not spec.adjust_libsize:
        raise InputError(f"{asked} adjust_libsize=False gives all cells the same library size")
    if spec.metadata is not None and "libsize" in spec.metadata:
        raise InputError(f"{asked} metadata give the library size of each cell; drop one of them")
    if len(spec.conditions) < 2:
        raise InputError(f"{asked} all cells are of the condition {listed(spec.conditions)}")


def _check_variation(spec: SimulationSpec) -> None:
    if spec.marker_fraction > 0 and len(spec.cell_types) < 2:
        raise InputError(
            "marker_fraction: markers tell two cell types or more apart, found "
            f"{listed(spec.cell_types)}; set marker_fraction=0"
        )
    for name, absent in (("exclusive_markers", 0), ("marker_variance_ratio", 1)):
        if getattr(spec, name) != absent and spec.marker_fraction == 0:
            raise InputError(f"{name}: there are no markers; set marker_fraction above 0")
    if spec.subject_condition_variance > 0 and spec.metadata is None and spec.nested:
        raise InputError(
            "subject_condition_variance: each subject has one condition, so that these effects "
            "are those of subjects; raise subject_variance, or set nested=False"
        )


def _check_effects(spec: SimulationSpec) -> None:
    if spec.direction not in DIRECTIONS:
        raise InputError(
            f"direction: one of {listed(DIRECTIONS)} expected, found {spec.direction!r}"
        )
    if spec.min_log_fc > spec.max_log_fc or spec.max_log_fc == 0:
        raise InputError(
            f"min_log_fc, max_log_fc: 0 <= min <= max and max > 0 expected, found "
            f"{spec.min_log_fc} and {spec.max_log_fc}; `direction` gives the sign"
        )
    if spec.treated is not None and spec.treated not in spec.conditions:
        raise InputError(
            f"treated: no condition {spec.treated!r}; there are {listed(spec.conditions)}"
        )


def _check_de_numbers(spec: SimulationSpec) -> None:
    if spec.n_de_by_type is not None:
        _check_de_by_type(spec)
    if spec.de_proportions is not None:
        _check_proportions(spec)
    if spec.total_de_genes and len(spec.conditions) < 2:
        raise InputError(
            f"n_de_genes: {spec.total_de_genes} DE genes need two conditions or more, found "
            f"{listed(spec.conditions)}; set n_de_genes=0"
        )


def _check_de_by_type(spec: SimulationSpec) -> None:
    by_type = spec.n_de_by_type
    if not isinstance(by_type, Mapping):
        raise InputError(f"n_de_by_type: a mapping cell type -> number expected, found {by_type!r}")
    check_type_names("n_de_by_type", by_type, spec.cell_types)
    for name, number in by_type.items():
        check_whole(f"n_de_by_type[{name!r}]", number, 0)
    if spec.n_de_genes not in (None, sum(by_type.values())):
        raise InputError(
            f"n_de_genes: {spec.n_de_genes} does not equal the sum of n_de_by_type, "
            f"{sum(by_type.values())}; give one of the two"
        )
    if spec.de_proportions is not None:
        raise InputError("de_proportions: give either these or n_de_by_type, not both")


def _check_proportions(spec: SimulationSpec) -> None:
    proportions, types = spec.de_proportions, spec.cell_types
    if isinstance(proportions, Mapping):
        check_type_names("de_proportions", proportions, types)
        values = list(proportions.values())
    elif isinstance(proportions, str) or not np.iterable(proportions):
        raise InputError(f"de_proportions: numbers per cell type expected, found {proportions!r}")
    else:
        values = list(proportions)
        if len(values) != len(types):
            raise InputError(
                f"de_proportions: {len(values)} numbers for {len(types)} cell types "
                f"({listed(types)})"
            )
    for value in values:
        check_not_negative("de_proportions", value)
    if not sum(values) > 0:
        raise InputError("de_proportions: at least one must be above zero")


def require_distribution(spec: SimulationSpec, wanted: str, other: str) -> None:
    """Refuse the spec of another simulator, naming that one."""
    if spec.distribution != wanted:
        raise InputError(
            f"distribution: {wanted!r} expected, found {spec.distribution!r}, which {other} draws"
        )
