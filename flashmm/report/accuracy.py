"""Sections on simulations: what was simulated, and the tests against the truth."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from flashmm import plots
from flashmm.benchmark.metrics import average_metrics
from flashmm.report import curves
from flashmm.report import page as blocks
from flashmm.report.inputs import Inputs

# Cells read for the figure of a simulation.
SHOWN_CELLS = 5_000
ACCURACY = (
    "lambda_gc",
    "fpr",
    "fdp",
    "tpr",
    "auc",
    "pauc",
    "missing",
    "tests",
    "de_tests",
    "de_untested",
)
COUNTS = ("missing", "tests", "de_tests", "de_untested")


def simulation(inputs: Inputs) -> Iterator[dict[str, Any]]:
    """What was simulated, in numbers and figures."""
    if not inputs.simulations:
        return
    fields = pd.DataFrame(inputs.scenarios).map(_field).rename_axis("Field").reset_index()
    yield blocks.table(
        fields,
        "Scenarios",
        "Fields of the simulation that were set; variances and log fold changes are on the natural "
        "log scale.",
    )
    for scenario in inputs.scenarios:
        run = inputs.first_of(scenario)
        counts = inputs.stored(run.counts[0])
        cells = np.unique(np.linspace(0, counts.n_obs - 1, SHOWN_CELLS).round().astype(int))
        moments = plots.gene_moments(counts[cells].to_memory().X)
        yield blocks.figure(
            inputs.figures,
            plots.simulation_plot(counts.obs, moments),
            f"simulation-{blocks.slug(scenario)}",
            f"Scenario {scenario}",
            "Cells per subject and cell type, library sizes, and the variance of each gene against "
            f"its mean (first replicate{_of_cells(cells, counts.n_obs)}).",
            plots.CAPTIONS["simulation_plot"],
        )


def _of_cells(cells: np.ndarray, n_obs: int) -> str:
    return "" if len(cells) == n_obs else f"; moments of {len(cells):,} of {n_obs:,} cells"


def _field(value: Any) -> str:
    if isinstance(value, float) and np.isnan(value):
        return "default"
    return json.dumps(value) if isinstance(value, dict | list) else blocks.cell(value)


# ----------------------------------------------------------------------------------------------
# Accuracy


def accuracy(inputs: Inputs) -> Iterator[dict[str, Any]]:
    """Rates of errors and power, in numbers and figures."""
    metrics = inputs.table("metrics")
    if metrics.empty or not inputs.scenarios:
        return
    metrics = metrics[metrics["scenario"].isin(list(inputs.scenarios))]
    averaged = average_metrics(metrics, ["scenario", "method"])
    for scenario in inputs.scenarios:
        yield blocks.heading(f"Scenario {scenario}")
        part = averaged[averaged["scenario"] == scenario]
        yield from _accuracy_figures(inputs, scenario, part)
        yield blocks.table(
            _accuracy_table(part),
            f"Error rates and power, {scenario}",
            f"Mean over {inputs.config['benchmark']['replicates']} data sets ± its standard error, "
            "all contrasts together.",
        )


def _accuracy_figures(
    inputs: Inputs, scenario: str, metrics: pd.DataFrame
) -> Iterator[dict[str, Any]]:
    yield blocks.row(_qq_figure(inputs, scenario), _fpr_figure(inputs, scenario, metrics))
    histograms = _curves(inputs, "p_histogram", scenario)
    yield blocks.figure(
        inputs.figures,
        plots.p_histogram(histograms, methods=inputs.methods),
        f"p_histogram-{blocks.slug(scenario)}",
        f"Histogram of null p-values, {scenario}, first replicate",
        "Density of the p-values of the tests without a true effect.",
        plots.CAPTIONS["p_histogram"],
        curves.histogram_chart(histograms, inputs.methods),
    )
    roc = _curves(inputs, "roc", scenario)
    if roc:
        yield _roc_figure(inputs, scenario, metrics, roc)
        yield _fdr_figure(inputs, scenario, metrics)


def _qq_figure(inputs: Inputs, scenario: str) -> dict[str, Any]:
    found = _curves(inputs, "qq", scenario)
    return blocks.figure(
        inputs.figures,
        plots.qq_plot(found, methods=inputs.methods),
        f"qq-{blocks.slug(scenario)}",
        f"Null p-values, {scenario}, first replicate",
        "Observed against expected −log₁₀ p of the tests without a true effect.",
        plots.CAPTIONS["qq_plot"],
        curves.qq_chart(found, inputs.methods),
    )


def _fpr_figure(inputs: Inputs, scenario: str, metrics: pd.DataFrame) -> dict[str, Any]:
    return blocks.figure(
        inputs.figures,
        plots.fpr_plot(metrics, methods=inputs.methods),
        f"fpr-{blocks.slug(scenario)}",
        f"False positive rate, {scenario}",
        "Share of the tests without a true effect whose p-value is below the level, with 95 % "
        "intervals.",
        plots.CAPTIONS["fpr_plot"],
        curves.fpr_chart(metrics, inputs.methods),
    )


def _roc_figure(
    inputs: Inputs, scenario: str, metrics: pd.DataFrame, roc: Mapping[str, pd.DataFrame]
) -> dict[str, Any]:
    auc = metrics[(metrics["metric"] == "auc") & (metrics["contrast"] == "all")]
    return blocks.figure(
        inputs.figures,
        plots.roc_plot(
            roc, auc=dict(zip(auc["method"], auc["value"], strict=True)), methods=inputs.methods
        ),
        f"roc-{blocks.slug(scenario)}",
        f"ROC curves, {scenario}, first replicate",
        "True against false positive rate as the p-value threshold grows; mean area in the legend.",
        plots.CAPTIONS["roc_plot"],
        curves.roc_chart(roc, inputs.methods),
    )


def _fdr_figure(inputs: Inputs, scenario: str, metrics: pd.DataFrame) -> dict[str, Any]:
    found = _curves(inputs, "fdp_tpr", scenario)
    return blocks.figure(
        inputs.figures,
        plots.fdr_tpr_plot(metrics, found, methods=inputs.methods),
        f"fdr_tpr-{blocks.slug(scenario)}",
        f"Power and false discoveries, {scenario}",
        "True positive rate against the realised false discovery proportion at the nominal levels; "
        "thin lines are the first replicate.",
        plots.CAPTIONS["fdr_tpr_plot"],
        curves.fdp_chart(metrics, found, inputs.methods),
    )


def _curves(inputs: Inputs, name: str, scenario: str) -> dict[str, pd.DataFrame]:
    """Method to curve of the first replicate; methods without one are left out."""
    table = inputs.table(name)
    table = table[(table["scenario"] == scenario) & (table["replicate"] == 1)]
    return {str(method): part for method, part in table.groupby("method", sort=False)}


def _accuracy_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """Rows are metrics in words, columns are methods."""
    shown = metrics[
        (metrics["contrast"] == "all") & metrics["metric"].isin(ACCURACY) & metrics["value"].notna()
    ].copy()
    shown.loc[shown["metric"].isin(COUNTS), "std_error"] = np.nan
    shown["text"] = list(map(blocks.with_error, shown["value"], shown["std_error"]))
    order = shown["metric"].map(ACCURACY.index)
    shown = shown.iloc[np.argsort(order.to_numpy(), kind="stable")]
    wide = shown.pivot_table(
        index="label", columns="method", values="text", aggfunc="first", sort=False
    )
    wide = wide[list(dict.fromkeys(metrics["method"]))].fillna("–")
    return wide.rename_axis("", axis=0).rename_axis(None, axis=1).reset_index()
