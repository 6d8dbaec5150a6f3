"""How often tests of simulated data are wrong: the study of `docs/calibration.md`.

`calibrate` runs all methods on the groups of one simulation and keeps their metrics, and
`scenario_table` says what a scenario is. What follows from the metrics is in
`flashmm.benchmark.criteria`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from flashmm.benchmark.data import DataSet, Request
from flashmm.benchmark.evaluation import evaluate
from flashmm.benchmark.methods import Method
from flashmm.benchmark.power import power_gains
from flashmm.cells.groups import GroupStatistics
from flashmm.inference.ddf import DEFAULT_DDF
from flashmm.inference.testing import DEFAULT_WITHIN
from flashmm.options import FlashmmWarning, checked
from flashmm.simulate import SimulationSpec

PSEUDOBULK = ("pseudobulk", "pseudobulk_cpm")
KEPT = (
    *("tests", "missing", "fpr", "lambda_gc", "fdp", "tpr", "coverage", "coverage_null"),
    *("power", "power_at_fpr", "power_gain", "power_at_fpr_gain"),
)
ALPHA, FDR, LEVEL = 0.05, 0.05, 0.95


@dataclass(frozen=True)
class CalibrationMethod:
    """A way of testing, and what it is run on.

    Attributes
    ----------
    name : str
        Name of the method.
    test : str
        A key of `flashmm.benchmark.methods.PROCEDURES` that needs no cells: "mixed" (tests of a
        mixed model), "permutation" of its labels, "pseudobulk" (t tests of the means of subjects),
        "pseudobulk_cpm" (of log₂ counts per million), "pooled" (least squares over cells), or a
        control, "truth", "random" or "permuted_labels".
    random : tuple of str
        Random terms of a mixed model.
    ddf : str or None
        Degrees of freedom, as in `contrast_tests`.
    moderate : bool
        Whether variances are shrunk across genes.
    genes : int or None
        Number of genes to test, spread evenly; None tests all.
    n_permutations : int
        Permutations of the labels.
    only_matching : bool
        Whether it is run only where its random terms are those of the simulation, to save time.

    Raises
    ------
    InputError
        Fields that do not go together.
    """

    name: str
    test: str = "mixed"
    random: tuple[str, ...] = ()
    ddf: str | None = None
    moderate: bool = False
    genes: int | None = None
    n_permutations: int = 199
    only_matching: bool = False

    def __post_init__(self) -> None:
        """Check that the fields go together."""
        _ = self.method

    @property
    def method(self) -> Method:
        """The row that is run; fields with their defaults are left to the test."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "only_matching"}
        default = {f.name: f.default for f in fields(self)}
        return Method.of({k: v for k, v in own.items() if k == "name" or v != default[k]})

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> CalibrationMethod:
        """Make one from fields as JSON has them."""
        return cls(**{**fields, "random": tuple(fields["random"])})

    @property
    def approach(self) -> str:
        """What methods share that differ in their random terms only."""
        what = self.test
        if what == "mixed":
            what = self.ddf or DEFAULT_DDF["REML"]
        elif what == "within":
            what = f"per type, {self.ddf or DEFAULT_WITHIN}"
        return f"{what}, moderated" if self.moderate else what


