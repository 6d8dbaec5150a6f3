"""Tables and sentences of the study on real donors, from the metrics that it leaves.

python benchmarks/donors.py                        # print them
python benchmarks/donors.py --docs                 # and write them into README and docs
python benchmarks/donors.py --results DIR --docs   # of another folder than results/donors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import common
import numpy as np
import pandas as pd

from flashmm.io.tables import read_provenance, read_table
from flashmm.plots import save_figure
from flashmm.plots.donors import donor_plot
from flashmm.report.donors import verdict_frame

DOCS = common.ROOT / "docs"
RECOMMENDED, JOINT, FLASHMM = "within_eb", "joint_nested", "flashmm"
OTHERS = ("edgeR_QL", "limma_voom", "voom_qw", "DESeq2")


def markdown(frame: pd.DataFrame) -> str:
    """A table of text."""
    lines = [list(frame.columns), ["---"] * frame.shape[1], *frame.astype(str).to_numpy()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class Numbers:
    """Values of the study by method, kind, metric and level."""

    def __init__(self, metrics: pd.DataFrame, per_side: int) -> None:
        """Keep those of all cell types and quarters."""
        whole = (metrics["cell_type"] == "all") & (metrics["quarter"] == "all")
        own = metrics[whole & (metrics["per_side"] == per_side)]
        keys = ["method", "kind", "metric", "level"]
        self.rows = own.assign(level=own["level"].round(6)).set_index(keys)[["value", "std_error"]]

    def of(self, method: str, kind: str, metric: str, level: float = 0.05) -> tuple[float, float]:
        """Value and standard error between sets."""
        value, error = self.rows.loc[(method, kind, metric, level)]
        return float(value), float(error)

    def rejected(self, method: str) -> str:
        """Rejections of true nulls at each level."""
        found = [self.of(method, "permuted", "fpr", level)[0] for level in (0.05, 0.01, 0.001)]
        return "{:.3f}, {:.4f} and {:.5f}".format(*found)

    def found(self, method: str) -> str:
        """True effects found, and the share of false discoveries, with their errors."""
        tpr, fdp = (self.of(method, "thinned", metric) for metric in ("tpr", "fdp"))
        return f"{tpr[0]:.0%} (FDP {fdp[0]:.1%} ± {fdp[1]:.1%})".replace("%", " %")


def run_in_words(metrics: pd.DataFrame, given: dict) -> str:
    """What was run."""
    spec = given["config"]["donors"]
    sets = metrics.groupby(["per_side", "kind"])["sets"].max()
    parts = [f"{n} {kind} of {size} against {size}" for (size, kind), n in sets.items()]
    return (
        f"Sets of donors: {', '.join(parts)}; {metrics['method'].nunique()} methods; genes with at "
        f"least {spec['min_counts']:g} counts in the cell type are judged. "
        "± is the standard error between sets."
    )


def first_words(metrics: pd.DataFrame) -> str:
    """The verdict in sentences."""
    lines = []
    for n in metrics["per_side"].unique():
        numbers = Numbers(metrics, n)
        lines.append(
            f"* **{n} against {n} donors, nothing differs.** At .05, .01 and .001 the recommended "
            f"test rejects {numbers.rejected(RECOMMENDED)}; one model for all types "
            f"(`subject; subject:cell_type`) {numbers.rejected(JOINT)}, FLASH-MM's "
            f"{numbers.rejected(FLASHMM)}."
        )
        there = [m for m in OTHERS if m in set(metrics["method"])]
        others = ", ".join(f"{m.replace('_', '-')} {numbers.found(m)}" for m in there)
        lines.append(
            f"* **{n} against {n}, true changes put in.** At BH 5 % it finds "
            f"{numbers.found(RECOMMENDED)} of them; {others + '; ' if others else ''}one model for "
            f"all types {numbers.found(JOINT)}, FLASH-MM's {numbers.found(FLASHMM)}."
        )
    return "\n".join(lines)


def in_one_sentence(metrics: pd.DataFrame) -> str:
    """The verdict for pages that speak of other things."""
    numbers = {n: Numbers(metrics, n) for n in metrics["per_side"].unique()}
    level = {
        n: {m: one.of(m, "permuted", "fpr", 0.01)[0] for m in (RECOMMENDED, JOINT, FLASHMM)}
        for n, one in numbers.items()
    }
    fdp = {
        n: {m: one.of(m, "thinned", "fdp")[0] for m in (RECOMMENDED, JOINT, FLASHMM)}
        for n, one in numbers.items()
    }

    def both(values: dict, method: str, places: int) -> str:
        return " and ".join(f"{100 * one[method]:.{places}f}" for one in values.values())

    sizes = " and ".join(f"{n} against {n}" for n in numbers)
    return (
        f"With permuted labels of real donors ({sizes}) it rejects {both(level, RECOMMENDED, 1)} % "
        f"of the true nulls at .01, one model for all cell types (`subject; subject:cell_type`) "
        f"{both(level, JOINT, 1)} %, FLASH-MM's {both(level, FLASHMM, 0)} %; where true changes "
        f"were put in, lists at a false discovery rate of 5 % hold {both(fdp, RECOMMENDED, 0)} %, "
        f"{both(fdp, JOINT, 0)} % and {both(fdp, FLASHMM, 0)} % of false ones."
    )


def slices(metrics: pd.DataFrame, per_side: int) -> str:
    """Rejections at .01 by quarter of expression and by cell type."""
    own = metrics[(metrics["per_side"] == per_side) & (metrics["kind"] == "permuted")]
    own = own[(own["metric"] == "fpr") & np.isclose(own["level"], 0.01)]
    quarter = own[own["quarter"] != "all"].assign(where="Quarter " + own["quarter"].astype(str))
    kind = own[own["cell_type"] != "all"].assign(where=own["cell_type"].astype(str))
    both = pd.concat([quarter, kind])
    wide = both.pivot(index="method", columns="where", values="value").map("{:.4f}".format)
    wide = wide.loc[own["method"].unique(), both["where"].unique()]
    return markdown(wide.rename_axis(index="Method", columns=None).reset_index())


def texts(folder: Path) -> dict[str, str]:
    """The parts of docs/donors.md by the names of their marks."""
    metrics = read_table(folder / "metrics.parquet")
    given = read_provenance(folder / "metrics.parquet")["params"]
    parts = {"run": run_in_words(metrics, given), "verdict": first_words(metrics)}
    for n in metrics["per_side"].unique():
        parts[f"methods-{n}"] = markdown(verdict_frame(metrics, n))
        parts[f"slices-{n}"] = slices(metrics, n)
    return parts | {"sentence": in_one_sentence(metrics)}


def write(found: dict[str, str], metrics: pd.DataFrame) -> None:
    """Write the documents and their pictures."""
    for name, text in found.items():
        if name != "sentence":
            common.write_between(DOCS / "donors.md", name, text)
    for path in (common.ROOT / "README.md", DOCS / "methods.md"):
        common.write_between(path, "donors", found["sentence"])
    for n in metrics["per_side"].unique():
        _, png = save_figure(donor_plot(metrics[metrics["per_side"] == n]), DOCS / f"donors-{n}")
        png.unlink()


def main() -> None:
    """Print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=common.ROOT / "results" / "donors")
    parser.add_argument("--docs", action="store_true", help="write README and docs")
    given = parser.parse_args()
    found = texts(given.results)
    if given.docs:
        write(found, read_table(given.results / "metrics.parquet"))
    for name, text in found.items():
        print(f"\n{name}\n\n{text}")


if __name__ == "__main__":
    main()
