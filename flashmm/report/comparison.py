"""Sections that compare methods: ranks, scenarios side by side, paired differences, effects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from flashmm.benchmark.effects import effect_agreement, true_and_estimated
from flashmm.benchmark.ranking import (
    MOST_FDP,
    MOST_RATIO,
    Ranked,
    Rate,
    by_scenario,
    most_false,
    most_rejected,
    over_scenarios,
    paired_differences,
    ranking,
    rate,
)
from flashmm.plots.charts import Axis, Chart, Panel, Rule, Series, rows_of, uncrowded
from flashmm.plots.style import looks_of, method_colours
from flashmm.report import page as blocks
from flashmm.report.costs import method_costs
from flashmm.report.inputs import Inputs
from flashmm.report.page import NOTHING, Cell

VERDICTS = {
    "good": "at most its limit",
    "unsure": "above its limit, but chance alone could do it",
    "bad": "above its limit",
    "low": "less than half of its level: conservative",
    "": "",
}
#: last lines of a failed method's log that are shown
LOG_LINES = 12


def ranked(inputs: Inputs) -> Iterator[dict[str, Any]]:
    """Methods by what they find while they keep their level; failures; the buttons of methods."""
    averaged = _averaged(inputs)
    if averaged.empty and not len(failures(inputs)):
        return
    yield blocks.text(
        "Methods that keep their level and their false discovery proportion come first, and among "
        "them those with more power where all reject the same part of true nulls. Colours: green "
        "(✓) at most the limit, amber (?) above it by no more than chance explains, red (✗) above "
        "it, blue (↓) less than half of the level, which costs power."
    )
    yield blocks.chips(method_colours(inputs.methods))
    costs = method_costs(inputs)
    yield _ranked_table(
        inputs,
        _ranking(inputs, averaged),
        costs,
        f"Ranked over {averaged['scenario'].nunique() if len(averaged) else 0} scenarios",
    )
    yield from _failure_logs(inputs)


def _averaged(inputs: Inputs) -> pd.DataFrame:
    """Metrics of the simulations, averaged over the replicates of each scenario."""
    metrics = inputs.table("metrics")
    if metrics.empty or not inputs.scenarios:
        return pd.DataFrame()
    metrics = metrics[metrics["scenario"].isin(list(inputs.scenarios))]
    return by_scenario(metrics) if len(metrics) else metrics


def _ranking(inputs: Inputs, averaged: pd.DataFrame) -> list[Ranked]:
    """Methods, best first, and controls after them."""
    found = ranking(over_scenarios(averaged)) if len(averaged) else []
    return sorted(found, key=lambda one: one.method in inputs.controls)


def _ranked_table(
    inputs: Inputs, methods: list[Ranked], costs: pd.DataFrame, title: str
) -> dict[str, Any]:
    failed = failures(inputs)
    rows = [_ranked_row(number, one, costs) for number, one in enumerate(methods, start=1)]
    for row, one in zip(rows, methods, strict=True):
        if one.method in inputs.controls:
            row["Rank"] = Cell("control", value=float(len(methods)))
    there = {one.method for one in methods}
    partly = failed[failed["method"].isin(there)].groupby("method", sort=False).size()
    for row, one in zip(rows, methods, strict=True):
        lost = int(partly.get(one.method, 0))
        row["Failed"] = Cell(str(lost), "bad" if lost else "", lost, "data sets without a result")
    names = [one.method for one in methods]
    for method, part in failed[~failed["method"].isin(there)].groupby("method", sort=False):
        names.append(str(method))
        rows.append(_failed_row(str(method), part, list(rows[0]) if rows else []))
    return blocks.table(
        pd.DataFrame(rows),
        title,
        "Rates ± their Monte Carlo standard errors, averaged over scenarios of equal weight. "
        f"Limits: {_limits()}. FDP and TPR at BH as in the heading, per contrast. Time from the "
        "file to the table and memory beyond the interpreter's, per data set, where they were "
        "measured so. Click a heading to sort.",
        methods=names,
        sortable=True,
    )


def _limits() -> str:
    ratios = ", ".join(f"{ratio:g} × {level:g}" for level, ratio in MOST_RATIO.items())
    return f"{ratios} of true nulls rejected, and {MOST_FDP:.0%} false discoveries at BH 5 %"


def _ranked_row(number: int, one: Ranked, costs: pd.DataFrame) -> dict[str, Cell]:
    row = {"Method": Cell(one.method), "Rank": Cell(str(number), value=number)}
    for level, found in one.levels.items():
        row[f"Nulls at {level:g}"] = _rate_cell(found, most_rejected(level))
    row[f"FDP at BH {one.fdp.level:.0%}"] = _rate_cell(one.fdp, most_false(one.fdp.level))
    row[f"TPR at BH {one.tpr.level:.0%}"] = _rate_cell(one.tpr)
    row[f"Power, {one.power.level:.0%} of nulls"] = _rate_cell(one.power)
    return row | _cost_cells(one.method, costs)


def _rate_cell(found: Rate, most: float | None = None) -> Cell:
    if not found.known:
        return NOTHING
    tone = "" if most is None else found.verdict(most)
    said = f"{found.value:.5g}; limit {most:.3g}: {VERDICTS[tone]}" if most is not None else ""
    return Cell(_short(found.value, found.error), tone, found.value, said)


def _short(value: float, error: float) -> str:
    """A rate with its error, both to the error's first digit."""
    if np.isnan(error) or error == 0:
        return blocks.with_error(value, error)
    digits = int(np.clip(-np.floor(np.log10(error)), 1, 6))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _cost_cells(method: str, costs: pd.DataFrame) -> dict[str, Cell]:
    own = costs[costs["method"] == method] if len(costs) else costs
    if own.empty:
        return {"Seconds": NOTHING, "Memory (MiB)": NOTHING}
    seconds, memory = own["seconds"].median(), own["memory_mib"].median()
    some = bool(own["extrapolated"].any())
    said = "extrapolated to all genes from those that were run" if some else ""
    text = f"{'≈ ' if some else ''}{blocks.number(seconds)}"
    found = {"Seconds": Cell(text, value=float(seconds), title=said)}
    known = not np.isnan(memory)
    found["Memory (MiB)"] = Cell(blocks.number(memory), value=float(memory)) if known else NOTHING
    return found


