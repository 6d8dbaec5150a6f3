"""Tables of a finished benchmark, as its report has them: methods ranked, and by scenario.

python benchmarks/ranked.py                        # print those of results/
python benchmarks/ranked.py --results DIR --docs   # and write them into docs/benchmark.md
python benchmarks/ranked.py --results DIR --paper --docs   # the table of config/paper.yaml there
"""

from __future__ import annotations

import argparse
import math
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
    error = "" if math.isnan(rate.error) else f" ± {100 * rate.error:.{places}f}"
    return f"{100 * rate.value:.{places}f}{error}"


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


def costs_of_methods(costs: pd.DataFrame) -> pd.DataFrame:
    """Processor seconds of all genes, the shared step included, genes and memory of each method."""
    nobody = costs["method"].isna() | (costs["method"] == "")
    users = costs.loc[costs["step"] == "fit", ["dataset", "method"]].drop_duplicates()
    shared = costs[nobody].drop(columns="method").merge(users, on="dataset")
    steps = pd.concat([costs[~nobody], shared])
    reference = steps["step"] == "reference"
    steps["method"] = steps["method"].mask(reference, "MixedLM (" + steps["method"] + ")")
    # what was given some genes only would take so many times longer for all
    every = steps.groupby("dataset")["genes_total"].transform("max")
    share = (every / steps["genes"]).clip(lower=1.0).fillna(1.0)
    steps = steps.assign(
        seconds=steps["cpu_seconds"] * share,
        mib=steps["peak_memory_mib"] - steps["baseline_memory_mib"].fillna(0.0),
    )
    return steps.groupby(["dataset", "method"], sort=False).agg(
        seconds=("seconds", "sum"), genes=("genes", "min"), mib=("mib", "max")
    )


def paper_table(metrics: pd.DataFrame, costs: pd.DataFrame) -> str:
    """Time, memory and errors of each method on each data set."""
    taken = costs_of_methods(costs)
    averaged = by_scenario(metrics)
    scenarios = dict(zip(metrics["dataset"], metrics["scenario"], strict=True))
    rows = []
    for (dataset, method), cost in taken.iterrows():
        own = averaged[
            averaged["scenario"].eq(scenarios.get(dataset)) & averaged["method"].eq(method)
        ]
        found = {one.method: one for one in ranking(own)} if len(own) else {}
        rates = ("–",) * 4
        if method in found:
            one = found[method]
            levels = (f"{rate.value:.2g}" for rate in list(one.levels.values())[:2])
            rates = (*levels, percent(one.fdp), percent(one.tpr))
        rows.append(
            (
                dataset,
                method,
                f"{cost.genes:,.0f}",
                f"{cost.seconds:,.3g}",
                f"{cost.mib:,.0f}",
                *rates,
            )
        )
    heads = ["data set", "method", "genes", "CPU s of all genes", "memory (MiB)"]
    heads += ["nulls at .05", "nulls at .01", "FDP at BH 5% (%)", "TPR (%)"]
    return common.markdown_table(heads, rows)


def same_model(results: Path, ours: str = "lmm", theirs: str = "FLASHMM") -> str:
    """The largest differences between two programs that fit one model."""
    lines = []
    for path in sorted(results.glob(f"tests/*/{theirs}.parquet")):
        tables = read_table(path), read_table(path.with_name(f"{ours}.parquet"))
        # one names cell types in a column, the other in the contrast: cell_type[B]:condition[T.b]
        own = tables[1]["contrast"].astype(str).str.extract(r"^cell_type\[(?P<cell_type>.*)\]:")
        keyed = [
            table.assign(cell_type=types.astype(str), gene=table["gene"].astype(str))
            for table, types in zip(tables, (tables[0]["cell_type"], own["cell_type"]), strict=True)
        ]
        both = (
            keyed[0]
            .merge(keyed[1], on=["gene", "cell_type"])
            .dropna(subset=["p_value_x", "p_value_y"])
        )
        estimate, p = (
            (both[f"{name}_x"] - both[f"{name}_y"]).abs().max() for name in ("estimate", "p_value")
        )
        lines.append(
            f"{path.parent.name}: `{ours}` and {theirs} differ by {estimate:.0e} at most in "
            f"{len(both):,} estimates, and by {p:.0e} in their p-values."
        )
    return " ".join(lines)


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
    parser.add_argument(
        "--paper", action="store_true", help="methods by data set, with their costs"
    )
    parser.add_argument("--docs", action="store_true", help="write docs/benchmark.md")
    given = parser.parse_args()
    folder = given.results / "evaluation"
    metrics, costs = (read_table(folder / f"{name}.parquet") for name in ("metrics", "costs"))
    paper = {
        "paper-run": lambda folder: f"{run_in_words(folder)} {same_model(folder.parent)}",
        "paper": lambda _: paper_table(metrics, costs),
    }
    texts = (
        {name: make(folder) for name, make in paper.items()}
        if given.paper
        else {
            "run": run_in_words(folder),
            "ranked": ranked_table(metrics, costs),
            "scenarios": scenario_table(metrics),
        }
    )
    for name, text in texts.items():
        if given.docs:
            common.write_between(PAGE, name, text)
        print(f"\n{text}")


if __name__ == "__main__":
    main()
