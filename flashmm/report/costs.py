"""The section on time and memory: of every step and method, and as data sets grow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flashmm import plots
from flashmm.plots.charts import Axis, Chart, Panel, Series
from flashmm.plots.style import looks_of
from flashmm.report import page as blocks
from flashmm.report.inputs import Inputs
from flashmm.storage.files import reading

#: what data sets may differ in, and the label of the axis
SIZES = {"cells": "Cells", "genes": "Genes", "subjects": "Subjects"}
#: the step that methods on groups share
SHARED = "summarise"


def measured_costs(inputs: Inputs) -> pd.DataFrame:
    """Rows of `costs`; where a run has none, the fits alone.

    Parameters
    ----------
    inputs : Inputs
        With the table `costs`, or runs that measured their fits.

    Returns
    -------
    DataFrame
        `dataset, scenario, method, step, seconds, peak_memory_mib, baseline_memory_mib, genes,
        genes_total`.
    """
    costs = inputs.table("costs")
    if len(costs):
        return costs
    return pd.DataFrame(list(_fits(inputs)))


def _fits(inputs: Inputs) -> Iterator[dict[str, Any]]:
    for run in inputs.runs:
        files = {run.method: run.measured, f"MixedLM ({run.method})": run.reference}
        for method, path in files.items():
            if path is None:
                continue
            with reading(path):
                found = json.loads(Path(path).read_text("utf-8"))
            kind = "fit" if path == run.measured else "reference"
            named = {"dataset": run.dataset, "scenario": run.scenario, "method": method}
            yield named | {"step": kind, "genes_total": found["genes"], **found}


def method_costs(inputs: Inputs) -> pd.DataFrame:
    """Seconds and memory of each method on each data set, from the file to the table.

    Parameters
    ----------
    inputs : Inputs
        As of `measured_costs`.

    Returns
    -------
    DataFrame
        `dataset, scenario, method, seconds` (of all steps, the shared one included, for all genes),
        `memory_mib` (largest of the steps, beyond the process before it read anything where that is
        known), `genes_total`, and whether seconds were `extrapolated` from some genes.
    """
    steps = _steps_of(inputs)
    if steps.empty:
        return steps
    # jobs of one step share its genes or its cells; a method may have run on some genes only
    share = (steps["genes_total"] / steps["genes"]).clip(lower=1.0).fillna(1.0)
    steps = steps.assign(seconds=steps["seconds"] * share, extrapolated=share > 1)
    return steps.groupby(["dataset", "scenario", "method"], sort=False, as_index=False).agg(
        seconds=("seconds", "sum"),
        memory_mib=("memory_mib", "max"),
        genes_total=("genes_total", "max"),
        extrapolated=("extrapolated", "any"),
    )


def _steps_of(inputs: Inputs) -> pd.DataFrame:
    """A row per data set, method and step: its jobs together, MixedLM as a method of its own."""
    costs = measured_costs(inputs)
    if costs.empty:
        return costs
    costs = _with_shared_steps(costs)
    reference = (costs["step"] == "reference") & ~costs["method"].str.startswith("MixedLM")
    named = "MixedLM (" + costs["method"].astype(str) + ")"
    baseline = costs.get("baseline_memory_mib", pd.Series(0.0, costs.index)).fillna(0.0)
    costs = costs.assign(
        method=costs["method"].where(~reference, named),
        memory_mib=costs["peak_memory_mib"] - baseline,
    )
    keys = ["dataset", "scenario", "method", "step"]
    return costs.groupby(keys, sort=False, as_index=False).agg(
        seconds=("seconds", "sum"),
        memory_mib=("memory_mib", "max"),
        peak_memory_mib=("peak_memory_mib", "max"),
        genes=("genes", "sum"),
        genes_total=("genes_total", "max"),
    )


def _with_shared_steps(costs: pd.DataFrame) -> pd.DataFrame:
    """Steps without a method are added to every method on the data set that fits groups."""
    nobody = costs["method"].isna() | (costs["method"] == "")
    own, shared = costs[~nobody], costs[nobody]
    if shared.empty:
        return own
    users = own.loc[own["step"] == "fit", ["dataset", "method"]].drop_duplicates()
    return pd.concat([own, shared.drop(columns="method").merge(users, on="dataset")])


def performance(inputs: Inputs) -> Iterator[dict[str, Any]]:
    """Time and memory of the methods, of their steps, and how they grow."""
    whole = _steps_of(inputs)
    if whole.empty:
        return
    whole["genes"] = whole[["genes", "genes_total"]].min(axis=1)
    yield _strips(inputs, whole)
    yield from _growth(inputs)
    yield _step_table(whole)


def _strips(inputs: Inputs, costs: pd.DataFrame) -> dict[str, Any]:
    records = costs.groupby(["dataset", "method"], sort=False, as_index=False).agg(
        seconds=("seconds", "sum"),
        genes=("genes", "max"),
        peak_memory_mib=("peak_memory_mib", "max"),
    )
    return blocks.figure(
        inputs.figures,
        plots.time_memory_plot(records, methods=inputs.methods),
        "time_memory",
        "Time and memory",
        f"Time per gene of {_steps(costs)}, and the largest memory of its processes (interpreter "
        "and libraries included); one point per data set.",
        plots.CAPTIONS["time_memory_plot"],
    )


def _steps(costs: pd.DataFrame) -> str:
    steps = list(dict.fromkeys(costs["step"]))
    return f"the steps {', '.join(steps)}" if len(steps) > 1 else f"the step {steps[0]}"


def _step_table(costs: pd.DataFrame) -> dict[str, Any]:
    """Median over the data sets of each scenario, by method and step."""
    grouped = costs.groupby(["scenario", "method", "step"], sort=False, as_index=False).agg(
        sets=("dataset", "nunique"),
        genes=("genes", "median"),
        seconds=("seconds", "median"),
        memory=("peak_memory_mib", "median"),
    )
    grouped["per_gene"] = 1e3 * grouped["seconds"] / grouped["genes"]
    names = {
        "method": "Method",
        "scenario": "Scenario",
        "step": "Step",
        "sets": "Data sets",
        "genes": "Genes",
        "seconds": "Seconds",
        "per_gene": "Milliseconds per gene",
        "memory": "Peak memory (MiB)",
    }
    return blocks.table(
        grouped[list(names)].rename(columns=names),
        "Time and memory of the steps",
        "Medians over data sets, measured inside the process; one thread.",
        methods=list(grouped["method"]),
        sortable=True,
    )


# ----------------------------------------------------------------------------------------------
# How time and memory grow


def _sizes(inputs: Inputs) -> pd.DataFrame:
    """Cells, genes and subjects of each data set."""
    rows = {}
    for run in inputs.runs:
        groups = inputs.groups[run.groups]
        subjects = groups.obs["subject"].nunique() if "subject" in groups.obs else np.nan
        rows[run.dataset] = {
            "cells": int(groups.obs["n_cells"].sum()),
            "genes": groups.n_vars,
            "subjects": subjects,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("dataset").reset_index()


def _growth(inputs: Inputs) -> Iterator[dict[str, Any]]:
    """Curves over each size that the data sets differ in."""
    sizes = _sizes(inputs)
    if sizes.empty:
        return
    costs = method_costs(inputs).merge(sizes, on="dataset")
    panels = [
        _growth_panel(inputs, costs, size, label, of)
        for size, label in SIZES.items()
        if sizes[size].nunique() > 1
        for of in ("seconds", "memory_mib")
    ]
    if panels:
        yield blocks.chart(
            inputs.figures,
            Chart(tuple(panels), methods=True),
            "growth",
            "Time and memory as data sets grow",
            "Median over the data sets of one size; both axes are logarithmic. Where several sizes "
            "differ, each curve is over all data sets of that size.",
            "Good: low and flat; a line of slope one grows in proportion.",
        )


def _growth_panel(inputs: Inputs, costs: pd.DataFrame, size: str, label: str, of: str) -> Panel:
    words = {"seconds": "Seconds", "memory_mib": "Memory (MiB)"}[of]
    positive = costs[costs[of] > 0]
    medians = positive.groupby(["method", size], sort=True)[of].median().reset_index()
    looks = looks_of(list(dict.fromkeys(costs["method"])), inputs.methods)
    series = tuple(
        Series(name, own[size], own[of], "both", look.colour, look.marker, size=3.5)
        for name, look in looks.items()
        for own in [medians[medians["method"] == name]]
        if len(own)
    )
    return Panel(f"{words} by {label.lower()}", Axis(label, "log"), Axis(words, "log"), series)
