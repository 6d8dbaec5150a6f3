"""The section on the genes found in real counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from flashmm import plots
from flashmm.io.tables import read_table
from flashmm.report import page as blocks
from flashmm.report.inputs import Inputs, Run

# Volcano plots per data set and method on the page; all are saved as files.
MAX_VOLCANOES = 12
FIRST_ROWS = 25
GENE_COLUMNS = {
    "gene": "Gene",
    "estimate": "Estimate",
    "std_error": "Std. error",
    "statistic": "Statistic",
    "df": "df",
    "p_value": "p-value",
    "adj_p_value": "Adjusted p",
    "status": "Status",
}
NUMERIC = frozenset(GENE_COLUMNS) - {"gene", "status"}


def _families(run: Run, tests: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """Yield labels and tests of each contrast, of one level where each has a model of its own."""
    keys = [*([] if run.within is None else [run.within]), "contrast"]
    for labels, part in tests.groupby(keys, sort=False, observed=True):
        yield dict(zip(keys, map(str, labels), strict=True)), part


def _named(labels: dict[str, str]) -> str:
    return ": ".join(labels.values())


def results(inputs: Inputs) -> Iterator[dict[str, Any]]:
    """Genes found, volcano plots and tables of genes, per run."""
    metrics = inputs.table("metrics")
    for run in inputs.analyses:
        tests = read_table(run.tests)
        if tests.empty:
            continue  # its status says why
        tests = tests.reindex(columns=list(dict.fromkeys([*tests, *GENE_COLUMNS])))
        yield blocks.heading(f"{run.dataset}, method {run.method}")
        yield from _found(inputs, run, tests, metrics)
        yield from _volcanoes(inputs, run, tests)
        yield _gene_table(inputs, run, tests)


def _found(
    inputs: Inputs, run: Run, tests: pd.DataFrame, metrics: pd.DataFrame
) -> Iterator[dict[str, Any]]:
    fdr = inputs.config["report"]["fdr"]
    inflation = _inflation(run, metrics)
    rows = []
    for labels, part in _families(run, tests):
        found = part["adj_p_value"] <= fdr
        joint = part["estimate"].isna().all()  # F tests have no direction
        rows.append(
            {
                **{_heading(name): label for name, label in labels.items()},
                "Genes tested": int(part["p_value"].notna().sum()),
                "Found": int(found.sum()),
                "Up": np.nan if joint else (found & (part["estimate"] > 0)).sum(),
                "Down": np.nan if joint else (found & (part["estimate"] < 0)).sum(),
                "Median df": part["df"].median(),
                "Inflation λ": inflation.get(tuple(labels.values()), np.nan),
            }
        )
    yield blocks.table(
        pd.DataFrame(rows),
        "Genes found",
        f"Adjusted p-value (Benjamini-Hochberg, {_per(run)}) up to {fdr:g}. λ compares the median "
        "p-value with that of no effects at all; many true effects raise it too.",
    )


def _inflation(run: Run, metrics: pd.DataFrame) -> dict[tuple[str, ...], float]:
    """Genomic inflation by the labels of `_families`."""
    rows = metrics[
        (metrics["metric"] == "lambda_gc")
        & (metrics["dataset"] == run.dataset)
        & (metrics["method"] == run.method)
    ]
    keys = ["contrast"] if run.within is None else ["cell_type", "contrast"]
    labels = rows[keys].astype(str).itertuples(index=False, name=None)
    return dict(zip(map(tuple, labels), rows["value"], strict=True))


def _heading(column: str) -> str:
    return column.replace("_", " ").capitalize()


def _per(run: Run) -> str:
    return "per contrast" if run.within is None else f"per {run.within.replace('_', ' ')}"


def _volcanoes(inputs: Inputs, run: Run, tests: pd.DataFrame) -> Iterator[dict[str, Any]]:
    single = tests[tests["estimate"].notna()]
    stem = f"volcano-{blocks.slug(run.dataset)}-{blocks.slug(run.method)}"
    figures = [
        blocks.figure(
            inputs.figures,
            plots.volcano_plot(
                part.assign(contrast=_named(labels)),
                fdr=inputs.config["report"]["fdr"],
                unit=run.unit,
            ),
            f"{stem}-{number}-{blocks.slug(_named(labels))[:60]}",
            f"Volcano plot of {_named(labels)}",
            f"Estimate in {run.unit} against −log₁₀ p; one point per gene.",
        )
        for number, (labels, part) in enumerate(_families(run, single), start=1)
    ]
    if figures:
        yield blocks.row(*figures[:MAX_VOLCANOES], good=plots.CAPTIONS["volcano_plot"])
    if len(figures) > MAX_VOLCANOES:
        left = len(figures) - MAX_VOLCANOES
        yield blocks.text(f"The volcano plots of {left} more contrasts are in {inputs.figures}.")


def _gene_table(inputs: Inputs, run: Run, tests: pd.DataFrame) -> dict[str, Any]:
    fdr, top = inputs.config["report"]["fdr"], inputs.config["report"]["top_genes"]
    columns = dict(GENE_COLUMNS)
    if run.within is not None:
        columns = {"gene": "Gene", run.within: _heading(run.within)} | columns
    contrasts: list[dict[str, Any]] = [
        {
            "name": name,
            "total": int(part["p_value"].notna().sum()),
            "found": int((part["adj_p_value"] <= fdr).sum()),
            "rows": _gene_rows(part, columns, top),
        }
        for name, part in _lists(run, tests)
    ]
    shown = [
        [blocks.cell(value) for value in row[:-1]] for row in contrasts[0]["rows"][:FIRST_ROWS]
    ]
    return {
        "kind": "genes",
        "id": f"genes-{blocks.slug(run.dataset)}-{blocks.slug(run.method)}",
        "title": f"Top genes of {run.dataset}, {run.method}",
        "caption": f"Estimates in {run.unit}; click a heading to sort.",
        "path": run.tests.replace(".parquet", ".tsv"),
        "shown": shown,
        "data": {
            "fdr": fdr,
            "columns": [
                {"key": key, "label": label, "numeric": key in NUMERIC}
                for key, label in columns.items()
            ],
            "contrasts": contrasts,
        },
    }


def _lists(run: Run, tests: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the names of the lists of genes and their tests: all levels together come first."""
    families = list(_families(run, tests))
    if run.within is not None and len({labels[run.within] for labels, _ in families}) > 1:
        for contrast, part in tests.groupby("contrast", sort=False):
            yield f"every {run.within.replace('_', ' ')}: {contrast}", part
    for labels, part in families:
        yield _named(labels), part


def _gene_rows(tests: pd.DataFrame, columns: Mapping[str, str], top: int) -> list[list[Any]]:
    """Rows of smallest p-value as JSON can hold them; the last number, log10 p, is for sorting."""
    ranked = tests.sort_values(["log10_p", "gene"], kind="stable").head(top)
    return [
        [_plain(value) for value in row]
        for row in ranked[[*columns, "log10_p"]].astype(object).to_numpy()
    ]


def _plain(value: Any) -> Any:
    """Numbers to five digits, infinite or missing ones as None."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if np.isfinite(value) else None
    return value
