"""The section on the agreement with MixedLM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from flashmm import plots
from flashmm.report import page as blocks
from flashmm.report.inputs import Inputs

QUANTITIES = {
    "estimate": "coefficient",
    "std_error": "standard error",
    "statistic": "statistic",
    "p_value": "p-value",
    "theta": "variance component",
    "loglik": "log-likelihood",
}


def agreement(inputs: Inputs) -> Iterator[dict[str, Any]]:
    """The numbers of both, whose likelihood is higher, and where MixedLM failed."""
    pairs = inputs.table("pairs")
    if pairs.empty:
        return
    genes = pairs.groupby("dataset")["gene"].nunique().max()
    yield blocks.text(
        f"statsmodels MixedLM fitted the same models to up to {genes} genes per data set, from the "
        "cells themselves. Where the two differ, the higher log-likelihood is the better fit."
    )
    for method, part in pairs.groupby("method", sort=False):
        run = next(run for run in inputs.runs if run.method == method)
        yield blocks.figure(
            inputs.figures,
            plots.agreement_plot(part, unit=run.unit),
            f"agreement-{blocks.slug(str(method))}",
            f"flashmm against MixedLM, method {method}",
            "One point per gene and number; standard errors are compared without the small-sample "
            "correction, which MixedLM does not have.",
            plots.CAPTIONS["agreement_plot"],
        )
    table = inputs.table("agreement")
    yield blocks.table(
        _differences(table),
        "Differences",
        "Absolute differences, and the largest one on the scale that the last column names.",
    )
    yield blocks.table(
        _race(table),
        "Whose log-likelihood is higher",
        "By more than 10⁻⁶, of the same model on the same gene; a gain is the largest difference.",
    )
    optimisers = inputs.config["benchmark"]["reference"]["optimisers"]
    yield blocks.table(
        _failures(inputs.table("attempts"), optimisers),
        "Failures of MixedLM, by optimiser",
        "Genes on which an optimiser gave no usable fit, so that the next one was tried, of "
        f"{', '.join(optimisers)}; those not listed were not needed.",
    )


def _differences(table: pd.DataFrame) -> pd.DataFrame:
    names = {
        "dataset": "Data set",
        "method": "Method",
        "quantity": "Quantity",
        "n": "Compared",
        "reference_only": "Missing here",
        "ours_only": "Missing in MixedLM",
        "median": "Median",
        "max": "Largest",
        "scaled_max": "Largest, scaled",
        "unit": "Scale",
    }
    shown = table[table["quantity"].isin(QUANTITIES)]
    return shown[list(names)].replace({"quantity": QUANTITIES}).rename(columns=names)


def _race(table: pd.DataFrame) -> pd.DataFrame:
    race = table[table["quantity"] == "loglik"]
    return pd.DataFrame(
        {
            "Data set": race["dataset"],
            "Method": race["method"],
            "Genes": race["n"],
            "flashmm higher": race["ours_higher"],
            "MixedLM higher": race["reference_higher"],
            "Equal": race["n"] - race["ours_higher"] - race["reference_higher"],
            "Gain of flashmm": race["ours_gain"],
            "Gain of MixedLM": race["reference_gain"],
        }
    )


def _failures(attempts: pd.DataFrame, optimisers: Sequence[str]) -> pd.DataFrame:
    rows = []
    for (dataset, method), part in attempts.groupby(["dataset", "method"], sort=False):
        for optimiser in (name for name in optimisers if (part["optimiser"] == name).any()):
            tried = part[part["optimiser"] == optimiser]
            reasons = tried.loc[~tried["accepted"], "reason"].value_counts()
            rows.append(
                {
                    "Data set": dataset,
                    "Method": method,
                    "Optimiser": optimiser,
                    "Tried": len(tried),
                    "Failed": int((~tried["accepted"]).sum()),
                    "Why": "; ".join(f"{reason} ({n})" for reason, n in reasons.items()) or "–",
                }
            )
    return pd.DataFrame(rows)