# ----------------------------------------------------------------------------------------------
# Failures


def failures(inputs: Inputs) -> pd.DataFrame:
    """Rows of `status` of methods that left no result; skipped ones are among them."""
    status = inputs.table("status")
    columns = ["dataset", "scenario", "replicate", "method", "status", "message", "log"]
    return status[status["status"] != "ok"] if len(status) else pd.DataFrame(columns=columns)


def _failed_row(method: str, part: pd.DataFrame, columns: list[str]) -> dict[str, Cell]:
    """A red row: how a method ended, and what it said."""
    first = part.iloc[0]
    said = f"{first['status']}: {first['message']}"
    tone = "" if (part["status"] == "skipped").all() else "bad"
    row = dict.fromkeys(columns, NOTHING)
    row |= {"Method": Cell(method, tone), "Rank": Cell("–", tone)}
    row["Failed"] = Cell(f"{len(part)}, {first['status']}", tone, float(len(part)), said)
    return row


def _failure_logs(inputs: Inputs) -> Iterator[dict[str, Any]]:
    """Every failure with its message and the last lines of its log, alike ones together."""
    failed = failures(inputs)
    if failed.empty:
        return
    together = failed.groupby(["method", "status", "message"], sort=False)
    rows, logs = [], []
    for (method, status, message), part in together:
        tone = "" if status == "skipped" else "bad"
        where = ", ".join(part["dataset"].head(5)) + (" …" if len(part) > 5 else "")
        rows.append(
            {"Method": method, "Ended": Cell(str(status), tone), "Said": message, "On": where}
        )
        logs += [f"{method} on {part['dataset'].iloc[0]}:", *_last_lines(part["log"].iloc[0]), ""]
    yield blocks.table(
        pd.DataFrame(rows),
        "Failures",
        "Methods without a result on some data sets; the others are not touched by that.",
        methods=[str(row["Method"]) for row in rows],
    )
    yield blocks.details("Last lines of their logs", logs)


def _last_lines(log: Any) -> list[str]:
    lines = log.splitlines() if isinstance(log, str) else [] if log is None else list(log)
    return [f"    {line}" for line in lines[-LOG_LINES:]]


# ----------------------------------------------------------------------------------------------
# Scenarios side by side


