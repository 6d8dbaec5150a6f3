"""The report of a calibration study: what was simulated, how often each test is wrong, criteria."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flashmm import plots
from flashmm.benchmark.calibration import ALPHA, CalibrationMethod, scenario_table
from flashmm.benchmark.criteria import (
    check_criteria,
    comparison,
    kind_of,
    matched_methods,
    overview,
    scenario_results,
    wider_methods,
)
from flashmm.plots.calibration import LOOKS
from flashmm.report import page as blocks
from flashmm.report.provenance import provenance, provenance_blocks, write_provenance

#: how tables name the columns of `overview` and `scenario_results`
COLUMNS = {
    "approach": "Test",
    "scenario": "Scenario",
    "null tests": "Null tests",
    "at .05": "Rejected at .05",
    "from": "Least",
    "to": "Most",
    "at .01": "at .01",
    "at .001": "at .001",
    "lambda": "λ",
    "fdp": "FDP at BH 5 %",
    "tpr": "TPR at BH 5 %",
    "coverage": "Coverage",
    "power": "Power at .05",
    "power gain": "Power gained",
    "at equal rate": "At equal rejection",
}
CANDIDATES = (
    "per type, empirical-bayes",
    "per type, kenward-roger-2",
    "kenward-roger-2",
    "kenward-roger",
    "kenward-roger-floor",
    "between-within",
    "kenward-roger, moderated",
    "satterthwaite",
    "jackknife",
    "residual",
    "pseudobulk",
    "pseudobulk, moderated",
    "pseudobulk_tmm, moderated",
)
ANTI_CONSERVATIVE = ("pooled", "residual")


def write_calibration_report(
    path: str | Path,
    figures: str | Path,
    *,
    metrics: pd.DataFrame,
    scenarios: Mapping[str, Mapping[str, Any]],
    methods: Sequence[CalibrationMethod],
    config: Mapping[str, Any],
) -> None:
    """Write the page of a calibration study, and beside it ``provenance.json``.

    Parameters
    ----------
    path : path
        The HTML page.
    figures : path
        Folder for the figures as SVG and PNG.
    metrics : DataFrame
        Of `average_replicates`.
    scenarios : mapping
        Name to fields of the simulations.
    methods : sequence of CalibrationMethod
        What was run.
    config : mapping
        The whole config, defaults filled in.
    """
    folder = Path(figures)
    folder.mkdir(parents=True, exist_ok=True)
    table = scenario_table(scenarios)
    matched = matched_methods(metrics, table, methods)
    wider = wider_methods(metrics, table, methods)
    default = config["calibration"]["default"]
    said = provenance(config, scenarios=scenarios)
    parts = (
        ("criteria", "Does the default test keep its level?", _criteria(matched, default)),
        ("rejection", "How often true nulls are rejected", _rejection(folder, matched)),
        ("intervals", "How often intervals hold the effect", _coverage(folder, matched)),
        ("power", "How many effects are found", _power(folder, matched)),
        ("model", "With another model than the simulated one", _other_models(folder, wider)),
        ("scenarios", "Every scenario", _every_scenario(matched, default)),
        ("simulated", "What was simulated and tested", _simulated(scenarios, methods)),
        ("provenance", "Provenance", provenance_blocks(said)),
    )
    page = {
        "title": config["report"]["title"],
        "lead": f"Simulations with a known truth, tested in {len(methods)} ways. The default test "
        f"is {default}, with the model that was simulated.",
        "cards": _cards(metrics, table, methods),
        "sections": [{"id": i, "title": t, "blocks": list(found)} for i, t, found in parts],
    }
    blocks.render_page(path, page)
    write_provenance(path, said)


def candidates(matched: pd.DataFrame) -> list[str]:
    """Approaches of a study that could be a default, in the order of the tables."""
    return [name for name in CANDIDATES if (matched["approach"] == name).any()]


def approaches(matched: pd.DataFrame) -> list[str]:
    """All approaches of a study, in the order in which figures name them."""
    there = list(dict.fromkeys(matched["approach"]))
    known = [name for name in LOOKS if name in there]
    return known + [name for name in there if name not in known]


def criteria_frame(matched: pd.DataFrame, approach: str) -> pd.DataFrame:
    """`check_criteria` in the words of a table."""
    found = check_criteria(matched, approach)
    return pd.DataFrame(
        {
            "Criterion": found["criterion"],
            "Evaluated": found["evaluated"],
            "Failed": found["failed"],
            "Nearest to its limit, or furthest beyond": [
                f"{name} at {level:g}" if level == level else name
                for name, level in zip(found["worst"], found["level"], strict=True)
            ],
            "Found": list(map(_count_or_error, found["value"], found["std_error"])),
            "Limit": list(map(_count_or_number, found["limit"])),
            "Result": [
                "not evaluated" if pd.isna(met) else "met" if met else "NOT MET"
                for met in found["met"]
            ],
        }
    )


def _count_or_error(value: float, error: float) -> str:
    if np.isnan(value):
        return "–"
    return blocks.with_error(value, error) if abs(value) < 1e3 else f"{value:,.0f}"


def _count_or_number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.4f}" if abs(value) < 1e3 else f"{value:,.0f}"


def overview_frame(matched: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """`overview` of one kind in the words of a table."""
    found = overview(matched, names)
    digits = dict.fromkeys(found.columns.difference(["kind", "approach"]), 3)
    for column, places in (digits | {"at .01": 4, "at .001": 5, "lambda": 2}).items():
        found[column] = [_fixed(value, places) for value in found[column]]
    return found.drop(columns="kind").rename(columns=COLUMNS)


def scenario_frame(matched: pd.DataFrame, approach: str) -> pd.DataFrame:
    """`scenario_results` in the words of a table, values with their standard errors."""
    found = scenario_results(matched, approach)
    shown = found[["scenario", "null tests"]].copy()
    for column in (c for c in found if f"{c} se" in found):
        shown[column] = [
            "–" if np.isnan(value) else blocks.with_error(value, error)
            for value, error in zip(found[column], found[f"{column} se"], strict=True)
        ]
    return shown.rename(columns=COLUMNS)


def _fixed(value: float, places: int) -> str:
    return "–" if np.isnan(value) else f"{value:.{places}f}"


def _cards(
    metrics: pd.DataFrame, table: pd.DataFrame, methods: Sequence[CalibrationMethod]
) -> list[dict[str, str]]:
    tests = metrics[metrics["metric"] == "tests"]
    values = {
        "scenarios": len(table),
        "tests in all": int(tests["n"].sum()),
        "ways of testing": len(methods),
    }
    return [{"label": label, "value": f"{value:,}"} for label, value in values.items()]


def _criteria(matched: pd.DataFrame, default: str) -> Iterator[dict[str, Any]]:
    yield blocks.text(
        "A test at .05 should call five of a hundred genes without an effect, not more. Every line "
        "below is computed: how many numbers were evaluated, how many are beyond their limit, and "
        "the one that is nearest to it or furthest beyond."
    )
    yield blocks.table(
        criteria_frame(matched, default),
        f"The default, {default}",
        "With the model that was simulated; ± is the standard error of the simulation, the tests "
        "of a gene taken together.",
    )
    yield blocks.table(
        comparison(matched, candidates(matched)).rename(columns={"criterion": "Criterion"}),
        "The same of other tests",
        "met, or how many numbers of how many are beyond their limit.",
    )
    yield from _overviews(matched, "Means over scenarios")


def _overviews(matched: pd.DataFrame, title: str) -> Iterator[dict[str, Any]]:
    for kind, part in _by_kind(matched):
        yield blocks.table(
            overview_frame(part, approaches(part)),
            f"{title}: {kind}",
            "Scenarios of 2 × 3 subjects and more; permutations on fewer genes. Coverage of counts "
            "is that of intervals without an effect. Power is gained over pseudobulk: at .05, and "
            "where both reject 5 % of the true nulls.",
        )


def _by_kind(matched: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    kinds = kind_of(matched)
    for kind in dict.fromkeys(kinds):
        yield kind, matched[kinds == kind]


def _rejection(folder: Path, matched: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for kind, part in _by_kind(matched):
        yield blocks.figure(
            folder,
            plots.rejection_plot(part, approaches(part)),
            f"rejection-{blocks.slug(kind)}",
            f"{kind}: rejection of true nulls",
            "Share of tests without an effect with a p-value below the level, over the level, with "
            "95 % intervals; every mark is one scenario. Open marks lie beyond the axis.",
            "Good: at the dashed line; above it a test is anti-conservative, below conservative.",
        )


def _coverage(folder: Path, matched: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for kind, part in _by_kind(matched[matched["metric"] == "coverage"]):
        yield blocks.figure(
            folder,
            plots.coverage_plot(part, approaches(part)),
            f"coverage-{blocks.slug(kind)}",
            f"{kind}: coverage of 95 % intervals",
            "Share of intervals that hold the true effect, with its 95 % interval.",
            "Good: in the grey band; above it intervals are wider than need be.",
        )


def _power(folder: Path, matched: pd.DataFrame) -> Iterator[dict[str, Any]]:
    gains = matched[matched["metric"].isin(("power_gain", "power_at_fpr_gain"))]
    for kind, part in _by_kind(gains):
        yield blocks.figure(
            folder,
            plots.gain_plot(part, [n for n in approaches(part) if n not in ANTI_CONSERVATIVE]),
            f"power-{blocks.slug(kind)}",
            f"{kind}: power gained over pseudobulk",
            "Share of true effects found, less the share that the t test of subjects' means finds "
            f"in the same tests, at {ALPHA:g}; below at thresholds with which both reject 5 % of "
            "the true nulls.",
            "Good: above the dashed line.",
        )


def _other_models(folder: Path, wider: pd.DataFrame) -> Iterator[dict[str, Any]]:
    if wider.empty:
        return
    yield blocks.text(
        "Two things can be wrong: a random term too many (subject and cell type, where subjects "
        "deviate alike in all types), which costs little, and one too few (subject alone, where "
        "they do not), which no degrees of freedom repair."
    )
    yield from _overviews(wider, "Another model")


def _every_scenario(matched: pd.DataFrame, default: str) -> Iterator[dict[str, Any]]:
    for name in dict.fromkeys((default, "kenward-roger", "pseudobulk")):
        if not (matched["approach"] == name).any():
            continue
        yield blocks.table(
            scenario_frame(matched, name),
            f"Every scenario, {name}",
            "Value ± standard error of the simulation. metrics.tsv has all methods.",
        )


def _simulated(
    scenarios: Mapping[str, Mapping[str, Any]], methods: Sequence[CalibrationMethod]
) -> Iterator[dict[str, Any]]:
    yield blocks.table(
        pd.DataFrame(scenarios).T.rename_axis("Scenario").reset_index(),
        "Scenarios",
        "Fields of the simulation that were set. Unequal numbers of cells are the quantiles of a "
        "log-normal distribution with the coefficient of variation cells_cv, assigned at random.",
    )
    yield blocks.table(
        pd.DataFrame(
            {
                "Method": [m.name for m in methods],
                "Test": [m.approach for m in methods],
                "Random terms": [", ".join(m.random) or "–" for m in methods],
                "Genes": ["all" if m.genes is None else str(m.genes) for m in methods],
            }
        ),
        "Methods",
        "How each data set was tested.",
    )
