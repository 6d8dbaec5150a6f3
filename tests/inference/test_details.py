"""What a table of tests rests on: fold changes, who was compared, all tests adjusted together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import flashmm as fm
from flashmm.inference.table import adjust_p_values

pytestmark = pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
COLUMNS = (
    *("comparison", "log2_fc", "log2_fc_low", "log2_fc_high", "mean_expression"),
    *("fraction_expressing", "n_subjects", "adj_p_global"),
)


def test_columns_stand_beside_the_tests(table):
    frame = table.to_frame(details=True)
    assert set(COLUMNS) <= set(frame) and len(frame) == 160
    assert (frame["comparison"] == "B vs A").all() and (frame["n_subjects"] == 8).all()
    np.testing.assert_allclose(frame["adj_p_global"], adjust_p_values(frame["p_value"].to_numpy()))
    ok = frame["log2_fc"].notna()
    assert (frame["log2_fc_low"][ok] <= frame["log2_fc"][ok]).all()
    found = frame["adj_p_value"] < 0.01
    assert found.sum() >= 5
    assert (np.sign(frame["log2_fc"][found]) == np.sign(frame["estimate"][found])).all()


def test_shrunken_fold_changes_and_pertpys_names(table):
    frame = table.to_frame("pertpy", details=True, shrink=True)
    assert {"log_fc", "estimate", "log2_fc_shrunken", "false_sign_rate"} <= set(frame)
    plain = table.to_frame(details=True)
    np.testing.assert_array_equal(frame["log_fc"], plain["log2_fc"])
    with pytest.raises(fm.InputError, match="goes with details=True"):
        table.to_frame(shrink=True)


def test_a_level_without_a_fit_has_rows_without_details(table):
    fits = table.tested
    lone, *others = fits.levels
    some = replace(
        fits, fits={level: fits[level] for level in others}, refused={lone: "too few subjects"}
    )
    frame = fm.contrast_tests(some, ("condition", "B", "A")).to_frame(details=True)
    own = frame["cell_type"] == lone
    assert frame.loc[own, "log2_fc"].isna().all() and (frame.loc[own, "comparison"] == "").all()
    assert frame.loc[~own, "log2_fc"].notna().any()


def test_a_table_without_its_fit_says_so(table):
    with pytest.raises(fm.InputError, match="needs the fit"):
        replace(table, tested=None).to_frame(details=True)
