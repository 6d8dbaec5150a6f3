"""A gene of a table of tests in words: what was found, how sure, and who carries it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from flashmm.inference.between_subjects import SubjectDesign
from flashmm.inference.influence import influence
from flashmm.inference.replication import FEW_DF, replicating_df
from flashmm.inference.table import TestTable
from flashmm.notebook.rows import fits_of, has_groups, rows_of_gene
from flashmm.options import FlashmmError, FlashmmWarning, Status, checked


class Explanation(str):
    """Sentences that print as they are, also as the last line of a cell."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


@checked
def explain(table: TestTable, gene: str) -> Explanation:
    """Say what was found for a gene: estimate, interval, who carries it, status, in words.

    Parameters
    ----------
    gene : str
        A gene of the table.

    Returns
    -------
    str
        A paragraph per test of the gene.

    Raises
    ------
    InputError
        A gene that there is not.
    """
    rows = rows_of_gene(table, gene)
    levels = table.levels or ("",) * len(table.contrasts)
    fits = fits_of(table) if has_groups(table) else {}
    paragraphs = []
    designs = {name: SubjectDesign.of(fit) for name, fit in fits.items()}
    for row, level, contrast in zip(
        rows.to_dict(orient="records"), levels, table.contrasts, strict=True
    ):
        design = designs.get(level)
        df = np.nan
        if design is not None and np.isfinite(row["p_value"]):
            df = replicating_df(contrast, design)
        where = "" if table.within is None else f" in {table.within} {level}"
        what = row.get("comparison") or row["contrast"]
        head = f"{gene}, {what}{where}:"
        said = list(_sentences(row, table, df))
        if np.isfinite(row["p_value"]) and level in fits and len(contrast.matrix) == 1:
            said += _carried_by(fits[level], contrast, gene, df)
        paragraphs.append(" ".join([head, *said]))
    return Explanation("\n\n".join(paragraphs))


def _sentences(row: dict[Any, Any], table: TestTable, between_df: float) -> Iterator[str]:
    """Estimate, interval, p-values and status of one test."""
    if not np.isfinite(row["p_value"]):
        yield f"not tested ({row['status']}). {Status(row['status']).sentence}"
        return
    percent = f"{table.level:.0%}"
    fold, low, high = (row.get(k, np.nan) for k in ("log2_fc", "log2_fc_low", "log2_fc_high"))
    if np.isfinite(fold):
        direction = "higher" if fold > 0 else "lower"
        yield (
            f"{direction}, {2.0**fold:.3g} times the reference (log2 fold change {fold:.3g}, "
            f"{percent} interval {low:.3g} to {high:.3g})."
        )
    if np.isfinite(row["estimate"]):
        yield (
            f"The model's estimate is {row['estimate']:.3g} ({percent} interval "
            f"{row['conf_low']:.3g} to {row['conf_high']:.3g})."
        )
    df = f" with {row['df']:.3g} degrees of freedom" if np.isfinite(row["df"]) else ""
    verdict = "found" if row["adj_p_value"] < 0.05 else "not found"
    yield (
        f"p = {row['p_value']:.2g} ({table.ddf}{df}), adjusted {row['adj_p_value']:.2g}: {verdict} "
        "at a false discovery rate of 5%."
    )
    if table.prior is not None and 1 <= between_df < FEW_DF:
        yield (
            f"With {between_df:.0f} degree{'s' if between_df > 1 else ''} of freedom between "
            "subjects it rests on the variances of other genes: a candidate to confirm in other "
            "subjects, whatever its p-value."
        )
    if np.isfinite(row.get("n_subjects", np.nan)):
        expressing = row.get("fraction_expressing", np.nan)
        part = f", {expressing:.0%} of their cells express it" if np.isfinite(expressing) else ""
        yield f"It rests on {int(row['n_subjects'])} subjects{part}."
    if row["status"] != Status.OK:
        yield Status(row["status"]).sentence


def _carried_by(fit: Any, contrast: Any, gene: str, between_df: float) -> list[str]:
    """Whether one subject makes the difference."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FlashmmWarning)  # notes of the table say the same
            found = influence(fit, contrast.matrix.T, genes=[gene])
    except FlashmmError:
        return []
    p, without = float(found.p_value[0, 0]), found.p_without[:, 0, 0]
    shift = np.abs(found.dfbetas[:, 0, 0])
    if not np.isfinite(shift).any():
        return []
    estimates = found.estimate_without[:, 0, 0]
    if 1 <= between_df < 2:
        low, high = np.nanmin(estimates), np.nanmax(estimates)
        return [
            f"There are too few {found.column}s to leave one out and test again: without one of "
            f"them the estimate is {low:.3g} to {high:.3g}."
        ]
    top = int(np.nanargmax(shift))
    who = f"{found.column} {found.subjects[top]}"
    moved = f"without {who} the estimate is {estimates[top]:.3g}"
    if p < 0.05 and np.isfinite(without).any() and np.nanmax(without) >= 0.05:
        worst = int(np.nanargmax(without))
        return [
            f"One {found.column} carries it: without {found.subjects[worst]} p is "
            f"{without[worst]:.2g} ({found.ddf}, {p:.2g} with all)."
        ]
    return [f"No single {found.column} carries it ({moved}, p {without[top]:.2g} by {found.ddf})."]
