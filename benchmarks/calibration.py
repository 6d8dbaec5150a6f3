"""Tables of the calibration study, from the metrics that `make calibration` leaves.

python benchmarks/calibration.py              # print them
python benchmarks/calibration.py --docs       # and write docs/calibration.md anew
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import common
import pandas as pd

from flashmm.benchmark.calibration import CalibrationMethod, scenario_table
from flashmm.benchmark.criteria import (
    comparison,
    kind_of,
    matched_methods,
    wider_methods,
)
from flashmm.io.tables import read_provenance, read_table
from flashmm.plots import gain_plot, rejection_plot, save_figure
from flashmm.report.calibration import (
    ANTI_CONSERVATIVE,
    approaches,
    candidates,
    criteria_frame,
    overview_frame,
    scenario_frame,
)

FOLDER = common.ROOT / "results" / "calibration"
DOCUMENT = common.ROOT / "docs" / "calibration.md"


def markdown(frame: pd.DataFrame) -> str:
    """A table of text and numbers."""
    lines = [list(frame.columns), ["---"] * frame.shape[1], *frame.astype(str).to_numpy()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def by_kind(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    kinds = kind_of(rows)
    for kind in dict.fromkeys(kinds):
        yield kind, rows[kinds == kind]


def overviews(rows: pd.DataFrame) -> str:
    return "\n\n".join(
        f"**{kind}**\n\n{markdown(overview_frame(part, approaches(part)))}"
        for kind, part in by_kind(rows)
    )


def described(metrics: pd.DataFrame, scenarios: pd.DataFrame, folder: Path) -> str:
    """What was run, in numbers."""
    files = sorted(folder.glob("benchmarks/*.json"))
    measured = [json.loads(path.read_text()) for path in files]
    tests = metrics[metrics["metric"] == "tests"]
    null = metrics[(metrics["metric"] == "fpr") & (metrics["level"] == 0.05)]
    most = null.groupby("scenario")["n"].max().rename("n").reset_index()
    least = most.merge(scenarios, on="scenario").groupby("distribution")["n"].min()
    smallest = ", ".join(f"{n:,} in {name} scenarios" for name, n in least.items())
    return (
        f"{len(scenarios)} scenarios, {metrics['method'].nunique()} methods, "
        f"{tests['n'].sum():,} tests; at least {smallest} of true nulls per scenario and method "
        f"that tests all genes. The tests took {sum(m['seconds'] for m in measured) / 60:.0f} "
        "minutes of one core."
    )


def verdict(matched: pd.DataFrame, wider: pd.DataFrame, default: str) -> str:
    """What the default and its opponents do, over all scenarios, in sentences."""
    named = {
        "The recommended path": (matched, default),
        "Kenward–Roger, per type": (matched, "per type, kenward-roger-2"),
        "Moderated t test of log counts per million with TMM factors": (
            matched,
            "pseudobulk_tmm, moderated",
        ),
        "One model for all types, `subject; subject:cell_type`, where types have other variances": (
            wider,
            "subject; subject:cell_type: kenward-roger-2",
        ),
        "FLASH-MM's model": (wider, "subject: residual"),
    }
    lines = [
        f"* **{words}** {sentence}"
        for words, (rows, approach) in named.items()
        if (sentence := _in_a_sentence(rows[rows["approach"] == approach]))
    ]
    return "\n".join(lines)


def _in_a_sentence(own: pd.DataFrame) -> str:
    """Rejections at each level from the least to the most, and FDP and TPR on average."""
    if own.empty:
        return ""
    found = own[own["metric"] == "fpr"].groupby("level")["value"].agg(["min", "max"])
    places = {0.05: 3, 0.01: 4, 0.001: 5}
    rejected = ", ".join(
        f"{row['min']:.{places[level]}f} to {row['max']:.{places[level]}f} at {level:g}"
        for level, row in found.sort_index(ascending=False).iterrows()
    )
    fdp, tpr = (own.loc[own["metric"] == name, "value"].mean() for name in ("fdp", "tpr"))
    n = own["scenario"].nunique()
    return (
        f"rejects {rejected} ({n} scenarios); at BH 5 % it finds {100 * tpr:.0f} % of the true "
        f"effects, and {100 * fdp:.0f} % of what it lists is false."
    )


def tables(folder: Path) -> dict[str, str]:
    """The parts of the document by the names of their marks."""
    metrics = read_table(folder / "metrics.parquet")
    given = read_provenance(folder / "metrics.parquet")["params"]
    methods = [CalibrationMethod.of(method) for method in given["methods"]]
    scenarios = scenario_table(given["scenarios"])
    matched = matched_methods(metrics, scenarios, methods)
    wider = wider_methods(metrics, scenarios, methods)
    default = given["config"]["calibration"]["default"]
    draw(matched)
    return {
        "run": described(metrics, scenarios, folder),
        "criteria": markdown(criteria_frame(matched, default)),
        "comparison": markdown(
            comparison(matched, candidates(matched)).rename(columns={"criterion": "Criterion"})
        ),
        "overview": overviews(matched),
        "verdict": verdict(matched, wider, default),
        "others": overviews(wider),
        "scenarios": markdown(scenario_frame(matched, default)),
    }


def draw(matched: pd.DataFrame) -> None:
    """The figures of the document."""
    for kind, part in by_kind(matched):
        name = {"Counts": "counts"}.get(kind, kind.rsplit(" ", 1)[-1])
        save_figure(rejection_plot(part, approaches(part)), FOLDER / "docs" / f"rejection-{name}")
        valid = [n for n in approaches(part) if n not in ANTI_CONSERVATIVE]
        save_figure(gain_plot(part, valid), FOLDER / "docs" / f"power-{name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", action="store_true", help="write docs/calibration.md")
    found = tables(FOLDER)
    if parser.parse_args().docs:
        for name, text in found.items():
            common.write_between(DOCUMENT, name, text)
        text = DOCUMENT.read_text()
        for path in sorted((FOLDER / "docs").glob("*.svg")):
            shown = common.ROOT / "docs" / f"calibration-{path.name}"
            if shown.name in text:
                shown.write_bytes(path.read_bytes())
    for name, text in found.items():
        print(f"\n{name}\n\n{text}")


if __name__ == "__main__":
    main()