def scenarios(inputs: Inputs) -> Iterator[dict[str, Any]]:
    """Rates of every method in every scenario: a chart for each rate, and a table."""
    averaged = _averaged(inputs)
    if averaged.empty:
        return
    yield blocks.chart(
        inputs.figures,
        _scenario_chart(inputs, averaged),
        "scenarios",
        "Scenarios side by side",
        "Means over replicates with 95 % Monte Carlo intervals; one mark per method.",
        "Good: rejected nulls and false discoveries at the dashed line or below, the rest high.",
    )
    wide = _scenario_tables(averaged)
    yield blocks.table(
        wide,
        "Methods in every scenario",
        "Means over replicates ± Monte Carlo standard errors; colours as above.",
        methods=[cell.text for cell in wide["Method"]],
        sortable=True,
    )


def _shown_rates(averaged: pd.DataFrame) -> list[tuple[str, float, str, float | None]]:
    """Metric, level, label, and the level that it should have."""
    best = ranking(over_scenarios(averaged))[0]
    level = max(best.levels, default=0.05)
    power = averaged.loc[averaged["metric"] == "power_at_fpr", "level"]
    equal = best.power.level if len(power) else np.nan
    fdr = float(averaged.loc[averaged["metric"] == "fdp", "level"].min())
    wanted: list[tuple[str, float, str, float | None]] = [
        ("fpr", level, f"True nulls with p ≤ {level:g}", level)
    ]
    if not np.isnan(fdr):
        wanted.append(("fdp", fdr, f"False discoveries at BH {fdr:.0%}", fdr))
        wanted.append(("tpr", fdr, f"True effects found at BH {fdr:.0%}", None))
    if not np.isnan(equal):
        wanted.append(
            ("power_at_fpr", equal, f"Power where {equal:g} of the nulls are rejected", None)
        )
    return wanted


def _scenario_chart(inputs: Inputs, averaged: pd.DataFrame) -> Chart:
    names = list(dict.fromkeys(averaged["scenario"]))
    looks = looks_of(list(dict.fromkeys(averaged["method"])), inputs.methods)
    panels = []
    for metric, level, label, target in _shown_rates(averaged):
        rows = averaged[
            (averaged["metric"] == metric) & np.isclose(averaged["level"], level)
        ].set_index("scenario")
        series = []
        for i, (method, look) in enumerate(looks.items()):
            own = rows[rows["method"] == method].reindex(names)
            shift = (i - (len(looks) - 1) / 2) * 0.7 / len(looks)
            value, error = own["value"].to_numpy(), 1.96 * own["std_error"].fillna(0).to_numpy()
            text = [
                f"{method}, {name}: {blocks.with_error(v, e / 1.96)}"
                for name, v, e in zip(names, value, error, strict=True)
            ]
            style: dict[str, Any] = {"colour": look.colour, "mark": look.marker, "text": text}
            places = np.arange(len(names)) + shift
            series.append(
                Series(
                    method, places, value, low=value - error, high=value + error, size=4, **style
                )
            )
        rules = () if target is None else (Rule("y", target, f"{target:g}"),)
        axis = Axis("Scenario", names=tuple(names))
        panels.append(Panel(label, axis, Axis("Share"), tuple(series), rules))
    return Chart(tuple(panels), methods=True)


def _scenario_tables(averaged: pd.DataFrame) -> pd.DataFrame:
    """A row per method; columns are the rates of each scenario."""
    limits = {"fpr": most_rejected, "fdp": most_false}
    rows: dict[str, dict[str, Cell]] = {}
    for (scenario, method), own in averaged.groupby(["scenario", "method"], sort=False):
        row = rows.setdefault(str(method), {"Method": Cell(str(method))})
        for metric, level, label, _ in _shown_rates(averaged):
            most = limits[metric](level) if metric in limits else None
            found = rate(own, metric, level)
            if found.known:
                row[f"{scenario}: {label[0].lower()}{label[1:]}"] = _rate_cell(found, most)
    return blocks.filled(pd.DataFrame(list(rows.values())))


# ----------------------------------------------------------------------------------------------
# Paired differences


def differences(inputs: Inputs) -> Iterator[dict[str, Any]]:
    """Power of each method less that of the first in rank, on the same data sets."""
    averaged = _averaged(inputs)
    order = [one for one in _ranking(inputs, averaged) if one.method not in inputs.controls]
    if len(order) < 2 or not order[0].power.known:
        return
    best, metrics = order[0], inputs.table("metrics")
    metrics = metrics[metrics["scenario"].isin(list(inputs.scenarios))]
    shown = {
        "power": ("power_at_fpr", best.power.level),
        "true positive rate": ("tpr", best.tpr.level),
        "false discoveries": ("fdp", best.fdp.level),
    }
    found = {
        words: paired_differences(metrics, *of, reference=best.method)
        for words, of in shown.items()
    }
    if all(table.empty for table in found.values()):
        return
    yield blocks.chart(
        inputs.figures,
        _difference_chart(inputs, found),
        "differences",
        f"Less {best.method}, data set by data set",
        f"Mean difference to {best.method} over the same data sets, with 95 % intervals. Methods "
        "share what is hard about a data set, so that differences are known better than values.",
    )
    yield blocks.table(
        _difference_table(found),
        "Paired differences",
        f"To {best.method}, the first in rank; ± is the standard error over data sets.",
        methods=list(found["power"]["method"]),
    )


