"""Judge tests against a known truth, and the fits of one method against those of another.

Conventions, the same for every metric:

* A test that has no p-value (NaN) is never a discovery. It stays in the denominator of the true
  positive rate and is ranked last in ROC curves and AUC; rates and quantiles *of null p-values*
  (false positive rate, genomic inflation, QQ) use the tests that have one. Every metric says in `n`
  what it is a share of, and the tests without a p-value are counted by status.
* Monte Carlo standard errors treat genes as clusters, because the tests of one gene in several cell
  types share its cells' subjects and residual variance.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from flashmm.inference.table import adjust_p_values
from flashmm.options import InputError, Status, note

__all__ = [
    "Evaluation",
    "adjust_per_contrast",
    "average_metrics",
    "compare_fits",
    "contrast_cell_types",
    "control_table",
    "evaluate",
    "fit_frame",
    "pair_fits",
    "power_gains",
]

ALL = "all"
PARTIAL_AUC_FPR = 0.05
MAX_CURVE_POINTS = 2000
HISTOGRAM_BINS = 20
LOGLIK_TIE = 1e-6  # log-likelihoods closer than this count as equal

#: metric -> label, and whether a larger value is better (None where a target is)
METRICS: dict[str, tuple[str, bool | None]] = {
    "tests": ("Tests", None),
    "missing": ("Tests without a p-value", False),
    "de_tests": ("Tests of differentially expressed pairs", None),
    "de_untested": ("Differentially expressed pairs that were not tested", False),
    "lambda_gc": ("Genomic inflation λ of the null tests (target 1)", None),
    "discoveries": ("Discoveries at BH {level:.0%} per contrast", None),
    "discoveries_global": ("Discoveries at BH {level:.0%} over all contrasts", None),
    "fpr": ("False positive rate at p ≤ {level:g}", None),
    "fdp": ("False discovery proportion at BH {level:.0%} per contrast", False),
    "fdp_global": ("False discovery proportion at BH {level:.0%} over all contrasts", False),
    "tpr": ("True positive rate at BH {level:.0%} per contrast", True),
    "tpr_global": ("True positive rate at BH {level:.0%} over all contrasts", True),
    "power": ("Power at p ≤ {level:g}", True),
    "power_at_fpr": ("Power where {level:.2g} of the null tests are rejected", True),
    "power_gain": ("Power at p ≤ {level:g}, less that of the other method", True),
    "power_at_fpr_gain": (
        "Power where {level:.2g} of the null tests are rejected, less that of the other method",
        True,
    ),
    "coverage": ("Coverage of the intervals", None),
    "coverage_null": ("Coverage of the intervals of null tests", None),
    "auc": ("Area under the ROC curve", True),
    "pauc": ("Standardised partial area under the ROC curve, FPR ≤ {level:g}", True),
}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How the tests of one method did.

    Attributes
    ----------
    metrics : DataFrame
        Tidy: `metric, level, value, std_error, n, contrast` (``"all"`` pools them), `group` where
        one was asked for, `maximise` (True, False, or None where a target value is best), `label`.
    curves : dict of DataFrame
        ``"qq"`` (`contrast, expected, observed, lower, upper`, all −log10 p), ``"p_histogram"``
        (`contrast, left, right, density, n`) and, with a truth, ``"roc"`` (`contrast, fpr, tpr`)
        and ``"fdp_tpr"`` (`contrast, log10_p, fdp, tpr`).
    notes : tuple of str
        What was noticed and said while evaluating.
    """

    metrics: pd.DataFrame
    curves: dict[str, pd.DataFrame]
    notes: tuple[str, ...] = ()

    def value(self, metric: str, level: float | None = None, contrast: str = ALL) -> float:
        """Return one number of `metrics`; a KeyError names what is not there."""
        rows = self.metrics[(self.metrics.metric == metric) & (self.metrics.contrast == contrast)]
        if "group" in rows:
            rows = rows[rows.group == ALL]
        if level is not None:
            rows = rows[np.isclose(rows.level, level)]
        if len(rows) != 1:
            raise KeyError(f"{len(rows)} rows have metric={metric!r}, level={level}, {contrast=}")
        return float(rows.value.iloc[0])


