"""How often sets of genes are called changed between real donors whose labels are random.

Half of the donors say which genes go up and down together: sets of correlated genes are those
nearest to a gene, in each cell type. The others get labels at random, 5 against 5, are tested per
cell type, and the sets by `fm.gene_set_tests`; `limma::cameraPR` has the same scores where R is
there.

python benchmarks/gene_sets.py cells.h5ad             # print the table
python benchmarks/gene_sets.py cells.h5ad --sets 20   # with fewer sets
python benchmarks/gene_sets.py cells.h5ad --docs      # and write it into docs/inference.md
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import anndata
import common
import numpy as np
import pandas as pd

import flashmm as fm

PAGE = common.ROOT / "docs" / "inference.md"
SIZES = (15, 50)
CORRELATIONS = {"0": 0.0, "0.01 (default)": 0.01, "0.05": 0.05, "estimated": "estimated"}
LEVELS = (0.05, 0.01)
TYPE = "cell_type"
CAMERA = """
arguments <- commandArgs(TRUE)
suppressMessages(library(limma))
z <- read.table(arguments[1], header = TRUE, row.names = 1)
sets <- lapply(split(read.table(arguments[2], header = TRUE), ~ gene_set), function(s) s$gene)
index <- lapply(sets, function(s) match(s, rownames(z)))
found <- cameraPR(setNames(z$z, rownames(z)), index, use.ranks = FALSE, inter.gene.cor = 0.01,
                  sort = FALSE)
write.table(data.frame(gene_set = rownames(found), p = format(found$PValue, digits = 15)),
            arguments[3], sep = "\\t", row.names = FALSE, quote = FALSE)
"""
Sets = dict[str, list[str]]


def means(groups: fm.GroupStatistics, kind: str) -> pd.DataFrame:
    """Mean log2(1 + count) of each donor and gene of a cell type, less that of all donors."""
    own = (groups.obs[TYPE] == kind).to_numpy()
    size = groups.moment(0, 0)[own, None]
    values = groups.sum[own] / size
    return pd.DataFrame(values - values.mean(0), columns=groups.genes)


def drawn_sets(kind: str, found: pd.DataFrame, n_sets: int, rng: np.random.Generator) -> Sets:
    """Random sets, and sets of the genes that are nearest to a gene, by name."""
    genes = found.columns[(found.std() > 0).to_numpy()]
    correlation = np.corrcoef(found[genes].to_numpy(), rowvar=False)
    sets: Sets = {}
    for size in SIZES:
        for number in range(n_sets):
            sets[f"{kind}|random|{size}|{number}"] = list(rng.choice(genes, size, replace=False))
            nearest = np.argsort(-correlation[rng.integers(len(genes))])[:size]
            sets[f"{kind}|correlated|{size}|{number}"] = list(genes[nearest])
    return sets


def tested(cells: anndata.AnnData) -> fm.TestTable:
    """Tests of labels in each cell type."""
    groups = fm.summarise(cells, ["subject", TYPE, "arm"], ["log(libsize)"], progress=False)
    fits = fm.fit_within(groups, TYPE, "~ log(libsize) + arm", ["subject"])
    return fm.contrast_tests(fits, ("arm", "B", "A"))


def of_camera(table: fm.TestTable, sets: Sets) -> dict[tuple[str, str], float]:
    """p-values of limma's cameraPR on the same normal scores, by type and set."""
    found = {}
    for level, z in table.scores(missing=None).iterrows():
        known = z.dropna()
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / name for name in ("z.tsv", "sets.tsv", "p.tsv", "camera.R")]
            known.rename("z").to_csv(paths[0], sep="\t")
            members = [(name, gene) for name, chosen in sets.items() for gene in chosen]
            frame = pd.DataFrame(members, columns=["gene_set", "gene"])
            frame[frame["gene"].isin(known.index)].to_csv(paths[1], sep="\t", index=False)
            paths[3].write_text(CAMERA)
            subprocess.run(["Rscript", paths[3], *paths[:3]], check=True)
            p = pd.read_csv(paths[2], sep="\t", index_col=0)["p"]
        found |= {(level, name): value for name, value in p.items()}
    return found


