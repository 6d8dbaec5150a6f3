"""Which cell type a contrast tests, from its name, a map or the truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tables_of_tests import CONTRASTS, TYPES, random_tests, table_of, truth_of

from flashmm.benchmark import (
    contrast_cell_types,
    evaluate,
)
from flashmm.options import FlashmmWarning, InputError


@pytest.mark.parametrize(
    ("contrast", "cell_type"),
    [
        ("cell_type[B cells]:condition[T.stim]", "B cells"),
        ("condition[T.stim]:cell_type[B cells]", "B cells"),
        ("cell_type[T.B cells]:condition[T.stim]", "B cells"),
        ("C(cell_type)[T.B cells]:condition[T.stim]", "B cells"),
        ("cell_type[CD4, T [naive]]:condition[T.a] ", "CD4, T [naive]"),
        ("cell_type[a:b]:condition[T.stim]", "a:b"),
        ("cell_type[B]:dose[T.2] - cell_type[B]:dose[T.1]", "B"),
        ("cell_type[A]:dose[T.2] - cell_type[B]:dose[T.2]", None),
        ("cell_type[B cells]", None),
        ("my_cell_type[B]:condition[T.stim]", None),
        ("cell_type[B:condition[T.stim", None),
        ("log(libsize)", None),
        ("(Intercept)", None),
    ],
)
def test_cell_type_is_read_from_the_coefficient(contrast, cell_type):
    assert contrast_cell_types([contrast]) == {contrast: cell_type}


def test_known_cell_types_settle_the_mark_of_treatment_coding():
    contrast = "cell_type[T.cells]:condition[T.stim]"
    assert contrast_cell_types([contrast], ["T.cells"])[contrast] == "T.cells"
    assert contrast_cell_types([contrast], ["B"])[contrast] == "cells"


def test_contrast_map_comes_first_then_names_of_known_types():
    types = contrast_cell_types(["B", CONTRASTS[0]], ["B"], contrast_map={CONTRASTS[0]: "other"})
    assert types == {"B": "B", CONTRASTS[0]: "other"}


def test_another_column_can_hold_the_cell_types():
    contrast = "louvain[3]:condition[T.stim]"
    assert contrast_cell_types([contrast], cell_type="louvain") == {contrast: "3"}


def test_contrast_without_cell_type_is_named_in_an_error():
    table = table_of([0.1, 0.2], "log(libsize)")
    with pytest.raises(InputError, match=r"log\(libsize\).*contrast_map"):
        evaluate(table, truth_of(["g0"]))


def test_contrast_without_cell_type_is_fine_when_every_pair_is_null():
    ev = evaluate(table_of([0.01, 0.2], "treatment"), truth_of([]))
    assert ev.value("fpr", 0.05) == 0.5


def test_contrast_map_gives_the_same_as_a_telling_name():
    table, truth = random_tests()
    renamed = table.assign(contrast=table.contrast.map(dict(zip(CONTRASTS, "abc", strict=True))))
    mapped = evaluate(renamed, truth, contrast_map=dict(zip("abc", TYPES, strict=True)))
    named = evaluate(table, truth)
    np.testing.assert_array_equal(mapped.metrics.value, named.metrics.value)


# --- one model per cell type: a column says the type ----------------------------------------------


def within_form(table, column="cell_type"):
    """The same tests as one model per cell type has them: equal contrasts, a column of types."""
    names = dict(zip(CONTRASTS, TYPES, strict=True))
    types = table["contrast"].map(names)
    return table.assign(contrast="condition[T.stim]", **{column: types})


def test_types_of_a_column_are_those_of_contrasts():
    table, truth = random_tests(3)
    joint, found = evaluate(table, truth), evaluate(within_form(table), truth)
    pooled = found.metrics[found.metrics["contrast"] == "all"]
    assert set(pooled["cell_type"]) == {"all"}
    expected = joint.metrics[joint.metrics["contrast"] == "all"]
    pd.testing.assert_frame_equal(
        pooled.drop(columns="cell_type").reset_index(drop=True), expected.reset_index(drop=True)
    )
    for contrast, cell_type in zip(CONTRASTS, TYPES, strict=True):
        for metric, level in (("fpr", 0.05), ("tpr", 0.05), ("lambda_gc", None), ("auc", None)):
            theirs = found.value(metric, level, "condition[T.stim]", cell_type)
            assert theirs == pytest.approx(joint.value(metric, level, contrast), nan_ok=True)
    assert set(found.curves["roc"]["cell_type"]) == {"all", *TYPES}


def test_column_of_types_may_have_another_name():
    table, truth = random_tests(4)
    named = evaluate(within_form(table, "louvain"), truth, cell_type="louvain")
    assert named.value("auc") == evaluate(table, truth).value("auc")


def test_a_contrast_twice_in_a_cell_type_is_refused():
    table = within_form(random_tests()[0])
    with pytest.raises(InputError, match=r"'gene', 'cell_type', 'contrast'"):
        evaluate(pd.concat([table, table.iloc[:1]]), truth_of([]))
    with pytest.raises(InputError, match="leave the map out"):
        evaluate(table, truth_of([]), contrast_map={"condition[T.stim]": "B cells"})


def test_types_without_tests_are_said():
    table = within_form(random_tests()[0])
    with pytest.warns(FlashmmWarning, match=r"effects in cell types 'NK'"):
        evaluate(table, truth_of(["g0"], "NK"))
