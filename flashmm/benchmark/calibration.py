"""How often tests of simulated data are wrong: the study of `docs/calibration.md`.

`calibrate` runs all methods on the groups of one simulation and keeps their metrics, and
`scenario_table` says what a scenario is. What follows from the metrics is in `flashmm.verdicts`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flashmm.benchmark.baselines import pooled_tests, pseudobulk_tests
from flashmm.benchmark.evaluation import evaluate, power_gains
from flashmm.cells.groups import GroupStatistics
from flashmm.design.derived import take_genes
from flashmm.design.from_groups import summary_statistics
from flashmm.design.statistics import SummaryStatistics
from flashmm.inference.permutation import permutation_tests
from flashmm.inference.testing import DDF, contrast_tests
from flashmm.inference.wald import DEFAULT_DDF
from flashmm.lmm import LMMFit, fit_lmm
from flashmm.names import listed
from flashmm.options import FlashmmWarning, InputError
from flashmm.simulate.spec import SimulationSpec

MODELS = ("mixed", "permutation")
PSEUDOBULK = ("pseudobulk", "pseudobulk_cpm")
TESTS = (*MODELS, *PSEUDOBULK, "pooled")
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
    test : {"mixed", "permutation", "pseudobulk", "pseudobulk_cpm", "pooled"}
        Tests of a mixed model, permutation of its labels, t tests of the means of subjects, the
        same of log₂ counts per million, or least squares over cells.
    random : tuple of str
        Random terms of a mixed model.
    ddf : str or None
        Degrees of freedom, as in `contrast_tests`.
    moderate : bool
        Whether variances are shrunk across genes.
    genes : int or None
        Number of genes to test, spread evenly; None tests all.
    n_permutations : int
        Relabellings of a permutation.
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
        if self.test not in TESTS:
            raise InputError(f"{self.name}: test {self.test!r} is none of {listed(TESTS)}.")
        if (self.test in MODELS) != bool(self.random):
            needs = "needs" if self.test in MODELS else "has no"
            raise InputError(f"{self.name}: the test {self.test!r} {needs} random terms.")
        if self.ddf is not None and (self.test != "mixed" or self.ddf not in DDF):
            raise InputError(
                f"{self.name}: ddf {self.ddf!r} is none of {listed(DDF)}, or not for {self.test!r}."
            )
        if self.moderate and self.test not in ("mixed", *PSEUDOBULK):
            raise InputError(f"{self.name}: variances of {self.test!r} are not moderated.")

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> CalibrationMethod:
        """Make one from fields as JSON has them."""
        return cls(**{**fields, "random": tuple(fields["random"])})

    @property
    def approach(self) -> str:
        """What methods share that differ in their random terms only."""
        what = (self.ddf or DEFAULT_DDF["REML"]) if self.test == "mixed" else self.test
        return f"{what}, moderated" if self.moderate else what


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
    """Test the groups of one simulation with every method and judge the tests.

    Parameters
    ----------
    groups : GroupStatistics
        Of `simulate_gaussian_groups`, or summarised from `simulate_counts`.
    truth : DataFrame
        Of the simulation.
    methods : iterable of CalibrationMethod
        Left out are those whose random terms hold ``cell_type`` where there is one cell type, and
        counts per million where there are no counts.
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
    chosen = [
        method
        for method in methods
        if _applies(method, groups)
        and not (method.only_matching and model is not None and method.random != model)
    ]
    run = _Run(groups, fixed, contrasts, seed)
    tables: dict[str, pd.DataFrame] = {}
    with warnings.catch_warnings():
        # what the models leave out is the question here
        warnings.simplefilter("ignore", FlashmmWarning)
        for method in chosen:
            tables[method.name] = run.tests(method)
    others = [m.name for m in chosen if m.test in PSEUDOBULK and not m.moderate]
    parts = []
    for name, table in tables.items():
        judged = evaluate(
            table, truth, levels=levels, fdr=(FDR,), same_unit=same_unit, pooled=True
        ).metrics.assign(other="")
        gains = [
            power_gains(table, tables[other], truth, levels=(ALPHA,)).assign(other=other)
            for other in others
            if other != name and len(truth)
        ]
        parts.append(pd.concat([judged, *gains], ignore_index=True).assign(method=name))
    metrics = pd.concat(parts, ignore_index=True)
    columns = ["method", "metric", "level", "other", "value", "std_error", "n"]
    return metrics.loc[metrics["metric"].isin(KEPT), columns].reset_index(drop=True)


