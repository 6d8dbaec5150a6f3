"""How tests of real donors are judged: rejections of true nulls, false discoveries, power.

`run_set` runs methods on one set and gives the p-values of every pair of gene and cell type that
is judged; `judge` takes those of all sets together.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from flashmm.benchmark.data import DataSet, Request
from flashmm.benchmark.donors import DonorSet
from flashmm.benchmark.methods import Method
from flashmm.benchmark.metrics import mean
from flashmm.benchmark.power import powers
from flashmm.benchmark.truth import ALL, contrast_cell_types, require_columns
from flashmm.cells.groups import GroupStatistics
from flashmm.cells.summary import summarise
from flashmm.inference.adjustment import adjust_p_values
from flashmm.options import FlashmmError, FlashmmWarning, InputError
from flashmm.storage.files import PathLike

LEVELS = (0.05, 0.01, 0.001)
FDR, EQUAL_LEVEL = 0.05, 0.01
QUARTERS = 4
COLUMNS = ("per_side", "kind", "replicate", "method", "gene", "cell_type", "quarter", "de", "p")


def run_set(
    made: DonorSet,
    methods: Sequence[Method],
    *,
    min_counts: float = 20,
    peers: PathLike | None = None,
    seed: int = 0,
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Test a set with every method.

    Parameters
    ----------
    made : DonorSet
        The set; its cells are summarised once.
    methods : sequence of Method
        Formulas name `subject`, `cell_type`, `condition` and `log(libsize)`.
    min_counts : float
        Pairs of gene and cell type with fewer counts in the set are not judged.
    peers : path, optional
        The folder of the scripts that run packages of R.
    seed : int
        Of methods that draw numbers.

    Returns
    -------
    tests : DataFrame
        `per_side, kind, replicate, method, gene, cell_type, quarter` (of the set's pairs by their
        counts, 1 the rarest), `de`, and `p`, which is 1 where the method has none.
    notes : tuple of str
        Methods that could not be run, and why.
    """
    groups = summarise(
        made.cells, ["subject", "cell_type", "condition"], ["log(libsize)"], progress=False
    )
    pairs = judged_pairs(groups, made.truth, min_counts)
    data = DataSet(groups, cells=made.cells, truth=made.truth, peers=peers)
    joint = "~ 0 + log(libsize) + cell_type + cell_type:condition"
    parts, notes = [], []
    with warnings.catch_warnings():
        # what the models leave out is the question here
        warnings.simplefilter("ignore", FlashmmWarning)
        for method in methods:
            try:
                found = method.run(data, Request(joint, seed=seed)).tests
            except FlashmmError as error:
                notes.append(f"{method.name} is left out: {error}")
                continue
            parts.append(_p_values(found, pairs).assign(method=method.name))
    if not parts:
        raise InputError(f"No method could be run. {' '.join(notes)}")
    tests = pd.concat(parts, ignore_index=True).assign(**made.name._asdict())
    return tests[list(COLUMNS)], tuple(notes)


def judged_pairs(
    groups: GroupStatistics, truth: pd.DataFrame, min_counts: float = 20
) -> pd.DataFrame:
    """Pairs of gene and cell type with enough counts: `gene, cell_type, quarter, de`."""
    if groups.counts is None:
        raise InputError("Pairs are judged by their counts, and these groups hold none.")
    types = groups.obs["cell_type"].astype(str).to_numpy()
    names = np.unique(types)
    total = np.array([groups.counts[types == name].sum(0) for name in names])
    kind, gene = np.nonzero(total >= max(min_counts, 1))
    if not len(gene):
        raise InputError(f"No gene has {min_counts:g} counts in a cell type.")
    rank = np.empty(len(gene), dtype=int)
    rank[np.argsort(total[kind, gene], kind="stable")] = np.arange(len(gene))
    pairs = pd.DataFrame(
        {
            "gene": np.asarray(groups.genes, dtype=object)[gene],
            "cell_type": names[kind].astype(object),
            "quarter": rank * QUARTERS // len(rank) + 1,
        }
    )
    keys = ["gene", "cell_type"]
    true = pd.MultiIndex.from_frame(truth[keys].astype(str))
    return pairs.assign(de=pd.MultiIndex.from_frame(pairs[keys]).isin(true))


