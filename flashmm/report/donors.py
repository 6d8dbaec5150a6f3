"""The report of a study on real donors: a verdict on one screen, pictures, cell types, quarters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flashmm.benchmark.ranking import MOST_FDP, MOST_RATIO
from flashmm.plots.donors import donor_plot
from flashmm.report import page as blocks
from flashmm.report.provenance import provenance, provenance_blocks, write_provenance


def write_donor_report(
    path: str | Path,
    figures: str | Path,
    *,
    metrics: pd.DataFrame,
    methods: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
    config: Mapping[str, Any],
) -> None:
    """Write the page of a study on real donors, and beside it ``provenance.json``.

    Parameters
    ----------
    path : path
        The HTML page.
    figures : path
        Folder for the figures as SVG and PNG.
    metrics : DataFrame
        Of `flashmm.benchmark.donor_metrics.judge`.
    methods : sequence of mapping
        Rows of the methods.
    notes : sequence of str
        Methods that were left out, and why.
    config : mapping
        The whole config, defaults filled in.
    """
    folder = Path(figures)
    folder.mkdir(parents=True, exist_ok=True)
    said = provenance(config)
    parts = (
        ("verdict", "The verdict", _verdict(metrics, notes)),
        ("pictures", "Rejection, false discoveries and power", _pictures(folder, metrics)),
        ("slices", "By quarter of expression and cell type", _slices(metrics)),
        ("methods", "Methods", _methods(methods)),
        ("provenance", "Provenance", provenance_blocks(said)),
    )
    page = {
        "title": config["report"]["title"],
        "lead": "Labels dealt at random to real donors, so that nothing differs; and true fold "
        "changes put in by thinning the counts of one side.",
        "cards": [],
        "sections": [{"id": i, "title": t, "blocks": list(found)} for i, t, found in parts],
    }
    blocks.render_page(path, page)
    write_provenance(path, said)


def verdict_frame(metrics: pd.DataFrame, per_side: int) -> pd.DataFrame:
    """What a study says of each method, in the words of a table.

    Parameters
    ----------
    metrics : DataFrame
        Of `judge`.
    per_side : int
        Subjects per side.

    Returns
    -------
    DataFrame
        A row per method: rejections of true nulls at each level (permuted sets), the largest in a
        quarter of expression at .01, FDP and TPR at BH 5 %, power where 1 % of the nulls are
        rejected (thinned sets), and whether level and FDP are kept.
    """
    own = metrics[metrics["per_side"] == per_side]
    return pd.DataFrame([_row(str(m), own[own["method"] == m]) for m in own["method"].unique()])


def _row(method: str, own: pd.DataFrame) -> dict[str, str]:
    whole = own[(own["cell_type"] == "all") & (own["quarter"] == "all")]
    nulls, thinned = (whole[whole["kind"] == kind] for kind in ("permuted", "thinned"))
    row = {"Method": method}
    kept = []
    for level, most in MOST_RATIO.items():
        found = _one(nulls, "fpr", level)
        places = {0.05: 3, 0.01: 4, 0.001: 5}[level]
        row[f"Rejected at {level:g}"] = _number(found, places)
        kept.append(not found > most * level)
    quarters = own[(own["kind"] == "permuted") & (own["quarter"] != "all")]
    worst = quarters.loc[(quarters["metric"] == "fpr") & np.isclose(quarters["level"], 0.01)]
    row["Worst quarter at 0.01"] = _number(worst["value"].max(), 4)
    row["FDP at BH 5 %"] = _with_error(thinned, "fdp")
    row["TPR at BH 5 %"] = _with_error(thinned, "tpr")
    row["Power at equal level"] = _with_error(thinned, "power_at_fpr")
    row["Level kept"] = "yes" if all(kept) else "NO"
    row["FDP kept"] = "yes" if not _one(thinned, "fdp", 0.05) > MOST_FDP else "NO"
    return row


def _one(rows: pd.DataFrame, metric: str, level: float) -> float:
    found = rows.loc[(rows["metric"] == metric) & np.isclose(rows["level"], level), "value"]
    return float(found.iloc[0]) if len(found) else np.nan


def _number(value: float, places: int) -> str:
    return "–" if np.isnan(value) else f"{value:.{places}f}"


def _with_error(rows: pd.DataFrame, metric: str) -> str:
    found = rows[rows["metric"] == metric]
    if found.empty:
        return "–"
    value, error = found[["value", "std_error"]].iloc[0]
    return _number(value, 3) if np.isnan(error) else f"{value:.3f} ± {error:.3f}"


def _verdict(metrics: pd.DataFrame, notes: Sequence[str]) -> Iterator[dict[str, Any]]:
    for n in metrics["per_side"].unique():
        yield blocks.table(
            verdict_frame(metrics, n),
            f"{n} against {n} donors",
            "Level kept: rejections of true nulls at most 1.2, 1.35 and 1.6 times .05, .01 and "
            ".001. FDP kept: at most 7 %, at BH 5 % per cell type, discoveries of all sets added "
            "up. Power at equal level: true effects found where 1 % of the nulls are rejected. ± "
            "is the standard error between sets.",
        )
    for said in notes:
        yield blocks.text(said)


def _pictures(folder: Path, metrics: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for n in metrics["per_side"].unique():
        yield blocks.figure(
            folder,
            donor_plot(metrics[metrics["per_side"] == n]),
            f"donors-{n}",
            f"{n} against {n} donors",
            "Left: rejections of true nulls over the level. Right: true positive rate against "
            "false discovery proportion at BH 5 %. Lines are two standard errors between sets.",
            "Good: left at the dashed line; right high, and left of the dashed line.",
        )


def _slices(metrics: pd.DataFrame) -> Iterator[dict[str, Any]]:
    rejected = metrics[(metrics["metric"] == "fpr") & (metrics["kind"] == "permuted")]
    rejected = rejected[np.isclose(rejected["level"], 0.01)]
    for n, part in rejected.groupby("per_side", sort=False):
        for column, other in (("quarter", "cell_type"), ("cell_type", "quarter")):
            shown = part[(part[other] == "all") & (part[column] != "all")]
            if shown.empty:
                continue
            wide = shown.pivot(index="method", columns=column, values="value")
            wide = wide.loc[shown["method"].unique()].map(lambda x: _number(x, 4))
            yield blocks.table(
                wide.rename_axis(index="Method", columns=None).reset_index(),
                f"{n} against {n}: rejected at .01 by {column.replace('_', ' ')}",
                "Share of true nulls; quarter 1 has the rarest genes.",
            )


def _methods(methods: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    rows = [
        {
            "Method": method["name"],
            "Test": method["test"],
            "Settings": ", ".join(
                f"{key} {value}" for key, value in method.items() if key not in ("name", "test")
            )
            or "–",
        }
        for method in methods
    ]
    yield blocks.table(pd.DataFrame(rows), "Methods", "How every set was tested.")
