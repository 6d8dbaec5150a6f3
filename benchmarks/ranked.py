"""Tables of a finished benchmark, as its report has them: methods ranked, and by scenario.

python benchmarks/ranked.py                        # print those of results/
python benchmarks/ranked.py --results DIR --docs   # and write them into docs/benchmark.md
"""

from __future__ import annotations

import argparse
from pathlib import Path

import common
import pandas as pd

from flashmm.benchmark.ranking import Ranked, Rate, by_scenario, over_scenarios, ranking
from flashmm.io.tables import read_provenance, read_table

PAGE = common.ROOT / "docs" / "benchmark.md"


def percent(rate: Rate, places: int = 0) -> str:
    """A rate and its Monte Carlo standard error, in per cent."""
    if not rate.known:
        return "–"
    return f"{100 * rate.value:.{places}f} ± {100 * rate.error:.{places}f}"


def ranked_row(one: Ranked, seconds: pd.Series) -> tuple[str, ...]:
    """Rates of a method over all scenarios, and its seconds per data set."""
    levels = [f"{rate.value:.3g}" for rate in one.levels.values()]
    took = f"{seconds[one.method]:.2g}" if one.method in seconds else "–"
    found = (percent(rate) for rate in (one.fdp, one.tpr, one.power))
    return one.method, *levels, *found, "yes" if one.keeps else "NO", took


def ranked_table(metrics: pd.DataFrame, costs: pd.DataFrame) -> str:
    """Methods, best first."""
    methods = ranking(over_scenarios(by_scenario(metrics)))
    steps = costs[costs["step"] != "reference"]
    seconds = steps.groupby(["method", "dataset"])["seconds"].sum().groupby("method").mean()
    first = methods[0]
    heads = [
        "method",
        *(f"nulls at {level:g}" for level in first.levels),
        f"FDP at BH {first.fdp.level:.0%} (%)",
        "TPR (%)",
        f"power where {first.power.level:.0%} of nulls are rejected (%)",
        "keeps level and FDP",
        "seconds per data set",
    ]
    return common.markdown_table(heads, [ranked_row(one, seconds) for one in methods])


def scenario_table(metrics: pd.DataFrame) -> str:
    """True effects found, and false ones, in each scenario that has effects."""
    averaged = by_scenario(metrics)
    with_effects = averaged.loc[averaged["metric"] == "tpr", "scenario"].unique()
    found = {
        name: {one.method: one for one in ranking(averaged[averaged["scenario"] == name])}
        for name in with_effects
    }
    methods = list(dict.fromkeys(averaged["method"]))
    rows = [
        (
            method,
            *(f"{percent(of[method].tpr)} ({percent(of[method].fdp)})" for of in found.values()),
        )
        for method in methods
        if all(method in of for of in found.values())
    ]
    return common.markdown_table(["method", *(f"{name}: TPR (FDP), %" for name in found)], rows)


def tpr_and_fdp(one: Ranked) -> str:
    """Both at BH."""
    return f"{percent(one.tpr)} ({percent(one.fdp)})"


def run_in_words(folder: Path) -> str:
    """What was run, and what was not."""
    metrics = read_table(folder / "metrics.parquet")
    status = read_table(folder / "status.parquet")
    sets = metrics.drop_duplicates("dataset").groupby("scenario", sort=False).size()
    text = "Data sets: " + ", ".join(f"{n} of {name}" for name, n in sets.items()) + "."
    failed = status[status["status"] != "ok"].drop_duplicates("method")
    said = [f"{row.method} ({row.status}: {row.message})" for row in failed.itertuples()]
    version = read_provenance(folder / "metrics.parquet")["flashmm"]
    return f"{text} flashmm {version}." + (f" Not run: {'; '.join(said)}." if said else "")


def main() -> None:
    """Print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=common.ROOT / "results")
    parser.add_argument("--docs", action="store_true", help="write docs/benchmark.md")
    given = parser.parse_args()
    folder = given.results / "evaluation"
    metrics, costs = (read_table(folder / f"{name}.parquet") for name in ("metrics", "costs"))
    texts = {
        "run": run_in_words(folder),
        "ranked": ranked_table(metrics, costs),
        "scenarios": scenario_table(metrics),
    }
    for name, text in texts.items():
        if given.docs:
            common.write_between(PAGE, name, text)
        print(f"\n{text}")


if __name__ == "__main__":
    main()
