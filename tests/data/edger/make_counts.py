"""Write counts of simulated samples: `<case>.tsv`, genes in rows; see README.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent


def negative_binomial(rng, mean, dispersion):
    return rng.poisson(mean * rng.gamma(1 / dispersion, dispersion, np.shape(mean)))


def changed(rng, samples, genes, depth, share=0.15):
    """Log-normal genes; a share of them is three times up in the second half of the samples."""
    gene = rng.lognormal(0, 1.5, genes)
    mean = np.outer(depth, gene / gene.sum())
    mean[samples // 2 :, rng.random(genes) < share] *= 3
    return mean


def cases():
    rng = np.random.default_rng(20261103)
    depth = rng.lognormal(10, 0.5, 12)
    yield "composition", negative_binomial(rng, changed(rng, 12, 400, depth), 0.2)
    depth = np.r_[300.0, rng.lognormal(9, 0.4, 7)]
    yield "small_library", negative_binomial(rng, changed(rng, 8, 300, depth), 0.3)
    # more than half of the upper quartiles are zero
    depth = np.r_[np.full(6, 60.0), 900.0, 80.0]
    yield "sparse", negative_binomial(rng, changed(rng, 8, 250, depth), 0.5)
    yield "ties", rng.poisson(3.0, (9, 120)) * rng.choice([1, 2, 4], (9, 1))
    yield "few_genes", rng.poisson([30.0, 5.0, 80.0, 12.0, 1.0], (5, 5))
    one_each = np.diag([7, 5, 9, 3])
    yield "nothing_in_common", np.c_[one_each, [[4, 0], [0, 0], [2, 0], [1, 0]]]
    yield "equal_samples", np.tile(rng.poisson(6.0, 40), (4, 1)) * np.array([[1], [2], [1], [5]])
    yield "two_samples", negative_binomial(rng, changed(rng, 2, 80, np.full(2, 5e3)), 0.1)


if __name__ == "__main__":
    for name, counts in cases():
        samples, genes = counts.shape
        table = pd.DataFrame(
            counts.T,
            index=[f"g{i + 1}" for i in range(genes)],
            columns=[f"s{i + 1}" for i in range(samples)],
        )
        table.to_csv(HERE / f"{name}.tsv", sep="\t", index_label="gene")