def evaluate(
    table: pd.DataFrame,
    truth: pd.DataFrame | None = None,
    *,
    contrast_map: Mapping[str, str] | None = None,
    cell_type: str = "cell_type",
    levels: Sequence[float] = (0.05, 0.01, 0.001),
    fdr: Sequence[float] = (0.05, 0.10),
    group: str | None = None,
    same_unit: bool = False,
    pooled: bool = False,
) -> Evaluation:
    """Judge a table of tests against the truth of a simulation.

    Parameters
    ----------
    table : DataFrame
        One row per test: `gene, contrast, p_value`, and where they are there `log10_p` (used to
        rank p-values that underflow), `adj_p_value` (Benjamini-Hochberg per contrast; made when
        absent), `status`, and `conf_low, conf_high`, whose coverage is then given.
    truth : DataFrame or None
        `gene, cell_type` of the differentially expressed pairs (and `log_fc`, for `same_unit`);
        every other tested pair is null, so an empty frame says that all are. None says that the
        truth is not known (real data): then genomic inflation, QQ and histogram are those of all
        tests, and nothing is said about errors.
    contrast_map : mapping, optional
        Contrast to cell type, for contrasts whose name does not say it (see `contrast_cell_types`).
    cell_type : str
        Name of the cell type column in coefficient names.
    levels : sequence of float
        Levels at which unadjusted p-values are judged.
    fdr : sequence of float
        Levels at which adjusted p-values are judged.
    group : str, optional
        A column of `table` (a stratum of expression, say); metrics are then also given per value.
    same_unit : bool
        Whether `log_fc` of the truth is in the unit of the estimates (Gaussian simulations), so
        that an interval can be said to cover it; else only intervals of null tests are judged.
    pooled : bool
        Only the metrics of all contrasts together, and no curves: cheap for very many tests.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        A column is missing, a test or true pair appears twice, a p-value is outside [0, 1], or a
        contrast cannot be assigned to a cell type.

    Notes
    -----
    * ``fpr``: share of the null tests with p ≤ level.
    * ``fdp``: V / max(R, 1), V of the R discoveries being null; ``tpr``: discovered share of the
      differentially expressed tests. Discoveries have an adjusted p-value ≤ level, adjusted per
      contrast (``fdp``, ``tpr``) or once over all contrasts (``fdp_global``, ``tpr_global``).
      Note that FPR / (FPR + TPR), sometimes called a false discovery rate, is not one.
    * ``power``: share of the differentially expressed tests with p ≤ level. ``power_at_fpr``: the
      same share at the threshold that rejects this part of the null tests of the table, whatever
      its p-values say (the ROC curve at that false positive rate; its standard error allows for the
      threshold being estimated). It compares methods that do not keep the same level.
    * ``coverage``: share of the tests whose interval holds the true effect, ``coverage_null`` those
      of null tests that hold zero.
    * ``auc`` with the standard error of DeLong (1988), clustered by gene (Obuchowski 1997);
      ``pauc`` is the area up to an FPR of 0.05, standardised after McClish (1989) so that chance is
      0.5 and perfection 1.
    * ``lambda_gc``: upper chi-squared(1) quantile of the median p, over that of 0.5; from p and not
      from the statistic, so that few degrees of freedom are not read as inflation. Its standard
      error is that of the median of uniform p-values.
    """
    levels, fdr = _valid_levels(levels, "levels"), _valid_levels(fdr, "fdr")
    notes: list[str] = []
    tests = _prepare(table, truth, contrast_map, cell_type, group, notes)
    known = truth is not None
    if same_unit:
        _add_effects(tests, truth)
    rows = [
        row | {"contrast": contrast, "group": stratum}
        for stratum, contrast, part in _slices(tests, group, pooled)
        for row in _slice_metrics(part, known, levels, fdr)
    ]
    if truth is not None:
        rows.append(_untested_pairs(tests, truth) | {"contrast": ALL, "group": ALL})
    curves = {} if pooled else _curves(tests, known)
    return Evaluation(_metrics_frame(rows, group), curves, tuple(notes))


# ----------------------------------------------------------------------------------------------
# From a table of tests to tests with a truth


def contrast_cell_types(
    contrasts: Iterable[str],
    known: Iterable[str] = (),
    *,
    contrast_map: Mapping[str, str] | None = None,
    cell_type: str = "cell_type",
) -> dict[str, str | None]:
    """Say which cell type each contrast tests.

    Taken in this order: `contrast_map`; a contrast named like a known cell type; the level in
    brackets after the cell type column in a coefficient such as ``cell_type[B
    cells]:condition[T.stim]``. A coefficient of the cell type alone is the level of expression in
    that type, not an effect in it, and says nothing; so does a contrast between two cell types.

    Parameters
    ----------
    contrasts : iterable of str
        Names of contrasts.
    known : iterable of str
        Cell types of the truth; they also settle whether ``[T.x]`` is the level ``T.x`` or ``x``.
    contrast_map : mapping, optional
        Contrast to cell type, by hand.
    cell_type : str
        Name of the cell type column.

    Returns
    -------
    dict
        Contrast to cell type, None where it is not told.
    """
    known, given = set(map(str, known)), dict(contrast_map or {})

    def assign(contrast: str) -> str | None:
        if contrast in given:
            return str(given[contrast])
        if contrast in known:
            return contrast
        found = {_strip_coding(level, known) for level in _interacting_levels(contrast, cell_type)}
        return found.pop() if len(found) == 1 else None

    return {contrast: assign(contrast) for contrast in contrasts}


def _interacting_levels(text: str, column: str) -> Iterator[str]:
    """Yield the levels of `column` in the interaction terms of a coefficient or an expression."""
    name = re.escape(column)
    for match in re.finditer(rf"(?<![\w.])(?:C\(\s*{name}\b[^\[\]]*\)|{name})\[", text):
        end = _closing_bracket(text, match.end())
        interacts = text[: match.start()].endswith(":") or text[end + 1 :].startswith(":")
        if end > 0 and interacts:
            yield text[match.end() : end]


def _closing_bracket(text: str, start: int) -> int:
    """Place of the bracket that closes the one before `start`, or -1; levels may hold brackets."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"[": 1, "]": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return -1


def _strip_coding(level: str, known: set[str]) -> str:
    """Drop the mark of treatment coding, ``T.``, unless it belongs to the level's name."""
    return level if level in known else level.removeprefix("T.")


