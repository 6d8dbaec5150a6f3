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
    MOST_SE,
    comparison,
    kind_of,
    matched_methods,
    scenario_results,
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
from flashmm.report.page import with_error

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
    least = null[~null["method"].str.contains("permutation")]
    least = least.merge(scenarios, on="scenario").groupby("distribution")["n"].min()
    smallest = ", ".join(f"{n:,} in {name} scenarios" for name, n in least.items())
    return (
        f"{len(scenarios)} scenarios, {metrics['method'].nunique()} methods, "
        f"{tests['n'].sum():,} tests; at least {smallest} of true nulls per scenario and method "
        f"other than permutation. The tests took {sum(m['seconds'] for m in measured) / 60:.0f} "
        "minutes of one core."
    )


def less_power(matched: pd.DataFrame, default: str) -> str:
    """Scenarios in which pseudobulk finds more, by more than three standard errors."""
    names = [default, "kenward-roger-floor", "kenward-roger, moderated"]
    found = [scenario_results(matched, name).set_index("scenario") for name in names]
    lost = found[0]["power gain"] < -MOST_SE * found[0]["power gain se"]
    rows = {"Scenario": found[0].index[lost]}
    for name, own in zip(names, found, strict=True):
        gain, error = (own.loc[lost, column] for column in ("power gain", "power gain se"))
        rows[name] = list(map(with_error, gain, error))
    return markdown(pd.DataFrame(rows))


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
    few = wider[wider["own_types"]]
    many = wider[~wider["own_types"]]
    return {
        "run": described(metrics, scenarios, folder),
        "criteria": markdown(criteria_frame(matched, default)),
        "comparison": markdown(
            comparison(matched, candidates(matched)).rename(columns={"criterion": "Criterion"})
        ),
        "overview": overviews(matched),
        "less-power": less_power(matched, default),
        "too-few": overviews(few),
        "too-many": overviews(many),
        "scenarios": markdown(scenario_frame(matched, default)),
        "first-order": markdown(scenario_frame(matched, "kenward-roger")),
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
