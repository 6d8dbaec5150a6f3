"""How often equal effects are said to differ between cell types that share their subjects.

Normal values of cells: a subject's effects on its types have a correlation, the condition changes
all types alike. Percent of genes that `fm.heterogeneity` rejects at .05, .01 and .001, from a model
of each type and from one model of all.

python benchmarks/heterogeneity.py                  # print the table
python benchmarks/heterogeneity.py --genes 200      # with fewer genes
python benchmarks/heterogeneity.py --docs           # and write it into docs/inference.md
"""

from __future__ import annotations

import argparse
import warnings
from itertools import product

import anndata
import common
import numpy as np
import pandas as pd

import flashmm as fm

PAGE = common.ROOT / "docs" / "inference.md"
SUBJECTS, CELLS = 8, 10  # of an arm, or pairs; of a subject, type and condition
# Standard deviations between the subjects in five types; those between cells are as large.
TYPES = {"alike": (1.0, 1.0, 1.0, 1.0, 1.0), "one quiet": (0.1, 1.0, 1.0, 1.0, 1.0)}
CORRELATIONS = (0.0, 0.3, 0.7)
LEVELS = (0.05, 0.01, 0.001)
CHANGE = 0.5
JOINT = "~ 0 + cell_type + cell_type:condition"


def simulated(
    paired: bool, scale: tuple[float, ...], correlation: float, n_genes: int, seed: int
) -> anndata.AnnData:
    """Cells whose subjects, or whose responses if paired, are correlated between the types."""
    rng = np.random.default_rng(seed)
    n = SUBJECTS if paired else 2 * SUBJECTS
    arms = ("A", "B")
    rows = [
        (subject, kind, arm)
        for subject, kind, arm in product(range(n), range(len(scale)), arms)
        if paired or arm == arms[subject % 2]
    ]
    subject, kind, arm = (np.array(column) for column in zip(*rows, strict=True))
    treated = (arm == "B").astype(int)

    def effects(unit: np.ndarray) -> np.ndarray:
        """Effects of units on the groups, (groups, genes): shared by the types, and their own."""
        shared, own = rng.normal(size=(2, 2 * n, len(scale), n_genes))
        return np.sqrt(correlation) * shared[unit, 0] + np.sqrt(1 - correlation) * own[unit, kind]

    mean = effects(subject) + (effects(2 * subject + treated) if paired else 0.0)
    mean = np.asarray(scale)[kind, None] * mean + CHANGE * treated[:, None]
    group = np.repeat(np.arange(len(rows)), CELLS)
    noise = rng.normal(size=(len(group), n_genes)) * np.asarray(scale)[kind[group], None]
    obs = pd.DataFrame(
        {
            "subject": [f"S{i}" for i in subject[group]],
            "cell_type": [f"T{i}" for i in kind[group]],
            "condition": arm[group],
        },
        index=[f"c{i}" for i in range(len(group))],
    )
    return anndata.AnnData(mean[group] + noise, obs=obs)


def p_values(cells: anndata.AnnData, paired: bool) -> dict[str, np.ndarray]:
    """Of every gene, by what was fitted and tested."""
    by = ["subject", "cell_type", "condition"]
    groups = fm.summarise(cells, by, transform="none", progress=False)
    response = ["subject:condition"] if paired else []
    fits = fm.fit_within(
        groups,
        "cell_type",
        "~ condition",
        ["subject", *response],
        min_counts=None,
        size_factors=None,
    )
    found = {
        f"a model per type, {ddf}": fm.heterogeneity(fm.contrast_tests(fits, "condition", ddf))
        for ddf in ("empirical-bayes", "kenward-roger")
    }
    for name, random in {
        "`subject:cell_type`": ["subject", "subject:cell_type"]
        + (["subject:condition", "subject:cell_type:condition"] if paired else []),
        "`0 + cell_type \\|\\| subject`": ["subject", "0 + cell_type || subject"]
        + (["subject:condition", "0 + cell_type || subject:condition"] if paired else []),
    }.items():
        fit = fm.fit_lmm(fm.summary_statistics(groups, JOINT, random))
        table = fm.contrast_tests(fit, "condition", "kenward-roger")
        found[f"one model, {name}"] = fm.heterogeneity(table)
    return {name: table.p_value[:, 0] for name, table in found.items()}


def rows(n_genes: int) -> list[tuple[str, ...]]:
    """Rejections by design, types, correlation and test."""
    lines = []
    settings = product((False, True), TYPES, CORRELATIONS)
    for seed, (paired, name, correlation) in enumerate(settings, start=1):
        cells = simulated(paired, TYPES[name], correlation, n_genes, seed)
        design = f"{SUBJECTS} pairs" if paired else f"{SUBJECTS} against {SUBJECTS}"
        shares = []
        for p in p_values(cells, paired).values():
            p = p[np.isfinite(p)]
            shares.append(" / ".join(f"{100 * np.mean(p <= level):.2g}" for level in LEVELS))
        lines.append((design, name, f"{correlation:g}", *shares))
        print(*lines[-1], sep="  ", flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--docs", action="store_true", help="write docs/inference.md")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    tests = (
        "per type, empirical-bayes",
        "per type, kenward-roger",
        "one model, subject:cell_type",
        "one model, own variances",
    )
    head = ("design", "types", "correlation", *tests)
    table = common.markdown_table(head, rows(given.genes))
    if given.docs:
        common.write_between(PAGE, "heterogeneity", table)


if __name__ == "__main__":
    main()
