"""Charts of the genes of a run: volcano, MA, p-values, and expression by subject."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from flashmm.plots.charts import Axis, Chart, Panel, Rule, Series, rows_of, uncrowded
from flashmm.plots.style import DOWN, GREY, PALETTE, UP
from flashmm.report.cohort import Cohort
from flashmm.storage.files import reading

#: name of a family of tests -> its tests
Families = Mapping[str, pd.DataFrame]
BINS = 20
#: names written into a chart, and genes shown by subject without a click
NAMED, SHOWN_GENES = 8, 6


def volcano_chart(families: Families, fdr: float, unit: str, choose: str) -> Chart:
    """Estimates against p-values, a panel per family of tests.

    Parameters
    ----------
    families : mapping
        Name to tests.
    fdr : float
        Adjusted p-value up to which a gene is found.
    unit : str
        Unit of the estimates.
    choose : str
        What the families are.

    Returns
    -------
    Chart
    """
    x, y = Axis(f"Estimate ({unit})"), Axis("p-value, −log₁₀")
    return _found_chart(families, fdr, choose, x, y, "estimate", "score")


def ma_chart(families: Families, fdr: float, unit: str, choose: str) -> Chart:
    """Estimates against mean expression; as `volcano_chart`, tests with a column `mean`."""
    x, y = Axis(f"Mean expression ({unit})"), Axis(f"Estimate ({unit})")
    return _found_chart(families, fdr, choose, x, y, "mean", "estimate")


def _found_chart(
    families: Families, fdr: float, choose: str, x: Axis, y: Axis, across: str, up: str
) -> Chart:
    panels = []
    for name, tests in families.items():
        points = tests[tests["p_value"].notna() & tests["estimate"].notna()]
        points = points.assign(score=-points["log10_p"]).sort_values("log10_p", kind="stable")
        points = points[np.isfinite(points[across]) & np.isfinite(points[up])]
        series = tuple(_directions(points, fdr, across, up))
        zero = Rule("x" if across == "estimate" else "y", 0.0)
        panels.append(Panel(name, x, y, series, (zero,)))
    return Chart(tuple(panels), choose=choose)


def _directions(points: pd.DataFrame, fdr: float, x: str, y: str) -> Iterator[Series]:
    """Genes that were not found, went up, went down; those of smallest p have their names."""
    found, up = points["adj_p_value"] <= fdr, points["estimate"] > 0
    for name, colour, rows in (
        ("not found", "#B5B5B5", ~found),
        ("up", UP, found & up),
        ("down", DOWN, found & ~up),
    ):
        some = uncrowded(points[rows], x, y)
        named = name != "not found"
        text = [
            f"{row.gene}\nestimate {row.estimate:.3g}, p {10**row.log10_p:.2g}"
            if row.log10_p > -300
            else f"{row.gene}\nestimate {row.estimate:.3g}, log₁₀ p {row.log10_p:.0f}"
            for row in rows_of(some)
        ]
        labels = list(some["gene"][:NAMED]) if named else ()
        style: dict[str, Any] = {"colour": colour, "text": text, "labels": labels}
        yield Series(name, some[x], some[y], size=3.0 if named else 2.2, **style)


def p_chart(families: Families) -> Chart:
    """Histograms of all p-values, a panel per family of tests."""
    panels = []
    for name, tests in families.items():
        counts, edges = np.histogram(tests["p_value"].dropna(), BINS, (0, 1))
        text = [f"{n:,} genes" for n in counts]
        bars = Series(
            "genes", edges[:-1], counts, "bars", PALETTE[0], text=text, width=float(edges[1])
        )
        axis = Axis("p-value", ends=(0.0, 1.0))
        panels.append(Panel(name, axis, Axis("Genes"), (bars,)))
    return Chart(tuple(panels), legend=False)


# ----------------------------------------------------------------------------------------------
# Expression


def group_means(stored: Any, genes: Sequence[str]) -> pd.DataFrame:
    """Mean transformed value of some genes in every group.

    Parameters
    ----------
    stored : AnnData
        Groups, opened without their values.
    genes : sequence of str
        Names.

    Returns
    -------
    DataFrame
        (groups, genes).
    """
    places = stored.var_names.get_indexer(list(genes))
    with reading(str(stored.filename)):
        sums = np.asarray(stored.layers["sum"][:, np.sort(places)])
    sums = sums[:, np.argsort(np.argsort(places))]
    cells = stored.obs["n_cells"].to_numpy(dtype=float)
    return pd.DataFrame(sums / cells[:, None], index=stored.obs_names, columns=list(genes))


def overall_means(stored: Any, cohort: Cohort) -> pd.DataFrame:
    """Mean transformed value of every gene over the cells of each type (columns)."""
    types = cohort.groups[cohort.cell_type].astype(str) if cohort.cell_type else None
    labels = np.full(len(cohort.groups), "all") if types is None else types.to_numpy()
    with reading(str(stored.filename)):
        sums = np.asarray(stored.layers["sum"][:])
    cells = stored.obs["n_cells"].to_numpy(dtype=float)
    means = {
        label: sums[labels == label].sum(axis=0) / cells[labels == label].sum()
        for label in dict.fromkeys(labels)
    }
    return pd.DataFrame(means, index=stored.var_names)


def expression_chart(
    top: Sequence[tuple[str, str | None]], means: pd.DataFrame, cohort: Cohort, unit: str
) -> Chart:
    """Means of subjects by condition, a panel per gene and cell type.

    Parameters
    ----------
    top : sequence of (gene, cell type)
        What is shown; without a cell type, the cells of all.
    means : DataFrame
        Of `group_means`.
    cohort : Cohort
        Of the same groups.
    unit : str
        Unit of the means.

    Returns
    -------
    Chart
    """
    panels = [
        _expression_panel(gene, cell_type, means[gene], cohort, unit) for gene, cell_type in top
    ]
    return Chart(tuple(panels), legend=False)


def _expression_panel(
    gene: str, cell_type: str | None, means: pd.Series, cohort: Cohort, unit: str
) -> Panel:
    groups = cohort.groups.assign(mean=means.to_numpy())
    if cell_type is not None and cohort.cell_type is not None:
        groups = groups[groups[cohort.cell_type].astype(str) == cell_type]
    condition = cohort.condition or cohort.subject
    levels = cohort.levels(condition)
    subjects = cohort.levels(cohort.subject)
    shift = dict(zip(subjects, np.linspace(-0.18, 0.18, len(subjects)), strict=True))
    place = groups[condition].astype(str).map(levels.index)
    groups = groups.assign(x=place + groups[cohort.subject].astype(str).map(shift).astype(float))
    title = gene if cell_type is None else f"{gene}, {cell_type}"
    series = (*_pairs(groups, cohort), *_by_level(groups, condition, levels, cohort))
    return Panel(title, Axis(condition, names=tuple(levels)), Axis(unit), series)


def _pairs(groups: pd.DataFrame, cohort: Cohort) -> Iterator[Series]:
    """A grey line for each subject that has cells of several conditions."""
    for subject, own in groups.groupby(cohort.subject, observed=True):
        if len(own) > 1:
            own = own.sort_values("x")
            yield Series(str(subject), own["x"], own["mean"], "line", GREY)


def _by_level(
    groups: pd.DataFrame, condition: str, levels: Sequence[str], cohort: Cohort
) -> Iterator[Series]:
    for i, level in enumerate(levels):
        own = groups[groups[condition].astype(str) == level]
        text = [
            f"{row[cohort.subject]}, {level}: {row['mean']:.3g} ({row['n_cells']:,.0f} cells)"
            for _, row in own.iterrows()
        ]
        colour = PALETTE[i % len(PALETTE)]
        yield Series(level, own["x"], own["mean"], colour=colour, text=text, size=4.0)
