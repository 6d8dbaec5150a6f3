"""Numbers of two methods side by side, their units and what is missing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from flashmm.benchmark import (
    compare_fits,
    fit_frame,
    pair_fits,
)
from flashmm.options import InputError


def fits(loglik=(-10.0, -20.0, -30.0), scale=1.0) -> list[pd.DataFrame]:
    genes = ["a", "b", "c"]
    tests = pd.DataFrame(
        {
            "gene": genes,
            "contrast": "x",
            "estimate": [1.0, 2.0, 3.0],
            "std_error": np.array([0.1, 0.2, 0.4]) * scale,
            "p_value": [0.5, 0.01, np.nan],
        }
    )
    theta = {"theta:subject": [0.0, 1.0, 3.0], "theta:residual": [1.0, 1.0, 1.0]}
    return [tests, pd.DataFrame({"gene": genes, "loglik": loglik, **theta})]


def test_a_method_agrees_with_itself():
    frame = compare_fits(fits(), fits())
    assert list(frame.quantity) == ["estimate", "std_error", "p_value", "theta", "loglik"]
    assert (frame["max"] == 0).all() and (frame.scaled_max == 0).all()
    assert frame.set_index("quantity").ours_higher["loglik"] == 0
    assert frame.set_index("quantity").neither["p_value"] == 1


def test_differences_are_given_in_their_units():
    ours, reference = fits(), fits(scale=2.0)
    ours[0]["estimate"] += 0.1
    ours[1]["theta:subject"] += 0.5
    frame = compare_fits(ours, reference).set_index("quantity")
    assert frame.loc["estimate", "max"] == pytest.approx(0.1)
    assert frame.loc["estimate", "scaled_max"] == pytest.approx(0.1 / 0.2)
    assert frame.loc["std_error", "scaled_median"] == pytest.approx(0.5)
    # total variances of the reference are 1, 2 and 4
    assert frame.loc["theta", "scaled_max"] == pytest.approx(0.5 / 1)
    assert frame.loc["theta", "n"] == 6


def test_higher_likelihoods_are_counted():
    ours = fits(loglik=(-9.0, -20.0, -30.25))
    frame = compare_fits(ours, fits()).set_index("quantity")
    row = frame.loc["loglik"]
    assert (row.ours_higher, row.reference_higher, row.ours_gain, row.reference_gain) == (
        1, 1, 1.0, 0.25,
    )  # fmt: skip
    assert pd.isna(frame.ours_higher["theta"])


def test_genes_without_a_fit_are_counted_not_dropped():
    reference = fits(loglik=(-10.0, np.nan, -30.0))
    row = compare_fits(fits(), reference).set_index("quantity").loc["loglik"]
    assert (row.n, row.ours_only, row.reference_only, row.neither) == (2, 1, 0, 0)
    assert row.ours_higher == 0


def test_coefficients_and_contrasts_of_one_name_are_paired():
    reference = fits()[0].rename(columns={"contrast": "coefficient"})
    pairs = pair_fits(fits()[0], reference.iloc[:2])
    assert set(pairs.gene) == {"a", "b"}
    assert (pairs.difference.dropna() == 0).all()


def test_fits_with_nothing_in_common_are_refused():
    other = fits()[0].assign(gene=["x", "y", "z"])
    with pytest.raises(InputError, match="in both"):
        pair_fits(fits()[0], other)
    with pytest.raises(InputError, match="none holds"):
        pair_fits(fits()[0][["gene", "contrast"]], other)


def test_fit_frame_names_the_components():
    fit = SimpleNamespace(
        genes=pd.Index(["a", "b"]),
        status=np.array(["ok", "boundary"]),
        loglik=np.array([1.0, 2.0]),
        theta=np.array([[0.1, 1.0], [0.0, 2.0]]),
        components=("subject", "residual"),
    )
    frame = fit_frame(fit)
    assert list(frame) == ["gene", "status", "loglik", "theta:subject", "theta:residual"]
    assert frame["theta:residual"].tolist() == [1.0, 2.0]