def _p_values(found: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs with their p-values; a pair that has none is not rejected."""
    known = pairs["cell_type"].unique()
    types = contrast_cell_types(found["contrast"].unique(), known)
    keyed = pd.DataFrame(
        {
            "gene": found["gene"].astype(str),
            "cell_type": found["contrast"].map(types),
            "p": found["p_value"].astype(float),
        }
    )
    merged = pairs.merge(keyed, "left", ["gene", "cell_type"], validate="one_to_one")
    return merged.assign(p=merged["p"].fillna(1.0))


def judge(tests: pd.DataFrame, levels: Sequence[float] = LEVELS) -> pd.DataFrame:
    """Judge the tests of all sets.

    Parameters
    ----------
    tests : DataFrame
        Of `run_set`, of one or more sets.
    levels : sequence of float
        Levels of unadjusted p-values.

    Returns
    -------
    DataFrame
        `method, per_side, kind, cell_type, quarter, metric, level, value, std_error, sets`; "all"
        stands for cell types and quarters together. Metrics: `fpr`, the share of true nulls with
        p ≤ level; and where effects are true `fdp` and `tpr` at BH 5 % per cell type and set, false
        and true discoveries of all sets added up, and `power_at_fpr`, the share of true effects
        found where 1 % of the nulls are rejected.

    Notes
    -----
    The standard error is that of the sets, by leaving out one at a time: tests of one set share its
    labels and are no replicates. It is NaN of one set.
    """
    require_columns(tests, list(COLUMNS), "tests")
    keys = ["method", "per_side", "kind", "replicate", "cell_type"]
    q = tests.groupby(keys, observed=True, sort=False)["p"].transform(
        lambda p: adjust_p_values(p.to_numpy())
    )
    tests = tests.assign(found=q <= FDR, rank=-tests["p"])
    rows = [
        row | dict(zip(("method", "per_side", "kind"), key, strict=True))
        for key, part in tests.groupby(["method", "per_side", "kind"], observed=True, sort=False)
        for row in _slices(part, levels)
    ]
    order = ["method", "per_side", "kind", "cell_type", "quarter", "metric", "level"]
    return pd.DataFrame(rows)[[*order, "value", "std_error", "sets"]]


def _slices(tests: pd.DataFrame, levels: Sequence[float]) -> Iterator[dict[str, Any]]:
    """All tests, those of each cell type, and those of each quarter."""
    for name, part in [(ALL, tests), *tests.groupby("cell_type", observed=True)]:
        yield from _metrics(part, levels, {"cell_type": name, "quarter": ALL})
    for number, part in tests.groupby("quarter"):
        yield from _metrics(part, levels, {"cell_type": ALL, "quarter": str(number)})


def _metrics(
    tests: pd.DataFrame, levels: Sequence[float], where: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    asked: list[tuple[str, float, Callable[[pd.DataFrame], float]]]
    asked = [("fpr", level, partial(_rejected, level=level)) for level in levels]
    if tests["de"].any():
        asked += [("fdp", FDR, _fdp), ("tpr", FDR, _tpr)]
        asked += [("power_at_fpr", EQUAL_LEVEL, _power)]
    for metric, level, measure in asked:
        value, error, sets = _jackknifed(tests, measure)
        yield {
            **where,
            "metric": metric,
            "level": level,
            "value": value,
            "std_error": error,
            "sets": sets,
        }


def _rejected(tests: pd.DataFrame, level: float) -> float:
    return mean((tests["p"][~tests["de"]] <= level).to_numpy())


def _tpr(tests: pd.DataFrame) -> float:
    return mean(tests["found"][tests["de"]].to_numpy())


def _fdp(tests: pd.DataFrame) -> float:
    # V / max(R, 1): without a discovery nothing is false
    return float((tests["found"] & ~tests["de"]).sum() / max(tests["found"].sum(), 1))


def _power(tests: pd.DataFrame) -> float:
    if not tests["de"].any():
        return np.nan
    return powers(tests, EQUAL_LEVEL)["power_at_fpr"][0]


def _jackknifed(
    tests: pd.DataFrame, measure: Callable[[pd.DataFrame], float]
) -> tuple[float, float, int]:
    """A measure of all sets, and its standard error from leaving out each of them."""
    number = tests["replicate"].to_numpy()
    sets = np.unique(number)
    n = len(sets)
    if n < 2:
        return measure(tests), np.nan, n
    without = np.array([measure(tests[number != one]) for one in sets])
    # se² = (S − 1)/S Σ_s (θ₋ₛ − mean θ₋ₛ)²
    return measure(tests), float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())), n