def _applies(method: CalibrationMethod, groups: GroupStatistics) -> bool:
    if method.test == "pseudobulk_cpm":
        return groups.counts is not None
    one_type = groups.obs["cell_type"].nunique() == 1
    return not (one_type and any("cell_type" in term for term in method.random))


class _Run:
    """The tests of one data set; models that methods share are fitted once."""

    def __init__(self, groups: GroupStatistics, fixed: str, contrasts: Any, seed: int) -> None:
        self.groups, self.fixed, self.contrasts, self.seed = groups, fixed, contrasts, seed
        self.fits: dict[tuple[tuple[str, ...], int | None], LMMFit] = {}

    def tests(self, method: CalibrationMethod) -> pd.DataFrame:
        """The tests of a method as `TestTable.to_frame` has them, as far as it has columns."""
        return _RUNNERS[method.test](self, method)

    def mixed(self, method: CalibrationMethod) -> pd.DataFrame:
        fit = self.fit(method)
        table = contrast_tests(
            fit, self.contrasts, ddf=method.ddf, level=LEVEL, moderate=method.moderate
        )
        return table.to_frame(intervals=True)

    def permutation(self, method: CalibrationMethod) -> pd.DataFrame:
        return permutation_tests(
            self.fit(method),
            self.contrasts,
            n_permutations=method.n_permutations,
            seed=self.seed,
            progress=False,
        ).to_frame()

    def pseudobulk(self, method: CalibrationMethod) -> pd.DataFrame:
        values = "log2_cpm" if method.test == "pseudobulk_cpm" else "mean"
        return pseudobulk_tests(self.groups, values=values, moderate=method.moderate, level=LEVEL)

    def pooled(self, method: CalibrationMethod) -> pd.DataFrame:
        stats = self.statistics(("subject",), method.genes)
        return pooled_tests(stats, self.contrasts, level=LEVEL)

    def fit(self, method: CalibrationMethod) -> LMMFit:
        key = method.random, method.genes
        if key not in self.fits:
            self.fits[key] = fit_lmm(self.statistics(*key))
        return self.fits[key]

    def statistics(self, random: tuple[str, ...], genes: int | None) -> SummaryStatistics:
        stats = summary_statistics(self.groups, self.fixed, list(random))
        if genes is None or genes >= stats.n_genes:
            return stats
        return take_genes(stats, np.linspace(0, stats.n_genes - 1, genes).round().astype(int))


_RUNNERS: Mapping[str, Callable[[_Run, CalibrationMethod], pd.DataFrame]] = {
    "mixed": _Run.mixed,
    "permutation": _Run.permutation,
    "pooled": _Run.pooled,
    **dict.fromkeys(PSEUDOBULK, _Run.pseudobulk),
}


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
        `scenario, distribution, subjects` (per condition), `types, balanced`, `ratio` (variance of
        subjects over that of the mean of their cells, s₁·n̄/s₀; NaN for counts), `own_types`
        (whether subjects differ by cell type) and `matching` (the random terms of the model).
    """
    columns = list(_described("", {}))
    return pd.DataFrame(
        [_described(name, fields) for name, fields in scenarios.items()], columns=columns
    )


def _described(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    spec = SimulationSpec(**{k: v for k, v in fields.items() if k not in ("reference", "metadata")})
    own_types = spec.subject_cell_type_variance > 0 and spec.n_cell_types > 1
    cells = (spec.n_cells or 0) / (spec.n_subjects * spec.n_cell_types)
    gaussian = spec.distribution == "gaussian"
    ratio = spec.subject_variance * cells / spec.residual_variance if gaussian else np.nan
    return {
        "scenario": name,
        "distribution": spec.distribution,
        "subjects": spec.n_subjects // spec.n_conditions,
        "types": spec.n_cell_types,
        "balanced": spec.cells_cv == 0,
        "ratio": ratio,
        "own_types": own_types,
        "matching": ("subject", "subject:cell_type") if own_types else ("subject",),
    }