def _difference_chart(inputs: Inputs, found: dict[str, pd.DataFrame]) -> Chart:
    panels = []
    for words, table in found.items():
        looks = looks_of(list(table["method"]), inputs.methods)
        series = []
        for i, row in enumerate(rows_of(table)):
            look, error = looks[row.method], 1.96 * np.nan_to_num(row.std_error)
            series.append(
                Series(
                    row.method,
                    [i],
                    [row.difference],
                    low=[row.difference - error],
                    high=[row.difference + error],
                    colour=look.colour,
                    mark=look.marker,
                    size=4.5,
                )
            )
        axis = Axis("", names=tuple(table["method"]))
        title = f"Difference in {words}"
        panels.append(Panel(title, axis, Axis("Difference"), tuple(series), (Rule("y", 0.0),)))
    return Chart(tuple(panels), methods=True)


def _difference_table(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    columns: dict[str, Any] = {"Method": found["power"]["method"]}
    for words, table in found.items():
        columns[f"In {words}"] = [
            Cell(blocks.with_error(row.difference, row.std_error), value=float(row.difference))
            for row in rows_of(table)
        ]
    columns["Data sets"] = found["power"]["pairs"]
    return pd.DataFrame(columns)


# ----------------------------------------------------------------------------------------------
# Effects


def effects(inputs: Inputs) -> Iterator[dict[str, Any]]:
    """Estimated effects against the simulated ones, first replicate of each scenario."""
    panels, rows = [], []
    for scenario in inputs.scenarios:
        runs = [
            run for run in inputs.simulations if run.scenario == scenario and run.replicate == 1
        ]
        truth = _truth(inputs, runs[0].counts[0]) if runs else pd.DataFrame()
        if truth.empty:
            continue
        series = []
        looks = looks_of([run.method for run in runs], inputs.methods)
        for run in runs:
            pairs = true_and_estimated(inputs.tests(run), truth, run.within or "cell_type")
            if pairs.empty:
                continue
            rows.append({"Scenario": scenario, "Method": run.method} | effect_agreement(pairs))
            series.append(_effect_series(run.method, pairs, looks[run.method]))
        if series:
            panels.append(
                Panel(
                    scenario,
                    Axis("Simulated log₂ fold change"),
                    Axis("Estimate"),
                    tuple(series),
                    (Rule("x", 0.0), Rule("y", 0.0)),
                )
            )
    if not panels:
        return
    yield blocks.chart(
        inputs.figures,
        Chart(tuple(panels), methods=True),
        "effects",
        "Estimated and simulated effects",
        "Pairs of gene and cell type with a true effect, first replicate. Estimates are log₂ fold "
        "changes where a method reports them, else in the unit of its response, so that a slope "
        "below one is no fault.",
        "Good: a narrow straight cloud through zero.",
    )
    yield blocks.table(
        pd.DataFrame(rows),
        "Agreement of effects",
        "Correlation, slope through zero, and the share of estimates with the right sign.",
        methods=[row["Method"] for row in rows],
        sortable=True,
    )


def _truth(inputs: Inputs, counts: str) -> pd.DataFrame:
    """The true effects that a simulation's file holds; an empty frame where it has none."""
    said = inputs.stored(counts).uns.get("flashmm", {}).get("truth")
    return said if isinstance(said, pd.DataFrame) else pd.DataFrame()


def _effect_series(method: str, pairs: pd.DataFrame, look: Any) -> Series:
    shown = uncrowded(pairs, "true", "estimate")
    text = [
        f"{row.gene}, {row.cell_type}: {method} {row.estimate:.2f}, simulated {row.true:.2f}"
        for row in rows_of(shown)
    ]
    style = {"colour": look.colour, "mark": look.marker, "text": text}
    return Series(method, shown["true"], shown["estimate"], **style)
