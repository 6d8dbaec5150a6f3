"""Sections on a run as a whole: what was run, how it ended, what it took, what was noted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flashmm.names import first_of
from flashmm.options import Status
from flashmm.report import page as blocks
from flashmm.report.genes import found_cards
from flashmm.report.inputs import Inputs, Run, genes_of_fit, said_by
from flashmm.report.subjects import (
    recovery_cards,
    statuses,
)
from flashmm.storage.files import reading


def lead(inputs: Inputs) -> str:
    """Words under the title of the page."""
    if not inputs.runs and inputs.related:
        return "Kinship mixed models of simulated traits whose heritability is known."
    parts = []
    if inputs.scenarios:
        parts.append("simulations with a known truth")
    if inputs.analyses:
        parts.append(" and ".join(dict.fromkeys(run.dataset for run in inputs.analyses)))
    methods = ", ".join(inputs.methods)
    return (
        f"Linear mixed models, fitted from summary statistics, on {' and on '.join(parts)}. "
        f"Methods: {methods}."
    )


def cards(inputs: Inputs) -> list[dict[str, str]]:
    """The numbers at the head of the page."""
    values = found_cards(inputs)
    values |= _run_cards(inputs) if inputs.simulations else {}
    values |= recovery_cards(inputs.related.get("heritability", {}))
    return [{"label": label, "value": blocks.cell(value)} for label, value in values.items()]


def _run_cards(inputs: Inputs) -> dict[str, Any]:
    groups = inputs.groups.values()
    status = pd.concat([statuses_of(run) for run in inputs.runs])
    usable = status.isin([Status.OK, Status.BOUNDARY]).mean()
    return {
        "data sets": len({run.dataset for run in inputs.runs}),
        "cells in the largest": max(int(g.obs["n_cells"].sum()) for g in groups),
        "genes in the largest": max(g.n_vars for g in groups),
        "methods": len({run.method for run in inputs.runs}),
        "models fitted": len(status),
        "with estimates": f"{np.floor(1000 * usable) / 10:g} %" if len(status) else "–",
    }


# ----------------------------------------------------------------------------------------------
# What was run, and how it ended


def what_was_run(inputs: Inputs) -> Iterator[dict[str, Any]]:
    """Data sets and methods."""
    if not inputs.runs:
        return
    yield blocks.table(
        _datasets(inputs), "Data sets", "What was summarised, once, into groups of cells."
    )
    yield blocks.table(_methods(inputs), "Methods", "What was fitted and how it was tested.")


def _datasets(inputs: Inputs) -> pd.DataFrame:
    rows = []
    for path, groups in inputs.groups.items():
        run = next(run for run in inputs.runs if run.groups == path)
        by = said_by(groups, "by")
        levels = groups.obs[list(groups.obs.columns[: len(by)])].nunique()
        rows.append(
            {
                "Data set": run.dataset,
                "Cells": int(groups.obs["n_cells"].sum()),
                "Genes": groups.n_vars,
                "Groups": groups.n_obs,
                "Levels": ", ".join(f"{name} {n}" for name, n in zip(by, levels, strict=True)),
                "Transform": said_by(groups, "transform")[0],
                "Counts": "simulated" if run.simulated else ", ".join(run.counts),
            }
        )
    return pd.DataFrame(rows)


def _methods(inputs: Inputs) -> pd.DataFrame:
    rows = []
    for run in inputs.runs:
        if not run.is_model:
            rows.append({"Method": run.method, **_of_other(run)})
            continue
        formulas, options = run.model["formulas"], run.model["options"]
        rows.append(
            {
                "Method": run.method,
                "Fixed effects": formulas["fixed"],
                "Random effects": ", ".join(formulas["random"] or ["in the formula"]),
                "Models": "one" if run.within is None else f"one per {run.within}",
                "Size factors": (run.model.get("size_factors") or {"method": "none"})["method"],
                "Likelihood": options["method"],
                "Components": "≥ 0" if options["nonnegative"] else "unbounded",
                "Degrees of freedom": run.ddf,
                "Transform": run.model["transform"],
            }
        )
    return pd.DataFrame(rows).fillna("").drop_duplicates()


def _of_other(run: Run) -> dict[str, Any]:
    """What is said of a command or a function."""
    asked = run.model["run"]
    what = asked.get("command") or ["function", asked["function"]["function"]]
    return {
        "Fixed effects": " ".join(what),
        "Models": "one" if run.within is None else f"one per {run.within}",
        "Degrees of freedom": run.ddf,
    }


def statuses_of(run: Run) -> pd.Series:
    """Status of the fit of every gene, of all levels where each has a model; none of others."""
    if run.fit is None:
        return pd.Series(dtype=object)
    obs = genes_of_fit(run.fit)
    parts = [obs[name].astype(str) for name in map(str, obs) if name.partition(":")[0] == "status"]
    return pd.concat(parts, ignore_index=True)


def fits(inputs: Inputs) -> Iterator[dict[str, Any]]:
    """How the fits ended, and what the statuses mean."""
    models = [run for run in inputs.runs if run.is_model]
    counts = {(run.dataset, run.method): statuses_of(run).value_counts() for run in models}
    counts |= dict(statuses(inputs.related))
    if not counts:
        return
    table = pd.DataFrame(counts).T.fillna(0).astype(int)
    order = [str(status) for status in Status if str(status) in table]
    table = table[order].rename_axis(["Data set", "Method"]).reset_index()
    words = "How the fit of every gene ended"
    if any(run.within for run in inputs.runs):
        words += "; where cell types have models of their own, of every gene in each of them"
    yield blocks.table(table, "Genes by status", f"{words}.")
    meanings = {"Status": order, "Meaning": [Status(name).sentence for name in order]}
    yield blocks.table(pd.DataFrame(meanings), "Statuses", "What the words say.")


# ----------------------------------------------------------------------------------------------
# Notes


def notes(inputs: Inputs) -> Iterator[dict[str, Any]]:
    """What was decided on the way, and in which runs."""
    where: dict[str, list[str]] = {}
    for run in inputs.runs:
        with reading(run.notes):
            lines = Path(run.notes).read_text("utf-8").splitlines()
        for line in dict.fromkeys(
            [*_simulation_notes(inputs, run), *said_by(inputs.groups[run.groups], "notes"), *lines]
        ):
            where.setdefault(line, []).append(f"{run.dataset}/{run.method}")
    for section, results in inputs.related.items():
        for dataset, files in results.items():
            with reading(files["notes"]):
                lines = Path(files["notes"]).read_text("utf-8").splitlines()
            for line in lines:
                where.setdefault(line, []).append(f"{dataset}/{section}")
    for text in left_over(inputs):
        where[text] = ["results"]
    if where:
        yield blocks.text("What was decided on the way, and what to keep in mind.")
        entries = [{"where": first_of(runs, 3) + ":", "text": text} for text, runs in where.items()]
        yield {"kind": "notes", "entries": entries}


def left_over(inputs: Inputs) -> Iterator[str]:
    """Say which tests beside those of this run earlier ones have left."""
    shown = {Path(run.tests) for run in inputs.runs}
    folders = {path.parents[1] for path in shown if path.parents[1].name == "tests"}
    others = {path for folder in folders for path in folder.glob("*/*.parquet")} - shown
    names = sorted(f"{path.parent.name}/{path.stem}" for path in others)
    if names:
        yield (
            f"The folder also holds tests of earlier runs, which this page does not show: "
            f"{first_of(names, 6)}."
        )


def _simulation_notes(inputs: Inputs, run: Run) -> list[str]:
    if not run.simulated:
        return []
    return said_by(inputs.stored(run.counts[0]), "notes")
