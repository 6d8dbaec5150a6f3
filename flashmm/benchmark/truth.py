"""The truth beside the tests: the cell type that a contrast tests, and which effects are true."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from flashmm.benchmark.ranks import average_ranks
from flashmm.inference.adjustment import adjust_p_values
from flashmm.names import listed
from flashmm.options import InputError, note

ALL = "all"


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


def refuse_unassigned(types: Mapping[str, str | None], cell_type: str) -> None:
    """Raise an InputError where a contrast does not tell its cell type."""
    unassigned = [contrast for contrast, found in types.items() if found is None]
    if unassigned:
        raise InputError(
            f"table: contrasts {listed(unassigned, 5)} do not say which cell type's effect they "
            "test, so the truth cannot be looked up. Leave them out, name them like a coefficient, "
            f"'{cell_type}[B cells]:condition[T.stim]', or give contrast_map={{contrast: type}}."
        )


# ----------------------------------------------------------------------------------------------
# Tests with their truth


def prepare_tests(
    table: pd.DataFrame,
    truth: pd.DataFrame | None,
    contrast_map: Mapping[str, str] | None,
    cell_type: str,
    group: str | None,
    notes: list[str],
) -> pd.DataFrame:
    """Make one row per test: gene (code), level, contrast, p, score, local, global, de, status."""
    require_columns(table, ["gene", "contrast", "p_value", *([group] if group else [])], "table")
    keys = keys_of_tests(table, cell_type)
    refuse_duplicates(table, ["gene", *keys], "table")
    p = table["p_value"].to_numpy(dtype=float)
    if ((p < 0) | (p > 1)).any():
        raise InputError("table: column 'p_value' holds values outside [0, 1]; give p-values.")
    contrast, score = table["contrast"].astype(str), _score(table, p)
    level = table[cell_type].astype(str).to_numpy() if cell_type in keys else None
    tests = pd.DataFrame(
        {
            "gene_name": table["gene"].astype(str).to_numpy(),
            "gene": pd.factorize(table["gene"])[0],
            "level": ALL if level is None else level,
            "contrast": contrast.to_numpy(),
            "p": p,
            "score": score,
            "rank": average_ranks(score),
            "local": _local_adjusted(table, keys, p),
            "global": adjust_p_values(p),
            "status": table["status"].astype(str).to_numpy() if "status" in table else "unknown",
            "group": table[group].astype(str).to_numpy() if group else ALL,
        }
    )
    for name in ("conf_low", "conf_high"):
        tests[name] = table[name].to_numpy(dtype=float) if name in table else np.nan
    types = _types_of_levels(level, contrast_map, cell_type)
    if types is None:
        tests["cell_type"] = _types_of_contrasts(tests, truth, contrast_map, cell_type)
    else:
        tests["cell_type"] = types
    if truth is not None and len(truth):
        _note_gaps(tests, truth, notes)
    tests["de"] = False
    if truth is not None and len(truth):
        tests["de"] = tested_pairs(tests).isin(true_pairs(truth))
    return tests


def _score(table: pd.DataFrame, p: np.ndarray) -> np.ndarray:
    """Rank scores −log10 p, from `log10_p` where p underflows; −1 (last) where there is none."""
    with np.errstate(divide="ignore"):
        log10_p = np.log10(p)
    if "log10_p" in table:
        given = table["log10_p"].to_numpy(dtype=float)
        log10_p = np.where(np.isnan(given), log10_p, given)
    return np.where(np.isnan(p), -1.0, np.abs(log10_p))


def keys_of_tests(table: pd.DataFrame, cell_type: str = "cell_type") -> list[str]:
    """Columns that tell the tests of a gene apart.

    Parameters
    ----------
    table : DataFrame
        Tests; those of one model per cell type have a column with the cell type.
    cell_type : str
        Name of that column.

    Returns
    -------
    list of str
        `cell_type` where there is such a column, and "contrast".
    """
    return [*([cell_type] if cell_type in table else []), "contrast"]


def _local_adjusted(table: pd.DataFrame, keys: list[str], p: np.ndarray) -> np.ndarray:
    if "adj_p_value" in table:
        return table["adj_p_value"].to_numpy(dtype=float)
    return adjust_per_contrast(p, table.groupby(keys, sort=False).ngroup())


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
    adjusted = np.full(len(p), np.nan)
    for rows in contrast.groupby(contrast.to_numpy()).indices.values():
        adjusted[rows] = adjust_p_values(p[rows])
    return adjusted


def _types_of_levels(
    level: np.ndarray | None, contrast_map: Mapping[str, str] | None, cell_type: str
) -> np.ndarray | None:
    """Cell type of every test where a column says it; None where there is no such column."""
    if level is not None and contrast_map:
        raise InputError(
            f"contrast_map: the table says in its column {cell_type!r} which cell type each row "
            "tests; leave the map out."
        )
    return level


def _types_of_contrasts(
    tests: pd.DataFrame,
    truth: pd.DataFrame | None,
    contrast_map: Mapping[str, str] | None,
    cell_type: str,
) -> pd.Series | str:
    """Cell type of every test by its contrast; without true pairs nobody asks."""
    if truth is None or truth.empty:
        return ""
    known = _true_types(truth)
    types = contrast_cell_types(
        tests["contrast"].unique(), known, contrast_map=contrast_map, cell_type=cell_type
    )
    refuse_unassigned(types, cell_type)
    return tests["contrast"].map(types)


def _true_types(truth: pd.DataFrame) -> list[str]:
    """Cell types in which something is true."""
    require_columns(truth, ["gene", "cell_type"], "truth")
    refuse_duplicates(truth, ["gene", "cell_type"], "truth")
    return list(dict.fromkeys(truth["cell_type"].astype(str)))


def _note_gaps(tests: pd.DataFrame, truth: pd.DataFrame, notes: list[str]) -> None:
    """Say what of the truth no test can find."""
    tested = set(tests["cell_type"])
    absent = [name for name in _true_types(truth) if name not in tested]
    if absent:
        notes.append(
            note(f"No contrast tests the effects in cell types {listed(absent)} of the truth.")
        )
    if not truth["gene"].astype(str).isin(tests["gene_name"]).any():
        notes.append(note("None of the truth's genes is in the table: every test counts as null."))


def tested_pairs(tests: pd.DataFrame) -> pd.MultiIndex:
    """Gene and cell type of every test."""
    return pd.MultiIndex.from_frame(tests[["gene_name", "cell_type"]])


def true_pairs(truth: pd.DataFrame) -> pd.MultiIndex:
    """Gene and cell type of every true effect."""
    return pd.MultiIndex.from_frame(truth[["gene", "cell_type"]].astype(str))


def add_effects(tests: pd.DataFrame, truth: pd.DataFrame | None) -> None:
    """Add a column with the true effect of every test, in the unit of the estimates."""
    if truth is None or (len(truth) and "log_fc" not in truth):
        raise InputError("truth: a column 'log_fc' is needed where same_unit is True.")
    tests["effect"] = 0.0
    if len(truth):
        effect = pd.Series(truth["log_fc"].to_numpy(dtype=float), index=true_pairs(truth))
        found = effect.reindex(tested_pairs(tests)).fillna(0.0)
        tests["effect"] = found.to_numpy()


def slices(
    tests: pd.DataFrame, group: str | None, pooled: bool = False
) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """Yield labels (group, cell_type, contrast) and tests.

    Everything first, then each contrast, of one cell type where cell types have models of their
    own; the same within each group.
    """
    strata = [(ALL, tests)]
    if group:
        strata += [(str(name), part) for name, part in tests.groupby("group", sort=True)]
    family = ["level", "contrast"]
    found = tests[family].drop_duplicates().itertuples(index=False, name=None)
    families: list[Any] = [] if pooled else list(found)
    for stratum, part in strata:
        yield {"group": stratum, "cell_type": ALL, "contrast": ALL}, part
        rows: dict[Any, Any] = part.groupby(family, sort=False).indices if families else {}
        for level, contrast in families:
            of_family = part.iloc[rows.get((level, contrast), [])]
            yield {"group": stratum, "cell_type": level, "contrast": contrast}, of_family


# ----------------------------------------------------------------------------------------------
# Checks of tables


def require_columns(frame: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    """Raise an InputError where a frame lacks columns."""
    missing = [column for column in columns if column not in frame]
    if missing:
        raise InputError(
            f"{name}: columns {listed(missing)} are missing; found {listed(frame.columns, 20)}."
        )


def refuse_duplicates(frame: pd.DataFrame, keys: list[str], name: str) -> None:
    """Raise an InputError where two rows have the same keys."""
    twice = frame[frame.duplicated(keys)]
    if len(twice):
        example = tuple(twice.iloc[0][keys])
        raise InputError(
            f"{name}: {len(twice)} rows repeat a pair of {listed(keys)}, for example {example}; "
            "keep one row each."
        )