def _prepare(
    table: pd.DataFrame,
    truth: pd.DataFrame | None,
    contrast_map: Mapping[str, str] | None,
    cell_type: str,
    group: str | None,
    notes: list[str],
) -> pd.DataFrame:
    """Make one row per test: gene (code), pair, contrast, p, score, local, global, de, status."""
    _require(table, ["gene", "contrast", "p_value", *([group] if group else [])], "table")
    _refuse_duplicates(table, ["gene", "contrast"], "table")
    p = table["p_value"].to_numpy(dtype=float)
    if ((p < 0) | (p > 1)).any():
        raise InputError("table: column 'p_value' holds values outside [0, 1]; give p-values.")
    contrast, score = table["contrast"].astype(str), _score(table, p)
    tests = pd.DataFrame(
        {
            "gene_name": table["gene"].astype(str).to_numpy(),
            "gene": pd.factorize(table["gene"])[0],
            "contrast": contrast.to_numpy(),
            "p": p,
            "score": score,
            "rank": stats.rankdata(score),
            "local": _local_adjusted(table, contrast, p),
            "global": adjust_p_values(p),
            "status": table["status"].astype(str).to_numpy() if "status" in table else "unknown",
            "group": table[group].astype(str).to_numpy() if group else ALL,
        }
    )
    for name in ("conf_low", "conf_high"):
        tests[name] = table[name].to_numpy(dtype=float) if name in table else np.nan
    tests["cell_type"] = _cell_types(tests, truth, contrast_map, cell_type, notes)
    tests["de"] = False
    if truth is not None and len(truth):
        tests["de"] = _tested_pairs(tests).isin(_true_pairs(truth))
    return tests


def adjust_per_contrast(p: np.ndarray, contrast: pd.Series) -> np.ndarray:
    """Benjamini-Hochberg adjusted p-values, each contrast by itself.

    Parameters
    ----------
    p : (tests,) array
        P-values; NaN are no tests and stay NaN.
    contrast : (tests,) Series
        Name of the contrast of each test.

    Returns
    -------
    (tests,) array
        Adjusted p-values.
    """
    adjusted, code = np.full(len(p), np.nan), pd.factorize(contrast)[0]
    for one in range(code.max(initial=-1) + 1):
        adjusted[code == one] = adjust_p_values(p[code == one])
    return adjusted


def _require(frame: pd.DataFrame, columns: list[str], name: str) -> None:
    missing = [column for column in columns if column not in frame]
    if missing:
        raise InputError(f"{name}: columns {missing} are missing; found {list(frame.columns)}.")


def _refuse_duplicates(frame: pd.DataFrame, keys: list[str], name: str) -> None:
    twice = frame[frame.duplicated(keys)]
    if len(twice):
        example = tuple(twice.iloc[0][keys])
        raise InputError(
            f"{name}: {len(twice)} rows repeat a pair ({', '.join(keys)}), for example {example}; "
            "keep one row each."
        )


def _score(table: pd.DataFrame, p: np.ndarray) -> np.ndarray:
    """Rank scores −log10 p, from `log10_p` where p underflows; −1 (last) where there is none."""
    with np.errstate(divide="ignore"):
        log10_p = np.log10(p)
    if "log10_p" in table:
        given = table["log10_p"].to_numpy(dtype=float)
        log10_p = np.where(np.isnan(given), log10_p, given)
    return np.where(np.isnan(p), -1.0, np.abs(log10_p))


def _local_adjusted(table: pd.DataFrame, contrast: pd.Series, p: np.ndarray) -> np.ndarray:
    if "adj_p_value" in table:
        return table["adj_p_value"].to_numpy(dtype=float)
    return adjust_per_contrast(p, contrast)


def _cell_types(
    tests: pd.DataFrame,
    truth: pd.DataFrame | None,
    contrast_map: Mapping[str, str] | None,
    cell_type: str,
    notes: list[str],
) -> pd.Series | str:
    """Cell type of every test; without true pairs nobody asks."""
    if truth is None or truth.empty:
        return ""
    _require(truth, ["gene", "cell_type"], "truth")
    _refuse_duplicates(truth, ["gene", "cell_type"], "truth")
    known = list(dict.fromkeys(truth["cell_type"].astype(str)))
    types = contrast_cell_types(
        tests["contrast"].unique(), known, contrast_map=contrast_map, cell_type=cell_type
    )
    _refuse_unassigned(types, cell_type)
    _note_gaps(tests, truth, known, types, notes)
    return tests["contrast"].map(types)