def dealt(cells: anndata.AnnData, n_sets: int, seed: int) -> tuple[fm.TestTable, Sets]:
    """Tests of labels that were given to half of the donors, and sets that the others say."""
    rng = np.random.default_rng(seed)
    donors = rng.permutation(cells.obs["subject"].unique())[: cells.obs["subject"].nunique() // 2]
    labels = {donor: "AB"[place % 2] for place, donor in enumerate(donors)}
    is_asked = cells.obs["subject"].isin(donors).to_numpy()
    asked = cells[is_asked].copy()
    asked.obs["arm"] = asked.obs["subject"].astype(str).map(labels)
    groups = fm.summarise(cells[~is_asked].copy(), ["subject", TYPE], progress=False)
    sets: Sets = {}
    for kind in cells.obs[TYPE].unique():
        sets |= drawn_sets(kind, means(groups, kind), n_sets, rng)
    return tested(asked), sets


def one_deal(cells: anndata.AnnData, n_sets: int, seed: int) -> tuple[pd.DataFrame, float]:
    """p-values of the sets of each type by correlation, and how far camera's are from them."""
    table, sets = dealt(cells, n_sets, seed)
    parts = []
    for name, correlation in CORRELATIONS.items():
        found = fm.gene_set_tests(table, sets, correlation=correlation)
        parts.append(found.assign(name=name, deal=seed))
    found = pd.concat(parts, ignore_index=True)
    distance = np.nan
    if seed == 1 and shutil.which("Rscript"):
        theirs = of_camera(table, sets)
        ours = parts[1].set_index([TYPE, "gene_set"])["p_value"].dropna()
        distance = max(abs(p - theirs[key]) / p for key, p in ours.items())
    words = found["gene_set"].str.split("|", expand=True)
    found = found[words[0] == found[TYPE]].assign(kind=words[1], size=words[2])
    return found[found["status"] == "ok"], distance


def rows(found: pd.DataFrame) -> list[tuple[str, ...]]:
    """Rejections by kind and size of the sets and by correlation, with errors between deals."""
    lines = []
    for (kind, size), own in found.groupby(["kind", "size"], sort=False):
        cells = []
        for name in CORRELATIONS:
            p = own[own["name"] == name]
            texts = []
            for level in LEVELS:
                shares = (p["p_value"] <= level).groupby(p["deal"]).mean()
                error = shares.std() / np.sqrt(len(shares))
                texts.append(f"{shares.mean():.3f} ± {error:.3f}")
            cells.append(" / ".join(texts))
        estimated = own.loc[own["name"] == "estimated", "correlation"].median()
        lines.append((kind, size, f"{estimated:.2f}", *cells))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cells", type=Path, help="an .h5ad with subject and cell_type")
    parser.add_argument("--sets", type=int, default=25, help="of each kind, size and type")
    parser.add_argument("--deals", type=int, default=30, help="labels and halves of the donors")
    parser.add_argument("--docs", action="store_true", help="write docs/inference.md")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    cells = anndata.read_h5ad(given.cells)
    parts, distances = [], []
    for seed in range(1, 1 + given.deals):
        found, distance = one_deal(cells, given.sets, seed)
        parts.append(found)
        distances.append(distance)
    head = ("sets", "genes", "estimated correlation", *CORRELATIONS)
    table = common.markdown_table(head, rows(pd.concat(parts)))
    said = f"Largest relative difference from `limma::cameraPR`: {np.nanmax(distances):.0e}."
    text = f"{table}\n{said}\n" if np.isfinite(distances).any() else table
    print(text)
    if given.docs:
        common.write_between(PAGE, "gene-sets", text)


if __name__ == "__main__":
    main()