@checked
def calibrate(
    groups: GroupStatistics,
    truth: pd.DataFrame,
    methods: Iterable[CalibrationMethod],
    fixed: str,
    contrasts: Any = "condition",
    *,
    levels: Sequence[float] = (0.05, 0.01, 0.001),
    same_unit: bool = False,
    matching: Sequence[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Test the groups of one simulation with every method and evaluate the tests.

    Parameters
    ----------
    groups : GroupStatistics
        Of `simulate_gaussian_groups`, or summarised from `simulate_counts`.
    truth : DataFrame
        Of the simulation.
    methods : iterable of CalibrationMethod
        Left out are those whose random terms hold ``cell_type`` where there is one cell type, and
        those that need counts where there are none.
    fixed : str
        The formula of the fixed effects.
    contrasts : optional
        What is tested, as in `contrast_tests`.
    levels : sequence of float
        Levels of the tests; power is compared at 0.05.
    same_unit : bool
        Whether effects of the truth are in the unit of the estimates.
    matching : sequence of str, optional
        The random terms that were simulated; without them every method is run.
    seed : int
        Of the permutations.

    Returns
    -------
    DataFrame
        `method, metric, level, other, value, std_error, n`, with the metrics of `evaluate` and
        `power_gains` over all contrasts; `other` is the pseudobulk method that a gain is over.
    """
    model = None if matching is None else tuple(matching)
    data = DataSet(groups, truth=truth)
    request = Request(fixed, contrasts, level=LEVEL, seed=seed)
    chosen = [
        method
        for method in methods
        if _applies(method, data)
        and not (method.only_matching and model is not None and method.random != model)
    ]
    tables: dict[str, pd.DataFrame] = {}
    with warnings.catch_warnings():
        # what the models leave out is the question here
        warnings.simplefilter("ignore", FlashmmWarning)
        for method in chosen:
            tables[method.name] = method.method.run(data, request).tests
    others = [m.name for m in chosen if m.test in PSEUDOBULK and not m.moderate]
    parts = []
    for name, table in tables.items():
        metrics = evaluate(
            table, truth, levels=levels, fdr=(FDR,), same_unit=same_unit, pooled=True
        ).metrics.assign(other="")
        gains = [
            power_gains(table, tables[other], truth, levels=(ALPHA,)).assign(other=other)
            for other in others
            if other != name and len(truth)
        ]
        parts.append(pd.concat([metrics, *gains], ignore_index=True).assign(method=name))
    metrics = pd.concat(parts, ignore_index=True)
    columns = ["method", "metric", "level", "other", "value", "std_error", "n"]
    return metrics.loc[metrics["metric"].isin(KEPT), columns].reset_index(drop=True)


def _applies(method: CalibrationMethod, data: DataSet) -> bool:
    one_type = data.groups.obs["cell_type"].nunique() == 1
    of_types = any("cell_type" in term for term in method.random)
    return not method.method.lacks(data) and not (one_type and of_types)


# ----------------------------------------------------------------------------------------------
# What was simulated, and which methods have its model


def scenario_table(scenarios: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Describe scenarios by what sets them apart.

    Parameters
    ----------
    scenarios : mapping
        Name to fields of `SimulationSpec`.

    Returns
    -------
    DataFrame
        `scenario, distribution, subjects` (per condition), `paired` (whether they have all
        conditions), `types, balanced, markers` (whether types differ in mean and variance), `depth`
        (library size of treated cells over that of others), `ratio` (variance that a contrast
        within a type meets, of subjects or of subjects by condition, over that of the mean of their
        cells, s₁·n̄/s₀; NaN for counts), `own_types` (whether subjects differ by cell type) and
        `matching` (the random terms of the model).
    """
    columns = list(_described("", {}))
    return pd.DataFrame(
        [_described(name, fields) for name, fields in scenarios.items()], columns=columns
    )


def _described(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    files = ("reference", "reference_cell_type", "metadata")
    spec = SimulationSpec(**{key: value for key, value in fields.items() if key not in files})
    own_types = spec.subject_cell_type_variance > 0 and spec.n_cell_types > 1
    paired = not spec.nested
    subjects = spec.n_subjects if paired else spec.n_subjects // spec.n_conditions
    cells = (spec.n_cells or 0) / (subjects * spec.n_conditions * spec.n_cell_types)
    between = spec.subject_variance + spec.subject_cell_type_variance
    met = spec.subject_condition_variance if paired else between
    gaussian = spec.distribution == "gaussian"
    return {
        "scenario": name,
        "distribution": spec.distribution,
        "subjects": subjects,
        "paired": paired,
        "types": spec.n_cell_types,
        "balanced": spec.cells_cv == 0,
        "markers": spec.marker_fraction > 0,
        "depth": spec.libsize_ratio,
        "ratio": met * cells / spec.residual_variance if gaussian else np.nan,
        "own_types": own_types,
        "matching": _matching(own_types, spec),
    }


def _matching(own_types: bool, spec: SimulationSpec) -> tuple[str, ...]:
    """Random terms of the model that was simulated, or of the nearest."""
    own_conditions = spec.subject_condition_variance > 0
    if spec.marker_fraction > 0 and not own_conditions:
        # markers have other variances in their type
        return ("subject", "0 + cell_type || subject")
    terms = {"subject": True, "subject:cell_type": own_types, "subject:condition": own_conditions}
    return tuple(term for term, there in terms.items() if there)
