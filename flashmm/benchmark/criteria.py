"""What a calibration study found, and whether a default test meets its criteria."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flashmm.benchmark.calibration import ALPHA, FDR, CalibrationMethod

KEYS = ("metric", "level", "other")
# Limits: standard errors of Monte Carlo, multiples of a level, and coverage.
MOST_SE, MOST_AT_001, MOST_NB, LEAST_COVERAGE, MOST_COVERAGE = 3.0, 1.5, 1.25, 0.94, 0.96
# Where: subjects in all, variance of subjects over that of the mean of their cells, tests.
LEAST_SUBJECTS, LEAST_RATIO, LEAST_TESTS = 6, 10.0, 100_000


def average_replicates(metrics: pd.DataFrame) -> pd.DataFrame:
    """Average the metrics of data sets over replicates of the same scenario.

    Parameters
    ----------
    metrics : DataFrame
        Of `calibrate`, with a column `scenario`.

    Returns
    -------
    DataFrame
        `scenario, method, metric, level, other, value, std_error, n`: the mean, its standard error
        from those of the replicates, √Σse²/R, and the total n.
    """
    squared = metrics.assign(std_error=metrics["std_error"] ** 2)
    grouped = squared.groupby(["scenario", "method", *KEYS], dropna=False, sort=False)
    frame = grouped.agg(
        value=("value", "mean"),
        std_error=("std_error", lambda square: np.sqrt(square.sum(skipna=False)) / len(square)),
        n=("n", "sum"),
    )
    return frame.reset_index()


def matched_methods(
    metrics: pd.DataFrame, scenarios: pd.DataFrame, methods: Iterable[CalibrationMethod]
) -> pd.DataFrame:
    """Keep, in each scenario, the methods with the model that was simulated, and those without one.

    A model of each type alone is that of the simulation whatever subjects do in other types.

    Parameters
    ----------
    metrics : DataFrame
        Of `average_replicates`.
    scenarios : DataFrame
        Of `scenario_table`.
    methods : iterable of CalibrationMethod

    Returns
    -------
    DataFrame
        Rows of `metrics` with the columns of `scenarios` and `approach`.
    """
    return _with_models(metrics, scenarios, methods, lambda model, matching: model == matching)


def wider_methods(
    metrics: pd.DataFrame, scenarios: pd.DataFrame, methods: Iterable[CalibrationMethod]
) -> pd.DataFrame:
    """Keep, in each scenario, methods with another model than the simulated one.

    Parameters and result are those of `matched_methods`; an approach says its model here.
    """
    methods = list(methods)
    models = {method.name: "; ".join(method.random) for method in methods}
    found = _with_models(metrics, scenarios, methods, lambda model, matching: model != matching)
    return found.assign(approach=found["method"].map(models) + ": " + found["approach"])


def _with_models(
    metrics: pd.DataFrame,
    scenarios: pd.DataFrame,
    methods: Iterable[CalibrationMethod],
    wanted: Callable[[tuple[str, ...], tuple[str, ...]], bool],
) -> pd.DataFrame:
    by_name = {method.name: method for method in methods}
    merged = metrics.merge(scenarios, on="scenario", validate="many_to_one")
    merged["approach"] = [by_name[name].approach for name in merged["method"]]
    # methods without random terms belong to every model, and so do those of one type
    models = {m.name: () if m.test == "within" else m.random for m in by_name.values()}
    keep = [
        wanted(models[name] or matching, matching)
        for name, matching in zip(merged["method"], merged["matching"], strict=True)
    ]
    return merged[keep].reset_index(drop=True)


# ----------------------------------------------------------------------------------------------
# The criteria of a default test, and whether they are met


def check_criteria(matched: pd.DataFrame, approach: str) -> pd.DataFrame:
    """Evaluate the criteria of a default test on the results of an approach.

    Parameters
    ----------
    matched : DataFrame
        Of `matched_methods`.
    approach : str
        `CalibrationMethod.approach` of the candidate.

    Returns
    -------
    DataFrame
        One row per criterion: `criterion`, `short` (the same in few words), `evaluated` (how
        many numbers), `failed` (how many beyond their limit), `worst` (scenario), `level, value,
        std_error, limit` (of the worst) and `met` (missing where nothing was evaluated).
    """
    own = matched[matched["approach"] == approach]
    return pd.DataFrame([_check(found) for found in _criteria(own)]).astype({"met": "boolean"})


@dataclass(frozen=True, eq=False)
class _Criterion:
    """A limit on numbers: rows of metrics, and the most (or least) that each may be."""

    text: str
    short: str
    rows: pd.DataFrame
    limit: pd.Series
    least: bool = False


def _criteria(own: pd.DataFrame) -> list[_Criterion]:
    enough = own[own["subjects"] * 2 >= LEAST_SUBJECTS]
    gaussian = enough[enough["distribution"] == "gaussian"]
    strong = gaussian[gaussian["balanced"] & (gaussian["ratio"] >= LEAST_RATIO)]
    weak = gaussian.drop(strong.index)
    return [
        *_upper_limits(gaussian, enough[enough["distribution"] == "nb"]),
        *_lower_limits(strong),
        *_coverage_limits(strong, weak),
        *_discovery_limits(enough, own),
        _size_of_study(own[own["distribution"] == "gaussian"]),
    ]


def _of(part: pd.DataFrame, metric: str, *levels: float) -> pd.DataFrame:
    rows = part[part["metric"] == metric]
    return rows[rows["level"].isin(levels)] if levels else rows


def _upper_limits(gaussian: pd.DataFrame, counts: pd.DataFrame) -> list[_Criterion]:
    common, rare = _of(gaussian, "fpr", 0.05, 0.01), _of(gaussian, "fpr", 0.001)
    counted = _of(counts, "fpr", 0.05, 0.01)
    return [
        _Criterion(
            "Gaussian, 2 × 3 subjects or more: rejection at .05 and .01 ≤ nominal + 3 SE",
            "rejection at .05, .01 ≤",
            common,
            common["level"] + MOST_SE * common["std_error"],
        ),
        _Criterion(
            "Gaussian, 2 × 3 or more: rejection at .001 ≤ 1.5 × nominal",
            "rejection at .001 ≤",
            rare,
            MOST_AT_001 * rare["level"],
        ),
        _Criterion(
            "Counts, 2 × 3 or more: rejection at .05 and .01 ≤ 1.25 × nominal",
            "counts: rejection ≤",
            counted,
            MOST_NB * counted["level"],
        ),
    ]


def _lower_limits(strong: pd.DataFrame) -> list[_Criterion]:
    rows = _of(strong, "fpr", 0.05, 0.01)
    return [
        _Criterion(
            "Gaussian, balanced, s₁n̄/s₀ ≥ 10: rejection at .05 and .01 ≥ nominal − 3 SE",
            "balanced: rejection ≥",
            rows,
            rows["level"] - MOST_SE * rows["std_error"],
            least=True,
        )
    ]


def _coverage_limits(strong: pd.DataFrame, weak: pd.DataFrame) -> list[_Criterion]:
    inside, elsewhere = _of(strong, "coverage"), _of(weak, "coverage")
    where = "Gaussian, balanced, s₁n̄/s₀ ≥ 10: 95 % intervals cover"
    return [
        _Criterion(
            f"{where} ≥ 94 %",
            "balanced: coverage ≥ 94 %",
            inside,
            _constant(inside, LEAST_COVERAGE),
            least=True,
        ),
        _Criterion(
            f"{where} ≤ 96 %", "balanced: coverage ≤ 96 %", inside, _constant(inside, MOST_COVERAGE)
        ),
        _Criterion(
            "Gaussian, elsewhere: 95 % intervals cover ≥ 94 %",
            "elsewhere: coverage ≥ 94 %",
            elsewhere,
            _constant(elsewhere, LEAST_COVERAGE),
            least=True,
        ),
    ]


def _discovery_limits(enough: pd.DataFrame, own: pd.DataFrame) -> list[_Criterion]:
    fdp = _of(enough, "fdp")
    over = own[own["other"] == "pseudobulk"]
    nominal, equal = (_of(over, f"{name}_gain", ALPHA) for name in ("power", "power_at_fpr"))
    return [
        _Criterion(
            "2 × 3 or more: false discovery proportion at BH 5 % ≤ 5 % + 2 SE",
            "false discoveries ≤",
            fdp,
            FDR + 2 * fdp["std_error"].fillna(0),
        ),
        _Criterion(
            "All: power at .05 ≥ that of pseudobulk − 3 SE",
            "power ≥ pseudobulk",
            nominal,
            -MOST_SE * nominal["std_error"],
            least=True,
        ),
        _Criterion(
            "All: power where 5 % of nulls are rejected ≥ that of pseudobulk − 3 SE",
            "the same at equal rejection",
            equal,
            -MOST_SE * equal["std_error"],
            least=True,
        ),
    ]


def _size_of_study(gaussian: pd.DataFrame) -> _Criterion:
    rows = _of(gaussian, "fpr", 0.05)
    rows = rows.assign(value=rows["n"], std_error=np.nan)
    limit = _constant(rows, LEAST_TESTS)
    text = "Gaussian: null tests per scenario ≥ 100,000"
    return _Criterion(text, "null tests ≥ 100,000", rows, limit, least=True)


def _constant(rows: pd.DataFrame, value: float) -> pd.Series:
    return pd.Series(float(value), index=rows.index)


def _check(criterion: _Criterion) -> dict[str, Any]:
    rows, limit = criterion.rows, criterion.limit
    found: dict[str, Any] = {"criterion": criterion.text, "short": criterion.short}
    found |= {"evaluated": len(rows), "failed": 0}
    numbers = dict.fromkeys(("level", "value", "std_error", "limit"), np.nan)
    if rows.empty:
        return found | {"worst": ""} | numbers | {"met": pd.NA}
    beyond = (rows["value"] - limit) * (-1 if criterion.least else 1)
    # in units of the limit, so that levels can be compared with each other
    worst = int((beyond / limit.abs().where(limit != 0, 1.0)).to_numpy().argmax())
    return found | {
        "failed": int((beyond > 0).sum()),
        "worst": rows["scenario"].iloc[worst],
        **{name: float(rows[name].iloc[worst]) for name in ("level", "value", "std_error")},
        "limit": float(limit.iloc[worst]),
        "met": not (beyond > 0).any(),
    }


def comparison(matched: pd.DataFrame, approaches: Sequence[str]) -> pd.DataFrame:
    """Compare approaches by criterion.

    Parameters
    ----------
    matched : DataFrame
        Of `matched_methods`.
    approaches : sequence of str
        Those to compare.

    Returns
    -------
    DataFrame
        `criterion` in short, then a column per approach with ``met``, or how many numbers of how
        many are beyond their limit.
    """
    columns = {name: check_criteria(matched, name) for name in approaches}
    first = next(iter(columns.values()))
    table = pd.DataFrame({"criterion": first["short"]})
    for name, found in columns.items():
        table[name] = [
            "–" if row.evaluated == 0 else "met" if row.met else f"{row.failed} of {row.evaluated}"
            for row in found.itertuples()
        ]
    return table


def overview(matched: pd.DataFrame, approaches: Sequence[str]) -> pd.DataFrame:
    """Averages and extremes of approaches over the scenarios of a kind.

    Parameters
    ----------
    matched : DataFrame
        Of `matched_methods`.
    approaches : sequence of str
        Those to show.

    Returns
    -------
    DataFrame
        One row per kind (`kind_of`) and approach: the mean rejection of true nulls at each level
        over scenarios of 2 × 3 subjects or more, and the range of the first; the mean λ, false
        discovery proportion, true positive rate and coverage; the mean gain of power over
        pseudobulk at .05 and where 5 % of nulls are rejected.
    """
    enough = matched[matched["subjects"] * 2 >= LEAST_SUBJECTS].assign(kind=kind_of)
    rows = []
    for kind, part in enough.groupby("kind", sort=False):
        for approach in approaches:
            own = part[part["approach"] == approach]
            if len(own):
                rows.append({"kind": kind, "approach": approach, **_averages(own)})
    return pd.DataFrame(rows)


def kind_of(matched: pd.DataFrame) -> pd.Series:
    """Words for how the values were drawn: their distribution, and how much subjects differ."""
    much = np.where(matched["ratio"] >= LEAST_RATIO, "much", "little")
    gaussian = [f"Gaussian, subjects differ {word}" for word in much]
    words = np.where(matched["distribution"] == "nb", "Counts", gaussian)
    return pd.Series(words, index=matched.index)


def _averages(own: pd.DataFrame) -> dict[str, float]:
    def mean(metric: str, *levels: float) -> float:
        return float(_of(own, metric, *levels)["value"].mean())

    over = own[own["other"] == "pseudobulk"]
    common = _of(own, "fpr", ALPHA)["value"]
    return {
        "at .05": mean("fpr", 0.05),
        "from": float(common.min()),
        "to": float(common.max()),
        "at .01": mean("fpr", 0.01),
        "at .001": mean("fpr", 0.001),
        "lambda": mean("lambda_gc"),
        "fdp": mean("fdp"),
        "tpr": mean("tpr"),
        "coverage": mean("coverage") if len(_of(own, "coverage")) else mean("coverage_null"),
        "power gain": float(_of(over, "power_gain", ALPHA)["value"].mean()),
        "at equal rate": float(_of(over, "power_at_fpr_gain", ALPHA)["value"].mean()),
    }


#: column of `scenario_results` -> metric, level, and the method that a gain is over
_SHOWN = {
    "at .05": ("fpr", 0.05, ""),
    "at .01": ("fpr", 0.01, ""),
    "at .001": ("fpr", 0.001, ""),
    "lambda": ("lambda_gc", None, ""),
    "fdp": ("fdp", None, ""),
    "tpr": ("tpr", None, ""),
    "coverage": ("coverage", None, ""),
    "power": ("power", ALPHA, ""),
    "power gain": ("power_gain", ALPHA, "pseudobulk"),
    "at equal rate": ("power_at_fpr_gain", ALPHA, "pseudobulk"),
}


def scenario_results(matched: pd.DataFrame, approach: str) -> pd.DataFrame:
    """Results of one approach, a row per scenario.

    Parameters
    ----------
    matched : DataFrame
        Of `matched_methods`.
    approach : str
        The approach.

    Returns
    -------
    DataFrame
        `scenario`, `null tests`, the number of them, and for each of rejection, λ, false discovery
        proportion, true positive rate, coverage, power and gains of power the value and, in
        ``<column> se``, its standard error.
    """
    own = matched[matched["approach"] == approach]
    rows = []
    for scenario, part in own.groupby("scenario", sort=False):
        tests = _of(part, "fpr", ALPHA)["n"]
        row = {"scenario": scenario, "null tests": int(tests.iloc[0]) if len(tests) else 0}
        for column, (metric, level, other) in _SHOWN.items():
            found = _of(part, metric, *([] if level is None else [level]))
            found = found[found["other"] == other]
            for suffix, name in (("", "value"), (" se", "std_error")):
                row[column + suffix] = float(found[name].iloc[0]) if len(found) else np.nan
        rows.append(row)
    return pd.DataFrame(rows)
