"""Curves of an evaluation: quantiles, histograms, ROC, false discoveries against power."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import special

from flashmm.benchmark.error_rates import null_p_values
from flashmm.benchmark.ranks import average_ranks, roc_curve
from flashmm.benchmark.truth import slices

MAX_CURVE_POINTS = 2000
HISTOGRAM_BINS = 20


def draw_curves(tests: pd.DataFrame, known: bool, typed: bool = False) -> dict[str, pd.DataFrame]:
    """Curves by name; those of power where some tests are of true effects and some are not."""
    makers = {"qq": _qq_curve, "p_histogram": _p_histogram}
    if known and tests["de"].any() and not tests["de"].all():
        makers |= {"roc": _roc_curve, "fdp_tpr": _fdp_tpr_curve}
    made: dict[str, list[pd.DataFrame]] = {name: [] for name in makers}
    for labels, part in slices(tests, None):
        for name, make in makers.items():
            curve = make(part)
            for label in ("contrast", *(["cell_type"] if typed else [])):
                curve.insert(0, label, labels[label])
            made[name].append(curve)
    return {name: pd.concat(parts, ignore_index=True) for name, parts in made.items()}


def _qq_curve(tests: pd.DataFrame) -> pd.DataFrame:
    """Quantiles of null p-values against uniform ones, with the 95 % band of each."""
    score = np.sort(tests.loc[~tests["de"] & tests["p"].notna(), "score"].to_numpy())[::-1]
    n = len(score)
    rank = _geometric_ranks(n)
    # the i-th smallest of n uniforms is Beta(i, n + 1 − i)
    return pd.DataFrame(
        {
            "expected": -np.log10(rank / (n + 1)),
            "observed": score[rank - 1],
            "lower": -np.log10(special.betaincinv(rank, n + 1 - rank, 0.975)),
            "upper": -np.log10(special.betaincinv(rank, n + 1 - rank, 0.025)),
        }
    )


def _p_histogram(tests: pd.DataFrame) -> pd.DataFrame:
    p = null_p_values(tests)
    counts, edges = np.histogram(p, bins=HISTOGRAM_BINS, range=(0, 1))
    density = counts * HISTOGRAM_BINS / max(len(p), 1)
    return pd.DataFrame({"left": edges[:-1], "right": edges[1:], "density": density, "n": counts})


def _roc_curve(tests: pd.DataFrame) -> pd.DataFrame:
    de = tests["de"].to_numpy()
    if de.all() or not de.any():
        return pd.DataFrame({"fpr": [], "tpr": []}, dtype=float)
    fpr, tpr = roc_curve(de, average_ranks(tests["score"].to_numpy()))
    return _thin(pd.DataFrame({"fpr": fpr, "tpr": tpr}))


def _fdp_tpr_curve(tests: pd.DataFrame) -> pd.DataFrame:
    """False discovery proportion and true positive rate as the p-value threshold grows."""
    called = tests[tests["p"].notna()].sort_values("score", ascending=False, kind="stable")
    score, de = called["score"].to_numpy(), called["de"].to_numpy()
    # tied tests are called together
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True)[: len(score)])
    true, found = np.cumsum(de)[last], last + 1.0
    with np.errstate(invalid="ignore"):
        tpr = true / np.float64(tests["de"].sum())
    curve = {"log10_p": -score[last], "fdp": 1 - true / found, "tpr": tpr}
    return _thin(pd.DataFrame(curve, dtype=float))


def _thin(curve: pd.DataFrame) -> pd.DataFrame:
    """Keep at most `MAX_CURVE_POINTS` rows, the first and the last among them."""
    if len(curve) <= MAX_CURVE_POINTS:
        return curve
    return curve.iloc[_geometric_ranks(len(curve)) - 1].reset_index(drop=True)


def _geometric_ranks(n: int) -> np.ndarray:
    """Ranks from 1 to n: every one at the top, ever fewer further down the crowd."""
    if n == 0:
        return np.empty(0, dtype=int)
    return np.unique(np.rint(np.geomspace(1, n, MAX_CURVE_POINTS)).astype(int))
