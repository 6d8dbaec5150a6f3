"""The section on the genes found in real counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from flashmm import plots
from flashmm.options import Status
from flashmm.report import gene_charts
from flashmm.report import page as blocks
from flashmm.report.cohort import Cohort, cohort_blocks, cohort_of, in_words
from flashmm.report.inputs import Inputs, Run
from flashmm.report.page import Cell

# Families of tests whose charts are on the page, per data set and method; volcano plots of all are
# saved as files.
MAX_CHARTS = 40
FIRST_ROWS = 25
# Genes of the overview, and numbers of the page's expression by subject, at most.
OVERVIEW_GENES = 25
MOST_MEANS = 150_000
GENE_COLUMNS = {
    "gene": "Gene",
    "estimate": "Estimate",
    "log2_fc": "log₂ fold change",
    "conf_low": "from",
    "conf_high": "to",
    "p_value": "p-value",
    "adj_p_value": "Adjusted p",
    "df": "df",
    "status": "Status",
}
NUMERIC = frozenset(GENE_COLUMNS) - {"gene", "status"}
BOUNDARY = (
    "Status “boundary” is fine: the best fit has a variance between subjects of zero, because "
    "their means differ by no more than their cells explain. The estimate and its test hold; "
    "moderation by all genes or the degrees of freedom see to it that such genes are not called "
    "too easily. "
    "Genes of other statuses have no test, and the table of statuses says why."
)


def _families(run: Run, tests: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """Yield labels and tests of each contrast, of one level where each has a model of its own."""
    keys = [*([] if run.within is None else [run.within]), "contrast"]
    for labels, part in tests.groupby(keys, sort=False, observed=True):
        yield dict(zip(keys, map(str, labels), strict=True)), part


def _named(labels: dict[str, str]) -> str:
    return ": ".join(labels.values())


def found_cards(inputs: Inputs) -> dict[str, Any]:
    """Numbers of the first analysis, for the head of the page."""
    if not inputs.analyses:
        return {}
    run, fdr = inputs.analyses[0], inputs.config["report"]["fdr"]
    tests = inputs.tests(run)
    cohort = cohort_of(inputs, run, list(tests["contrast"].astype(str).unique()))
    arms = {f"subjects {arm}": n for arm, n in list(cohort.arms.items())[:4]}
    if cohort.numbers:
        arms = {"subjects": cohort.groups[cohort.subject].nunique()}
    types = cohort.levels(cohort.cell_type) if cohort.cell_type else []
    tested = tests.loc[tests["p_value"].notna()]
    if run.within is not None:
        types = list(tested[run.within].astype(str).unique())
    found = tested.loc[tested["adj_p_value"] <= fdr, "gene"].nunique()
    return {
        **arms,
        **({"cell types tested": len(types)} if types else {}),
        "genes tested": tested["gene"].nunique(),
        f"genes found at FDR {fdr:.0%}": found,
        "cells": int(cohort.groups["n_cells"].sum()),
    }


def results(inputs: Inputs) -> Iterator[dict[str, Any]]:
    """Who was compared, genes found, charts and tables of genes, per run."""
    metrics, shown = inputs.table("metrics"), set()
    for run in inputs.analyses:
        tests = inputs.tests(run)
        if tests.empty:
            continue  # its status says why
        tests = tests.reindex(columns=list(dict.fromkeys([*tests, *GENE_COLUMNS])))
        contrasts = list(tests["contrast"].astype(str).unique())
        cohort = cohort_of(inputs, run, contrasts)
        yield blocks.heading(f"{run.dataset}, method {run.method}")
        if run.dataset not in shown:
            shown.add(run.dataset)
            yield from cohort_blocks(cohort, contrasts, run.dataset)
        yield from _found(inputs, run, tests, metrics, cohort)
        yield from _charts(inputs, run, tests, cohort)
        yield from _overview(inputs, run, tests)
        yield from _top_genes(inputs, run, tests, cohort)


def _found(
    inputs: Inputs, run: Run, tests: pd.DataFrame, metrics: pd.DataFrame, cohort: Cohort
) -> Iterator[dict[str, Any]]:
    fdr = inputs.config["report"]["fdr"]
    inflation = _inflation(run, metrics)
    rows = []
    for labels, part in _families(run, tests):
        found = part["adj_p_value"] <= fdr
        joint = part["estimate"].isna().all()  # F tests have no direction
        words = labels | {"contrast": in_words(labels["contrast"], cohort)}
        rows.append(
            {
                **{_heading(name): label for name, label in words.items()},
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
        f"{_found_words(tests, fdr)} Adjusted p-value (Benjamini-Hochberg, {_per(run)}) up to "
        f"{fdr:g}. λ compares the median p-value with that of no effects at all; many true effects "
        "raise it too.",
        sortable=True,
    )


def _found_words(tests: pd.DataFrame, fdr: float) -> str:
    found = tests[tests["adj_p_value"] <= fdr]
    n = found["gene"].nunique()
    return f"{n:,} {'gene' if n == 1 else 'genes'} found, in {len(found):,} tests."


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


# ----------------------------------------------------------------------------------------------
# Charts


def _charts(
    inputs: Inputs, run: Run, tests: pd.DataFrame, cohort: Cohort
) -> Iterator[dict[str, Any]]:
    single = tests[tests["estimate"].notna()]
    fdr, stem = inputs.config["report"]["fdr"], _stem(run)
    _save_volcanoes(inputs, run, single, stem)
    families = _family_tests(run, single, cohort)
    if not families:
        return
    shown = dict(list(families.items())[:MAX_CHARTS])
    choose = "Comparison" if run.within is None else _heading(run.within)
    yield blocks.row(
        blocks.chart(
            inputs.figures,
            gene_charts.volcano_chart(shown, fdr, run.unit, choose),
            f"volcano-{stem}",
            "Volcano plot",
            f"Estimate in {run.unit} against −log₁₀ p; one point per gene, those of smallest "
            "p-value named. Drag to zoom.",
            plots.CAPTIONS["volcano_plot"],
        ),
        blocks.chart(
            inputs.figures,
            gene_charts.ma_chart(_with_means(inputs, run, shown, cohort), fdr, run.unit, choose),
            f"ma-{stem}",
            "Estimates by expression",
            "Estimate against the mean of the cells; one point per gene.",
            "Good: centred on zero at every expression; a slope or a shift of the whole cloud is a "
            "matter of library sizes rather than of genes.",
        ),
    )
    yield blocks.chart(
        inputs.figures,
        gene_charts.p_chart(shown),
        f"p-values-{stem}",
        "Histogram of p-values",
        "P-values of all genes.",
        "Good: flat, with a peak at zero where there are effects; a hill in the middle or on the "
        "right means that a model or its degrees of freedom do not fit.",
    )
    if len(families) > MAX_CHARTS:
        left = len(families) - MAX_CHARTS
        yield blocks.text(f"The volcano plots of {left} more comparisons are in {inputs.figures}.")


def _stem(run: Run) -> str:
    return f"{blocks.slug(run.dataset)}-{blocks.slug(run.method)}"


def _family_tests(run: Run, tests: pd.DataFrame, cohort: Cohort) -> dict[str, pd.DataFrame]:
    """Tests of each family by its name in words, which are unique."""
    found: dict[str, pd.DataFrame] = {}
    for labels, part in _families(run, tests):
        words = _named(labels | {"contrast": in_words(labels["contrast"], cohort)})
        found[words if words not in found else _named(labels)] = part
    return found


def _save_volcanoes(inputs: Inputs, run: Run, single: pd.DataFrame, stem: str) -> None:
    """Volcano plots with names, a file per family."""
    for number, (labels, part) in enumerate(_families(run, single), start=1):
        fig = plots.volcano_plot(
            part.assign(contrast=_named(labels)),
            fdr=inputs.config["report"]["fdr"],
            unit=run.unit,
        )
        name = f"volcano-{stem}-{number}-{blocks.slug(_named(labels))[:60]}"
        plots.save_figure(fig, inputs.figures / name)


def _with_means(
    inputs: Inputs, run: Run, families: Mapping[str, pd.DataFrame], cohort: Cohort
) -> dict[str, pd.DataFrame]:
    """Tests with the mean expression of the gene, in the cell type where each has a model."""
    means = gene_charts.overall_means(inputs.groups[run.groups], cohort)
    whole = means.mean(axis=1)
    found = {}
    for name, tests in families.items():
        own = whole
        if run.within is not None and str(tests[run.within].iloc[0]) in means:
            own = means[str(tests[run.within].iloc[0])]
        found[name] = tests.assign(mean=own.reindex(tests["gene"]).to_numpy())
    return found


# ----------------------------------------------------------------------------------------------
# Genes by types


def _overview(inputs: Inputs, run: Run, tests: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The top genes in every cell type (or contrast): estimates, coloured where found."""
    fdr, key = inputs.config["report"]["fdr"], run.within or "contrast"
    single = tests[tests["estimate"].notna()]
    if single[key].nunique() < 2:
        return
    ranked = single.sort_values(["log10_p", "gene"], kind="stable")
    genes = list(dict.fromkeys(ranked["gene"]))[:OVERVIEW_GENES]
    rows: dict[str, dict[str, Any]] = {gene: {"Gene": gene} for gene in genes}
    for row in ranked[ranked["gene"].isin(genes)].to_dict("records"):
        rows[row["gene"]].setdefault(str(row[key]), _direction(row, fdr))
    columns = ["Gene", *map(str, single[key].unique())]
    frame = pd.DataFrame(list(rows.values())).reindex(columns=columns)
    yield blocks.table(
        blocks.filled(frame),
        "Top genes in every " + _heading(key).lower(),
        f"Estimates in {run.unit}, of the {len(genes)} genes of smallest p-value anywhere; ↑ and ↓ "
        f"where the adjusted p-value is up to {fdr:g}.",
        sortable=True,
    )


