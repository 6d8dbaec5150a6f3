"""How often tests are right and wrong: false positives, false discoveries, ranks, coverage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from flashmm.benchmark.metrics import clustered_error, clustered_sum_error, mean, metric_row
from flashmm.benchmark.power import power_metrics
from flashmm.benchmark.ranks import area_under_roc, average_ranks, partial_area
from flashmm.benchmark.truth import tested_pairs, true_pairs

PARTIAL_AUC_FPR = 0.05


def slice_metrics(
    tests: pd.DataFrame, known: bool, levels: Sequence[float], fdr: Sequence[float]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of all metrics of some tests."""
    yield from _count_metrics(tests)
    yield _lambda_gc(null_p_values(tests))
    for level in fdr:
        yield from _discovery_metrics(tests, known, level)
    if known:
        yield metric_row("de_tests", tests["de"].sum(), n=len(tests))
        yield from _false_positive_rates(tests, levels)
        yield from _coverage_metrics(tests)
        yield from power_metrics(tests, levels)
        yield from _auc_metrics(tests)


def _count_metrics(tests: pd.DataFrame) -> Iterator[dict[str, Any]]:
    missing = tests["p"].isna()
    yield metric_row("tests", len(tests), n=len(tests))
    yield metric_row("missing", missing.sum(), n=len(tests))
    for status, count in tests.loc[missing, "status"].value_counts().sort_index().items():
        yield metric_row(f"missing_{status}", count, n=len(tests))


def null_p_values(tests: pd.DataFrame) -> np.ndarray:
    """P-values of null tests that have one (of all tests where the truth is not known)."""
    return tests["p"].to_numpy()[_is_null(tests)]


def _is_null(tests: pd.DataFrame) -> np.ndarray:
    return ~tests["de"].to_numpy() & tests["p"].notna().to_numpy()


def _lambda_gc(p: np.ndarray) -> dict[str, Any]:
    """Genomic inflation λ = F⁻¹(1 − median p) / F⁻¹(½), F of chi-squared(1), from p-values."""
    if not p.size:
        return metric_row("lambda_gc", np.nan, n=0)
    half = special.chdtri(1, 0.5)
    density = np.exp(-half / 2) / np.sqrt(2 * np.pi * half)
    # se(median of n uniforms) = 1 / (2 √n), carried through p ↦ F⁻¹(1 − p) at p = ½
    se = 0.5 / np.sqrt(p.size) / (density * half)
    value = special.chdtri(1, np.median(p)) / half
    return metric_row("lambda_gc", float(value), se=float(se), n=p.size)


def _false_positive_rates(tests: pd.DataFrame, levels: Sequence[float]) -> Iterator[dict[str, Any]]:
    null = _is_null(tests)
    p, gene = tests["p"].to_numpy()[null], tests["gene"].to_numpy()[null]
    for level in levels:
        rejected = p <= level
        se = clustered_error(rejected, gene)
        yield metric_row("fpr", mean(rejected), level=level, se=se, n=len(p))


def _coverage_metrics(tests: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Coverage of the null effect, and of all effects where they are known in this unit."""
    some = tests["conf_low"].notna() & tests["conf_high"].notna()
    for name, chosen in (("coverage", some), ("coverage_null", some & ~tests["de"])):
        if chosen.any() and (name == "coverage_null" or "effect" in tests):
            part = tests[chosen]
            effect = part.get("effect", 0.0)
            held = ((part["conf_low"] <= effect) & (effect <= part["conf_high"])).to_numpy()
            se = clustered_error(held, part["gene"].to_numpy())
            yield metric_row(name, mean(held), se=se, n=len(part))


def _discovery_metrics(tests: pd.DataFrame, known: bool, level: float) -> Iterator[dict[str, Any]]:
    gene, de = tests["gene"].to_numpy(), tests["de"].to_numpy()
    for kind, suffix in (("local", ""), ("global", "_global")):
        found = (tests[kind] <= level).to_numpy()
        yield metric_row(f"discoveries{suffix}", found.sum(), level=level, n=len(tests))
        if not known:
            continue
        # FDP = V / max(R, 1): without a discovery nothing is false
        fdp = mean(~de[found]) if found.any() else 0.0
        se = clustered_error(~de[found], gene[found])
        yield metric_row(f"fdp{suffix}", fdp, level=level, se=se, n=found.sum())
        se = clustered_error(found[de], gene[de])
        yield metric_row(f"tpr{suffix}", mean(found[de]), level=level, se=se, n=de.sum())


def _auc_metrics(tests: pd.DataFrame) -> Iterator[dict[str, Any]]:
    de, score = tests["de"].to_numpy(), tests["score"].to_numpy()
    if de.all() or not de.any():
        yield metric_row("auc", np.nan, n=len(de))
        yield metric_row("pauc", np.nan, level=PARTIAL_AUC_FPR, n=len(de))
        return
    se = _auc_error(de, score, tests["gene"].to_numpy())
    rank = average_ranks(score)
    yield metric_row("auc", area_under_roc(de, rank), se=se, n=len(de))
    partial = partial_area(de, rank, PARTIAL_AUC_FPR)
    yield metric_row("pauc", partial, level=PARTIAL_AUC_FPR, n=len(de))


def _auc_error(de: np.ndarray, score: np.ndarray, gene: np.ndarray) -> float:
    """Standard error of the AUC from DeLong's placements, summed over the tests of a gene."""
    rank = average_ranks(score)
    n_de, n_null = de.sum(), (~de).sum()
    # placement of a test: the share of the other class that it is ranked above
    above = np.empty(len(de))
    above[de] = (rank[de] - average_ranks(score[de])) / n_null
    above[~de] = 1 - (rank[~de] - average_ranks(score[~de])) / n_de
    influence = (above - above[de].mean()) / np.where(de, n_de, n_null)
    return clustered_sum_error(influence, gene)


def untested_pairs(tests: pd.DataFrame, truth: pd.DataFrame) -> dict[str, Any]:
    """Count the true pairs that no row of the table tests."""
    untested = ~true_pairs(truth).isin(tested_pairs(tests)) if len(truth) else np.zeros(0)
    return metric_row("de_untested", untested.sum(), n=len(truth))