def _tested_pairs(tests: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(tests[["gene_name", "cell_type"]])


def _true_pairs(truth: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(truth[["gene", "cell_type"]].astype(str))


def _refuse_unassigned(types: Mapping[str, str | None], cell_type: str) -> None:
    unassigned = [contrast for contrast, found in types.items() if found is None]
    if unassigned:
        more = f" and {len(unassigned) - 5} more" if len(unassigned) > 5 else ""
        raise InputError(
            f"table: contrasts {unassigned[:5]}{more} do not say which cell type's effect they "
            "test, so the truth cannot be looked up. Leave them out, name them like a coefficient, "
            f"'{cell_type}[B cells]:condition[T.stim]', or give contrast_map={{contrast: type}}."
        )


def _note_gaps(
    tests: pd.DataFrame,
    truth: pd.DataFrame,
    known: list[str],
    types: Mapping[str, str | None],
    notes: list[str],
) -> None:
    """Say what of the truth no test can find."""
    absent = [name for name in known if name not in types.values()]
    if absent:
        notes.append(note(f"No contrast tests the effects in cell types {absent} of the truth."))
    if not truth["gene"].astype(str).isin(tests["gene_name"]).any():
        notes.append(note("None of the truth's genes is in the table: every test counts as null."))


def _add_effects(tests: pd.DataFrame, truth: pd.DataFrame | None) -> None:
    """Add a column with the true effect of every test, in the unit of the estimates."""
    if truth is None or (len(truth) and "log_fc" not in truth):
        raise InputError("truth: a column 'log_fc' is needed where same_unit is True.")
    tests["effect"] = 0.0
    if len(truth):
        effect = pd.Series(truth["log_fc"].to_numpy(dtype=float), index=_true_pairs(truth))
        found = effect.reindex(_tested_pairs(tests)).fillna(0.0)
        tests["effect"] = found.to_numpy()


def _slices(
    tests: pd.DataFrame, group: str | None, pooled: bool = False
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield (group, contrast, tests): everything, then per contrast; the same within each group."""
    strata = [(ALL, tests)]
    if group:
        strata += [(str(name), part) for name, part in tests.groupby("group", sort=True)]
    for stratum, part in strata:
        yield stratum, ALL, part
        for contrast in () if pooled else tests["contrast"].unique():
            yield stratum, str(contrast), part[part["contrast"] == contrast]


# ----------------------------------------------------------------------------------------------
# Metrics


def _row(metric: str, value: float, *, level: float = np.nan, se: float = np.nan, n: int) -> dict:
    return {"metric": metric, "level": level, "value": float(value), "std_error": se, "n": int(n)}


def _slice_metrics(
    tests: pd.DataFrame, known: bool, levels: Sequence[float], fdr: Sequence[float]
) -> Iterator[dict[str, Any]]:
    yield from _count_metrics(tests)
    yield _lambda_gc(_null_p(tests))
    for level in fdr:
        yield from _discovery_metrics(tests, known, level)
    if known:
        yield _row("de_tests", tests["de"].sum(), n=len(tests))
        yield from (_false_positive_rate(tests, level) for level in levels)
        yield from _coverage_metrics(tests)
        yield from _power_metrics(tests, levels)
        yield from _auc_metrics(tests)


def _count_metrics(tests: pd.DataFrame) -> Iterator[dict[str, Any]]:
    missing = tests["p"].isna()
    yield _row("tests", len(tests), n=len(tests))
    yield _row("missing", missing.sum(), n=len(tests))
    for status, count in tests.loc[missing, "status"].value_counts().sort_index().items():
        yield _row(f"missing_{status}", count, n=len(tests))


def _null_p(tests: pd.DataFrame) -> np.ndarray:
    """P-values of null tests that have one (of all tests where the truth is not known)."""
    return tests.loc[~tests["de"] & tests["p"].notna(), "p"].to_numpy()


def _false_positive_rate(tests: pd.DataFrame, level: float) -> dict[str, Any]:
    null = tests[~tests["de"] & tests["p"].notna()]
    rejected = (null["p"] <= level).to_numpy()
    se = _clustered_error(rejected, null["gene"].to_numpy())
    return _row("fpr", _mean(rejected), level=level, se=se, n=len(null))


def _coverage_metrics(tests: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Coverage of the null effect, and of all effects where they are known in this unit."""
    some = tests["conf_low"].notna() & tests["conf_high"].notna()
    for name, judged in (("coverage", some), ("coverage_null", some & ~tests["de"])):
        if judged.any() and (name == "coverage_null" or "effect" in tests):
            part = tests[judged]
            effect = part.get("effect", 0.0)
            held = ((part["conf_low"] <= effect) & (effect <= part["conf_high"])).to_numpy()
            se = _clustered_error(held, part["gene"].to_numpy())
            yield _row(name, _mean(held), se=se, n=len(part))


# ----------------------------------------------------------------------------------------------
# Power


def _power_metrics(tests: pd.DataFrame, levels: Sequence[float]) -> Iterator[dict[str, Any]]:
    de, gene = tests["de"].to_numpy(), tests["gene"].to_numpy()
    if not de.any():
        return
    for level in levels:
        for metric, (value, influence) in _powers(tests, level).items():
            se = _clustered_sum_error(influence, gene)
            yield _row(metric, value, level=level, se=se, n=de.sum())


def _powers(tests: pd.DataFrame, level: float) -> dict[str, tuple[float, np.ndarray]]:
    """Power at a level and at a realised false positive rate, with the influence of every test."""
    de, found = tests["de"].to_numpy(), (tests["p"] <= level).to_numpy()
    power = _mean(found[de])
    nominal = np.where(de, found - power, 0.0) / de.sum()
    return {"power": (power, nominal), "power_at_fpr": _power_at_fpr(tests, level)}


def _power_at_fpr(tests: pd.DataFrame, fpr: float) -> tuple[float, np.ndarray]:
    """The ROC curve at a false positive rate, and the influence of every test on it.

    With R(x) the share of true effects above the threshold c that a share x of the nulls exceeds,
    an effect contributes (1[s ≥ c] − R)/n₁ and a null, by moving c, −R'(x)(1[s ≥ c] − x)/n₀.
    """
    de, rank = tests["de"].to_numpy(), tests["rank"].to_numpy()
    null = np.sort(rank[~de])[::-1]
    if not len(null):
        return np.nan, np.full(len(de), np.nan)
    value, step = _roc_at(rank[de], null, fpr), fpr / 4
    rise = _roc_at(rank[de], null, fpr + step) - _roc_at(rank[de], null, fpr - step)
    slope = rise / (2 * step)
    above = rank >= null[max(int(np.ceil(fpr * len(null))) - 1, 0)]
    influence = np.where(
        de, (above - value) / de.sum(), -slope * (above - above[~de].mean()) / len(null)
    )
    return value, influence


def _roc_at(effects: np.ndarray, null: np.ndarray, fpr: float) -> float:
    """Height of the ROC curve; straight between its points, so that ties are broken by lot."""
    # points of the curve at the distinct null scores that enclose the rate; `null` falls
    score = null[min(int(fpr * len(null)), len(null) - 1)]
    above, with_ties = (null > score).sum(), (null >= score).sum()
    low, high = (effects > score).mean(), (effects >= score).mean()
    share = (fpr * len(null) - above) / (with_ties - above)
    return float(low + (high - low) * share)


def power_gains(
    table: pd.DataFrame,
    other: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    contrast_map: Mapping[str, str] | None = None,
    cell_type: str = "cell_type",
    levels: Sequence[float] = (0.05, 0.01, 0.001),
) -> pd.DataFrame:
    """Compare the power of two methods on the same tests.

    Parameters
    ----------
    table, other : DataFrame
        Tests of both, as for `evaluate`; the pairs of gene and contrast that both have are used.
    truth : DataFrame
        `gene, cell_type` of the differentially expressed pairs.
    contrast_map, cell_type, levels
        As for `evaluate`.

    Returns
    -------
    DataFrame
        Rows like `Evaluation.metrics`: ``power_gain`` and ``power_at_fpr_gain`` at every level, of
        `table` over `other`. The standard error is that of the paired difference, genes as
        clusters.

    Raises
    ------
    InputError
        As for `evaluate`; or no test is in both.
    """
    levels, keys = _valid_levels(levels, "levels"), ["gene", "contrast"]
    alike = table[keys].equals(other[keys])  # merging is slow where there are very many tests
    shared = table[keys] if alike else table[keys].merge(other[keys])
    if shared.empty:
        raise InputError("table, other: no pair of gene and contrast is in both.")
    both = [
        _prepare(part, truth, contrast_map, cell_type, None, [])
        for part in (_in_order(table, shared), _in_order(other, shared))
    ]
    gene, n = both[0]["gene"].to_numpy(), int(both[0]["de"].sum())
    rows = []
    for level in levels if n else ():
        mine, theirs = (_powers(part, level) for part in both)
        for metric in mine:
            gain = mine[metric][0] - theirs[metric][0]
            se = _clustered_sum_error(mine[metric][1] - theirs[metric][1], gene)
            row = _row(f"{metric}_gain", gain, level=level, se=se, n=n)
            rows.append(row | {"contrast": ALL})
    if not rows:
        raise InputError("truth: none of its pairs is tested; there is no power to compare.")
    return _metrics_frame(rows, None)


def _in_order(table: pd.DataFrame, keys: pd.DataFrame) -> pd.DataFrame:
    """Rows of the table for the pairs in `keys`, in their order."""
    names = list(keys.columns)
    return table if table[names].equals(keys) else keys.merge(table, on=names)


# ----------------------------------------------------------------------------------------------
# Discoveries and ranks


def _discovery_metrics(tests: pd.DataFrame, known: bool, level: float) -> Iterator[dict[str, Any]]:
    gene, de = tests["gene"].to_numpy(), tests["de"].to_numpy()
    for kind, suffix in (("local", ""), ("global", "_global")):
        found = (tests[kind] <= level).to_numpy()
        yield _row(f"discoveries{suffix}", found.sum(), level=level, n=len(tests))
        if not known:
            continue
        # FDP = V / max(R, 1): without a discovery nothing is false
        fdp = _mean(~de[found]) if found.any() else 0.0
        se = _clustered_error(~de[found], gene[found])
        yield _row(f"fdp{suffix}", fdp, level=level, se=se, n=found.sum())
        se = _clustered_error(found[de], gene[de])
        yield _row(f"tpr{suffix}", _mean(found[de]), level=level, se=se, n=de.sum())


def _lambda_gc(p: np.ndarray) -> dict[str, Any]:
    """Genomic inflation λ = F⁻¹(1 − median p) / F⁻¹(½), F of chi-squared(1), from p-values."""
    if not p.size:
        return _row("lambda_gc", np.nan, n=0)
    half = stats.chi2.isf(0.5, 1)
    # se(median of n uniforms) = 1 / (2 √n), carried through p ↦ F⁻¹(1 − p) at p = ½
    se = 0.5 / np.sqrt(p.size) / (stats.chi2.pdf(half, 1) * half)
    return _row("lambda_gc", stats.chi2.isf(np.median(p), 1) / half, se=float(se), n=p.size)


def _auc_metrics(tests: pd.DataFrame) -> Iterator[dict[str, Any]]:
    from sklearn.metrics import roc_auc_score

    de, score = tests["de"].to_numpy(), tests["score"].to_numpy()
    if de.all() or not de.any():
        yield _row("auc", np.nan, n=len(de))
        yield _row("pauc", np.nan, level=PARTIAL_AUC_FPR, n=len(de))
        return
    se = _auc_error(de, score, tests["gene"].to_numpy())
    yield _row("auc", roc_auc_score(de, _finite(score)), se=se, n=len(de))
    partial = roc_auc_score(de, _finite(score), max_fpr=PARTIAL_AUC_FPR)
    yield _row("pauc", partial, level=PARTIAL_AUC_FPR, n=len(de))


def _finite(score: np.ndarray) -> np.ndarray:
    """Scores by rank, so that an infinite one (p = 0 without `log10_p`) stays first."""
    return stats.rankdata(score)


def _auc_error(de: np.ndarray, score: np.ndarray, gene: np.ndarray) -> float:
    """Standard error of the AUC from DeLong's placements, summed over the tests of a gene."""
    rank = stats.rankdata(score)
    n_de, n_null = de.sum(), (~de).sum()
    # placement of a test: the share of the other class that it is ranked above
    above = np.empty(len(de))
    above[de] = (rank[de] - stats.rankdata(score[de])) / n_null
    above[~de] = 1 - (rank[~de] - stats.rankdata(score[~de])) / n_de
    influence = (above - above[de].mean()) / np.where(de, n_de, n_null)
    return _clustered_sum_error(influence, gene)


def _clustered_error(x: np.ndarray, cluster: np.ndarray) -> float:
    """Standard error of the mean of `x` when values of one cluster may depend on each other."""
    if len(x) < 2:
        return np.nan
    return _clustered_sum_error((x - np.mean(x)) / len(x), cluster)


def _clustered_sum_error(influence: np.ndarray, cluster: np.ndarray) -> float:
    # se² = G/(G − 1) Σ_g (Σ_{i in g} influence_i)²
    _, code = np.unique(cluster, return_inverse=True)
    sums = np.bincount(code, influence)
    if len(sums) < 2:
        return np.nan
    return float(np.sqrt(len(sums) / (len(sums) - 1) * np.sum(sums**2)))


def _mean(x: np.ndarray) -> float:
    return float(np.mean(x)) if len(x) else np.nan


def _untested_pairs(tests: pd.DataFrame, truth: pd.DataFrame) -> dict[str, Any]:
    """Count the true pairs that no row of the table tests."""
    untested = ~_true_pairs(truth).isin(_tested_pairs(tests)) if len(truth) else np.zeros(0)
    return _row("de_untested", untested.sum(), n=len(truth))


def _metrics_frame(rows: list[dict[str, Any]], group: str | None) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    frame["maximise"] = _maximise(frame["metric"])
    frame["label"] = [
        _describe(metric)[0].format(level=level)
        for metric, level in zip(frame["metric"], frame["level"], strict=True)
    ]
    columns = ["metric", "level", "value", "std_error", "n", "contrast"]
    return frame[[*columns, *(["group"] if group else []), "maximise", "label"]]


def _maximise(metrics: pd.Series) -> pd.Series:
    values = [_describe(metric)[1] for metric in metrics]
    return pd.Series(values, index=metrics.index, dtype=object)


def _describe(metric: str) -> tuple[str, bool | None]:
    if metric.startswith("missing_"):
        return f"Tests without a p-value, status {metric.removeprefix('missing_')}", False
    return METRICS[metric]


def _valid_levels(levels: Sequence[float], name: str) -> tuple[float, ...]:
    values = tuple(float(level) for level in levels)
    if any(not 0 < level < 1 for level in values):
        raise InputError(f"{name}: {values} must lie between 0 and 1.")
    return values


def average_metrics(metrics: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Average metrics over replicates.

    Parameters
    ----------
    metrics : DataFrame
        Rows of `Evaluation.metrics` of several runs, with columns that tell them apart.
    by : sequence of str
        The columns to keep, ``["scenario", "method"]`` for instance; the rest is averaged over.

    Returns
    -------
    DataFrame
        `by`, then the columns of `metrics` with the mean `value`, and `replicates`. With two or
        more replicates `std_error` is that of the mean between replicates, else the replicate's
        own; `n` is the total.
    """
    _require(metrics, [*by, "metric", "level", "value", "std_error", "n"], "metrics")
    extra = [column for column in ("contrast", "group") if column in metrics]
    grouped = metrics.groupby([*by, "metric", "level", *extra], dropna=False, sort=False)
    frame = grouped.agg(
        value=("value", "mean"),
        own=("std_error", "first"),
        between=("value", "sem"),
        n=("n", "sum"),
        replicates=("value", "count"),
        label=("label", "first"),
    ).reset_index()
    frame["std_error"] = frame["between"].where(frame["replicates"] > 1, frame["own"])
    frame["maximise"] = _maximise(frame["metric"])
    order = [*by, "metric", "level", "value", "std_error", "n", "replicates", *extra]
    return frame[[*order, "maximise", "label"]]


# ----------------------------------------------------------------------------------------------
# Curves


def _curves(tests: pd.DataFrame, known: bool) -> dict[str, pd.DataFrame]:
    makers = {"qq": _qq_curve, "p_histogram": _p_histogram}
    if known and tests["de"].any() and not tests["de"].all():
        makers |= {"roc": _roc_curve, "fdp_tpr": _fdp_tpr_curve}
    return {name: _per_contrast(tests, make) for name, make in makers.items()}


def _per_contrast(tests: pd.DataFrame, make: Any) -> pd.DataFrame:
    parts = []
    for _, contrast, part in _slices(tests, None):
        curve = make(part)
        curve.insert(0, "contrast", contrast)
        parts.append(curve)
    return pd.concat(parts, ignore_index=True)


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
            "lower": -np.log10(stats.beta.ppf(0.975, rank, n + 1 - rank)),
            "upper": -np.log10(stats.beta.ppf(0.025, rank, n + 1 - rank)),
        }
    )


def _p_histogram(tests: pd.DataFrame) -> pd.DataFrame:
    p = _null_p(tests)
    counts, edges = np.histogram(p, bins=HISTOGRAM_BINS, range=(0, 1))
    density = counts * HISTOGRAM_BINS / max(len(p), 1)
    return pd.DataFrame({"left": edges[:-1], "right": edges[1:], "density": density, "n": counts})


def _roc_curve(tests: pd.DataFrame) -> pd.DataFrame:
    from sklearn.metrics import roc_curve

    de = tests["de"].to_numpy()
    if de.all() or not de.any():
        return pd.DataFrame({"fpr": [], "tpr": []}, dtype=float)
    fpr, tpr, _ = roc_curve(de, _finite(tests["score"].to_numpy()))
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


# ----------------------------------------------------------------------------------------------
# Controls


def control_table(
    truth: pd.DataFrame,
    genes: Iterable[str],
    contrasts: Sequence[str] | Mapping[str, str],
    kind: str = "truth",
    seed: int | np.random.SeedSequence = 0,
    *,
    cell_type: str = "cell_type",
) -> pd.DataFrame:
    """Make the tests of a method that knows the truth, or of one that knows nothing.

    They frame the scores of real methods: ``"truth"`` finds every differentially expressed pair and
    has uniform p-values elsewhere, the best that a valid test can do (AUC 1, TPR 1, FPR nominal);
    ``"random"`` has uniform p-values everywhere (AUC 0.5).

    Parameters
    ----------
    truth : DataFrame
        `gene, cell_type, log_fc` of the differentially expressed pairs.
    genes : iterable of str
        Genes to be tested.
    contrasts : sequence of str or mapping
        Names that say their cell type, or contrast to cell type.
    kind : {"truth", "random"}
        The positive or the negative control.
    seed : int or SeedSequence
        Seed of the uniform p-values.
    cell_type : str
        Name of the cell type column in coefficient names.

    Returns
    -------
    DataFrame
        Tidy tests, contrasts outermost.
    """
    if kind not in ("truth", "random"):
        raise InputError(f"kind: {kind!r} is no control; use 'truth' or 'random'.")
    _require(truth, ["gene", "cell_type", "log_fc"], "truth")
    given = contrasts if isinstance(contrasts, Mapping) else None
    known = truth["cell_type"].astype(str).unique()
    types = contrast_cell_types(contrasts, known, contrast_map=given, cell_type=cell_type)
    if len(truth):
        _refuse_unassigned(types, cell_type)
    genes = pd.Index(genes).astype(str)
    grid = pd.MultiIndex.from_product([list(types), genes], names=["contrast", "gene"])
    frame = grid.to_frame(index=False)
    pairs = pd.MultiIndex.from_arrays([frame["gene"], frame["contrast"].map(types)])
    log_fc = pd.Series(truth["log_fc"].to_numpy(dtype=float), index=_true_pairs(truth))
    effect = log_fc.reindex(pairs).to_numpy() if kind == "truth" else np.full(len(frame), np.nan)
    return _control_tests(frame, effect, np.random.default_rng(seed))


def _control_tests(
    frame: pd.DataFrame, effect: np.ndarray, rng: np.random.Generator
) -> pd.DataFrame:
    """Normal tests: |z| = 30 where there is an effect, standard normal z elsewhere."""
    noise = rng.standard_normal(len(frame))
    found = ~np.isnan(effect)
    z = np.where(found, 30 * np.sign(effect), noise)
    std_error = np.where(found, np.abs(effect) / 30, 0.1)
    table = frame[["gene", "contrast"]].assign(
        estimate=z * std_error,
        std_error=std_error,
        statistic=z,
        df=np.inf,
        p_value=2 * stats.norm.sf(np.abs(z)),
        log10_p=(np.log(2) + stats.norm.logsf(np.abs(z))) / np.log(10),
    )
    adjusted = adjust_per_contrast(table["p_value"].to_numpy(), table["contrast"])
    return table.assign(adj_p_value=adjusted, status=str(Status.OK))


# ----------------------------------------------------------------------------------------------
# Agreement of two methods' fits

#: columns that are compared, and the unit in which a difference is judged
_COMPARED = {
    "estimate": "standard errors",
    "std_error": "relative",
    "statistic": "absolute",
    "p_value": "absolute",
    "log10_p": "absolute",
    "theta": "share of the total variance",
    "loglik": "absolute",
}


def fit_frame(fit: Any) -> pd.DataFrame:
    """Tabulate the fits of an `LMMFit`: `gene, status, loglik`, then `theta:<component>`.

    Parameters
    ----------
    fit : LMMFit
        Anything with `genes, status, loglik, theta, components`.

    Returns
    -------
    DataFrame
        One row per gene.
    """
    frame = pd.DataFrame(
        {
            "gene": np.asarray(fit.genes),
            "status": [str(status) for status in fit.status],
            "loglik": np.asarray(fit.loglik, dtype=float),
        }
    )
    theta = {f"theta:{name}": fit.theta[:, k] for k, name in enumerate(fit.components)}
    return frame.assign(**theta)


def pair_fits(
    ours: pd.DataFrame | Sequence[pd.DataFrame],
    reference: pd.DataFrame | Sequence[pd.DataFrame],
) -> pd.DataFrame:
    """Lay the numbers of two methods side by side.

    Parameters
    ----------
    ours, reference : DataFrame or sequence of DataFrame
        Tests or coefficients (`gene`, `contrast` or `coefficient`, and any of `estimate, std_error,
        statistic, p_value, log10_p`) and fits (`gene`, `loglik`, `theta:<component>`).

    Returns
    -------
    DataFrame
        `gene, quantity, name` (contrast, coefficient or component), `ours, reference, difference`,
        and `scaled`: the absolute difference in units of the reference's standard error (estimate),
        of its value (std_error) or of its total variance (theta), else as it is. Every gene and
        name that both frames hold is there, with NaN where a method has no number.

    Raises
    ------
    InputError
        The two have nothing in common.
    """
    keys = ["gene", "quantity", "name"]
    left, right = _long(ours), _long(reference)
    pairs = left.rename(columns={"value": "ours"}).merge(
        right.rename(columns={"value": "reference"}), on=keys, how="inner", validate="one_to_one"
    )
    if pairs.empty:
        raise InputError("ours, reference: no gene and name are in both; compare the same genes.")
    pairs["difference"] = pairs["ours"] - pairs["reference"]
    pairs["scaled"] = pairs["difference"].abs() / _unit(pairs)
    order = pairs["quantity"].map(list(_COMPARED).index)
    pairs = pairs.iloc[np.argsort(order.to_numpy(), kind="stable")].reset_index(drop=True)
    return pairs[[*keys, "ours", "reference", "difference", "scaled"]]


def _long(frames: pd.DataFrame | Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Stack frames to `gene, quantity, name, value`."""
    frames = [frames] if isinstance(frames, pd.DataFrame) else list(frames)
    parts = [part for frame in frames for part in _long_parts(frame)]
    if not parts:
        raise InputError(f"frames to compare: none holds any of the columns {list(_COMPARED)}.")
    return pd.concat(parts, ignore_index=True)


def _long_parts(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    _require(frame, ["gene"], "frame to compare")
    label = next((frame[c].astype(str) for c in ("contrast", "coefficient") if c in frame), "")
    for column in frame.columns:
        quantity, _, component = str(column).partition(":")
        if quantity in _COMPARED:
            yield pd.DataFrame(
                {
                    "gene": frame["gene"].astype(str),
                    "quantity": quantity,
                    "name": component or label,
                    "value": frame[column].astype(float),
                }
            )


def _unit(pairs: pd.DataFrame) -> np.ndarray:
    """The reference's number that a difference is divided by."""
    index = pd.MultiIndex.from_frame(pairs[["gene", "name"]])
    is_error = (pairs["quantity"] == "std_error").to_numpy()
    errors = pd.Series(pairs["reference"].to_numpy()[is_error], index=index[is_error])
    error = errors.reindex(index).to_numpy() if len(errors) else np.full(len(pairs), np.nan)
    is_theta = (pairs["quantity"] == "theta").to_numpy()
    total = pairs[is_theta].groupby("gene")["reference"].sum(min_count=1)
    variance = pairs["gene"].map(total).to_numpy(dtype=float)
    in_errors = is_error | (pairs["quantity"] == "estimate").to_numpy()
    return np.where(in_errors, error, np.where(is_theta, variance, 1.0))


def compare_fits(
    ours: pd.DataFrame | Sequence[pd.DataFrame],
    reference: pd.DataFrame | Sequence[pd.DataFrame],
) -> pd.DataFrame:
    """Summarise how far the numbers of two methods are apart.

    Parameters
    ----------
    ours, reference : DataFrame or sequence of DataFrame
        As for `pair_fits`.

    Returns
    -------
    DataFrame
        One row per quantity: `n` pairs of numbers; `ours_only`, `reference_only`, `neither` where a
        number is missing; `median, q90, q99, max` of the absolute differences; the same of the
        scaled ones with their `unit`; and for the log-likelihood `ours_higher, reference_higher`
        (by more than 1e-6) with the largest `ours_gain` and `reference_gain`, as the higher
        likelihood of the same model is the better fit.
    """
    pairs = pair_fits(ours, reference)
    rows = [_agreement(str(name), part) for name, part in pairs.groupby("quantity", sort=False)]
    frame = pd.DataFrame(rows)
    for column in ("ours_higher", "reference_higher"):
        frame[column] = frame[column].astype("Int64")
    return frame


def _agreement(quantity: str, pairs: pd.DataFrame) -> dict[str, Any]:
    mine, other = pairs["ours"].notna(), pairs["reference"].notna()
    row: dict[str, Any] = {
        "quantity": quantity,
        "n": int((mine & other).sum()),
        "ours_only": int((mine & ~other).sum()),
        "reference_only": int((~mine & other).sum()),
        "neither": int((~mine & ~other).sum()),
    }
    row |= _quantiles(pairs["difference"].abs())
    row |= {f"scaled_{name}": value for name, value in _quantiles(pairs["scaled"]).items()}
    row["unit"] = _COMPARED[quantity]
    return row | (_likelihood_race(pairs["difference"]) if quantity == "loglik" else _NO_RACE)


def _quantiles(x: pd.Series) -> dict[str, float]:
    return {
        "median": x.median(),
        "q90": x.quantile(0.9),
        "q99": x.quantile(0.99),
        "max": x.max(),
    }


_NO_RACE = {
    "ours_higher": pd.NA,
    "reference_higher": pd.NA,
    "ours_gain": np.nan,
    "reference_gain": np.nan,
}


def _likelihood_race(difference: pd.Series) -> dict[str, Any]:
    """Count whose log-likelihood is higher, and by how much at most."""
    return {
        "ours_higher": int((difference > LOGLIK_TIE).sum()),
        "reference_higher": int((difference < -LOGLIK_TIE).sum()),
        "ours_gain": max(difference.max(), 0.0),
        "reference_gain": max(-difference.min(), 0.0),
    }
