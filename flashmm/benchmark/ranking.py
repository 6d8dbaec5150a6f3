"""Methods side by side: their rates over scenarios, verdicts on them, ranks, paired differences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from flashmm.benchmark.metrics import average_metrics
from flashmm.benchmark.truth import ALL

# A method's level is called kept up to these multiples of it, and its FDP up to this.
MOST_RATIO = {0.05: 1.2, 0.01: 1.35, 0.001: 1.6}
MOST_FDP = 0.07
#: metrics that say something where effects are simulated only
OF_EFFECTS = ("fdp", "tpr", "power", "power_at_fpr", "auc", "pauc")
#: the false positive rate at which power is compared, where it was evaluated
EQUAL_LEVEL = 0.01


@dataclass(frozen=True)
class Rate:
    """A rate, its Monte Carlo standard error, and the level that it should have (or stay below)."""

    value: float
    error: float
    level: float

    @property
    def known(self) -> bool:
        """Whether there is a number."""
        return not np.isnan(self.value)

    def verdict(self, most: float) -> str:
        """Say "good" up to a limit, "low" far below the level, "bad" above the limit, or "unsure".

        A rate above the limit is "unsure" where the level lies within two standard errors, and so
        is one without a standard error.
        """
        if not self.known:
            return ""
        error = 0.0 if np.isnan(self.error) else self.error
        if self.value > most:
            return "unsure" if self.value - 2 * error <= self.level else "bad"
        return "low" if self.value + 2 * error < self.level / 2 else "good"


def whole_metrics(metrics: pd.DataFrame) -> pd.DataFrame:
    """Rows of all contrasts, cell types and groups together; power and FDP where effects are true.

    Parameters
    ----------
    metrics : DataFrame
        `Evaluation.metrics` of several runs, with `dataset, scenario, replicate, method`.

    Returns
    -------
    DataFrame
        Its rows that have a value.
    """
    rows = metrics[metrics["value"].notna()]
    for column in ("contrast", "cell_type", "group"):
        if column in rows:
            rows = rows[rows[column].isna() | (rows[column] == ALL)]
    counts = rows[rows["metric"] == "de_tests"]
    with_effects = counts.loc[counts["value"] > 0, "dataset"].unique()
    return rows[~rows["metric"].isin(OF_EFFECTS) | rows["dataset"].isin(with_effects)]


def by_scenario(metrics: pd.DataFrame) -> pd.DataFrame:
    """Means over the replicates of each scenario.

    The standard error is the larger of that between replicates, which few replicates tell poorly,
    and that of their own errors together.

    Parameters
    ----------
    metrics : DataFrame
        As of `whole_metrics`.

    Returns
    -------
    DataFrame
        `scenario, method, metric, level, value, std_error, n, replicates`.
    """
    labels = ["contrast", "cell_type", "group"]
    whole = whole_metrics(metrics).drop(columns=labels, errors="ignore")
    keys = ["scenario", "method", "metric", "level"]
    squares = whole.assign(own=whole["std_error"] ** 2).groupby(keys, dropna=False, sort=False)
    # var(mean of R replicates) = Σ se² / R², from the replicates' own errors
    own = (np.sqrt(squares["own"].sum(min_count=1)) / squares["value"].count()).to_numpy()
    averaged = average_metrics(whole, ["scenario", "method"])
    averaged["std_error"] = np.fmax(averaged["std_error"], own)
    return averaged


def over_scenarios(averaged: pd.DataFrame) -> pd.DataFrame:
    """Means over scenarios, each with the same weight.

    Parameters
    ----------
    averaged : DataFrame
        Of `by_scenario`.

    Returns
    -------
    DataFrame
        `method, metric, level, value, std_error, scenarios`; the error is that of the mean of
        independent scenarios, missing where one of theirs is.
    """
    grouped = averaged.assign(variance=averaged["std_error"] ** 2).groupby(
        ["method", "metric", "level"], dropna=False, sort=False
    )
    found = grouped.agg(
        value=("value", "mean"),
        variance=("variance", lambda part: part.sum(skipna=False)),
        scenarios=("value", "count"),
    )
    # var(mean of S independent values) = Σ var / S²
    found["std_error"] = np.sqrt(found.pop("variance")) / found["scenarios"]
    return found.reset_index()


def rate(rows: pd.DataFrame, metric: str, level: float = np.nan) -> Rate:
    """One rate of the rows of one method; without a number where there is none.

    Parameters
    ----------
    rows : DataFrame
        Rows of `by_scenario` or `over_scenarios`.
    metric : str
        A metric.
    level : float
        Its level, if it has one.

    Returns
    -------
    Rate
    """
    found = rows[rows["metric"] == metric]
    if not np.isnan(level):
        found = found[np.isclose(found["level"], level)]
    if found.empty:
        return Rate(np.nan, np.nan, level)
    return Rate(float(found["value"].iloc[0]), float(found["std_error"].iloc[0]), level)


def most_rejected(level: float) -> float:
    """The largest rate of rejected true nulls that counts as keeping a level.

    Parameters
    ----------
    level : float
        Nominal level.

    Returns
    -------
    float
        The level times the ratio of the nearest level that has one (1.2 at .05, 1.6 at .001).
    """
    nearest = min(MOST_RATIO, key=lambda known: abs(np.log(known / level)))
    return MOST_RATIO[nearest] * level


def most_false(level: float) -> float:
    """The largest false discovery proportion that counts as keeping a level (7 % at BH 5 %)."""
    return MOST_FDP / 0.05 * level


def equal_level(averaged: pd.DataFrame) -> float:
    """The false positive rate at which power is compared: .01, or the nearest evaluated."""
    levels = averaged.loc[averaged["metric"] == "power_at_fpr", "level"].unique()
    return float(min(levels, key=lambda known: abs(np.log(known / EQUAL_LEVEL)), default=np.nan))


@dataclass(frozen=True, eq=False)
class Ranked:
    """A method with its rates.

    Attributes
    ----------
    method : str
        Its name.
    levels : dict
        Level to the rate of rejected true nulls.
    fdp, tpr : Rate
        False discovery proportion and true positive rate at the smallest level of BH.
    power : Rate
        Share of true effects found where a given part of the nulls is rejected (`power.level`).
    """

    method: str
    levels: dict[float, Rate]
    fdp: Rate
    tpr: Rate
    power: Rate

    @property
    def keeps(self) -> bool:
        """Whether no rate of errors is beyond its limit."""
        kept = [rate.verdict(most_rejected(level)) for level, rate in self.levels.items()]
        return "bad" not in [*kept, self.fdp.verdict(most_false(self.fdp.level))]


def ranking(averaged: pd.DataFrame) -> list[Ranked]:
    """Methods, best first: those that keep level and FDP, by their power where all reject alike.

    Parameters
    ----------
    averaged : DataFrame
        Of `over_scenarios`, or of `by_scenario` of one scenario.

    Returns
    -------
    list of Ranked
        Without any power, in the order of the rows.
    """
    levels = sorted(averaged.loc[averaged["metric"] == "fpr", "level"].unique(), reverse=True)
    fdr = float(averaged.loc[averaged["metric"] == "fdp", "level"].min())
    equal = equal_level(averaged)
    found = [
        Ranked(
            method=str(method),
            levels={float(level): rate(own, "fpr", level) for level in levels},
            fdp=rate(own, "fdp", fdr),
            tpr=rate(own, "tpr", fdr),
            power=rate(own, "power_at_fpr", equal),
        )
        for method, own in averaged.groupby("method", sort=False)
    ]
    return sorted(found, key=lambda one: (not one.keeps, -np.nan_to_num(one.power.value, nan=-1)))


def paired_differences(
    metrics: pd.DataFrame, metric: str, level: float, reference: str
) -> pd.DataFrame:
    """Differences between methods on the same data sets, which share what is hard about them.

    Parameters
    ----------
    metrics : DataFrame
        As of `whole_metrics`.
    metric, level : str, float
        What is compared.
    reference : str
        The method that the others are compared with.

    Returns
    -------
    DataFrame
        `method, difference, std_error` (of the mean over data sets; missing for one), `pairs`.
    """
    rows = whole_metrics(metrics)
    rows = rows[(rows["metric"] == metric) & np.isclose(rows["level"], level)]
    wide = rows.pivot(index="dataset", columns="method", values="value")
    if reference not in wide:
        return pd.DataFrame(columns=["method", "difference", "std_error", "pairs"])
    order = [name for name in dict.fromkeys(rows["method"]) if name != reference]
    difference = wide[order].sub(wide[reference], axis=0)
    return pd.DataFrame(
        {
            "method": order,
            "difference": difference.mean().to_numpy(),
            "std_error": difference.sem().to_numpy(),
            "pairs": difference.count().to_numpy(),
        }
    )
