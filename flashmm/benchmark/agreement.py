"""Agreement of two methods' numbers: side by side, and how far they are apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from flashmm.benchmark.truth import require_columns
from flashmm.names import listed
from flashmm.options import InputError, checked

LOGLIK_TIE = 1e-6  # log-likelihoods closer than this count as equal
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
        raise InputError(f"frames to compare: none holds any of the columns {listed(_COMPARED)}.")
    return pd.concat(parts, ignore_index=True)


def _long_parts(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    require_columns(frame, ["gene"], "frame to compare")
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


@checked
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