def _direction(row: Mapping[Any, Any], fdr: float) -> Cell:
    found = row["adj_p_value"] <= fdr
    tone = ("up" if row["estimate"] > 0 else "down") if found else ""
    said = f"adjusted p {blocks.cell(row['adj_p_value'])}"
    return Cell(f"{row['estimate']:.2f}", tone, float(row["estimate"]), said)


# ----------------------------------------------------------------------------------------------
# Top genes


def _top_genes(
    inputs: Inputs, run: Run, tests: pd.DataFrame, cohort: Cohort
) -> Iterator[dict[str, Any]]:
    table = _gene_table(inputs, run, tests, cohort)
    ranked = tests[tests["p_value"].notna()].sort_values(["log10_p", "gene"], kind="stable")
    genes = list(dict.fromkeys(ranked["gene"].astype(str)))
    if genes:
        most = max(MOST_MEANS // max(len(cohort.groups), 1), gene_charts.SHOWN_GENES)
        means = gene_charts.group_means(inputs.groups[run.groups], genes[:most])
        yield _expression_figure(inputs, run, ranked, means, cohort)
        yield blocks.expression(f"expression-{_stem(run)}", _expression(means, cohort, run))
    yield table
    yield blocks.text(BOUNDARY if _has_boundary(tests) else BOUNDARY.rpartition(". ")[2])


def _has_boundary(tests: pd.DataFrame) -> bool:
    return bool((tests["status"].astype(str) == str(Status.BOUNDARY)).any())


def _expression_figure(
    inputs: Inputs, run: Run, ranked: pd.DataFrame, means: pd.DataFrame, cohort: Cohort
) -> dict[str, Any]:
    first = ranked.drop_duplicates("gene")[: gene_charts.SHOWN_GENES]
    types = [None] * len(first) if run.within is None else first[run.within].astype(str)
    top = list(zip(first["gene"].astype(str), types, strict=True))
    return blocks.chart(
        inputs.figures,
        gene_charts.expression_chart(top, means, cohort, run.unit),
        f"expression-{_stem(run)}",
        "The genes of smallest p-value, by subject",
        "Means over the cells of each subject, before covariates and size factors; grey lines join "
        "a subject's conditions. A click on a row of the table below shows its gene in every cell "
        "type.",
        "Good: subjects of one condition on one side, not one subject far from all others.",
    )


def _expression(means: pd.DataFrame, cohort: Cohort, run: Run) -> dict[str, Any]:
    """Group means as the page's script reads them."""
    groups, condition = cohort.groups, cohort.condition or cohort.subject
    types = cohort.cell_type
    return {
        "unit": run.unit,
        "label": condition,
        "levels": cohort.levels(condition),
        "types": cohort.levels(types) if types else ["all cells"],
        "subject": groups[cohort.subject].astype(str).tolist(),
        "condition": groups[condition].astype(str).tolist(),
        "type": groups[types].astype(str).tolist() if types else ["all cells"] * len(groups),
        "cells": groups["n_cells"].astype(int).tolist(),
        "genes": list(means.columns),
        "means": [[_plain(float(f"{v:.4g}")) for v in means[gene]] for gene in means],
    }


def _gene_table(inputs: Inputs, run: Run, tests: pd.DataFrame, cohort: Cohort) -> dict[str, Any]:
    fdr, top = inputs.config["report"]["fdr"], inputs.config["report"]["top_genes"]
    columns = {key: label for key, label in GENE_COLUMNS.items() if key in tests}
    if run.within is not None:
        columns = {"gene": "Gene", run.within: _heading(run.within)} | columns
    contrasts: list[dict[str, Any]] = [
        {
            "name": name,
            "total": int(part["p_value"].notna().sum()),
            "found": int((part["adj_p_value"] <= fdr).sum()),
            "found_genes": int(part.loc[part["adj_p_value"] <= fdr, "gene"].nunique()),
            "rows": _gene_rows(part, columns, top),
        }
        for name, part in _lists(run, tests, cohort)
    ]
    shown = [
        [blocks.cell(value) for value in row[:-1]] for row in contrasts[0]["rows"][:FIRST_ROWS]
    ]
    return {
        "kind": "genes",
        "id": f"genes-{_stem(run)}",
        "expression": f"expression-{_stem(run)}",
        "title": f"Top genes of {run.dataset}, {run.method}",
        "caption": f"Estimates in {run.unit}, with their 95 % intervals. Click a heading to sort; "
        "the boxes below the headings filter: part of a name, or < 0.01, > 1, |x| > 1.",
        "path": run.tests.replace(".parquet", ".tsv"),
        "shown": shown,
        "data": {
            "fdr": fdr,
            "file": f"{_stem(run)}-genes.csv",
            "type": run.within,
            "columns": [
                {"key": key, "label": label, "numeric": key in NUMERIC}
                for key, label in columns.items()
            ],
            "contrasts": contrasts,
        },
    }


def _lists(run: Run, tests: pd.DataFrame, cohort: Cohort) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the names of the lists of genes and their tests: all levels together come first."""
    families = _family_tests(run, tests, cohort)
    if run.within is not None and tests[run.within].nunique() > 1:
        for contrast, part in tests.groupby("contrast", sort=False, observed=True):
            words = in_words(str(contrast), cohort)
            yield f"every {run.within.replace('_', ' ')}: {words}", part
    yield from families.items()


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
