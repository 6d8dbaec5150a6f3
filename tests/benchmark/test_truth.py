"""Which cell type a contrast tests, from its name, a map or the truth."""

from __future__ import annotations

import numpy as np
import pytest
from tables_of_tests import CONTRASTS, TYPES, random_tests, table_of, truth_of

from flashmm.benchmark import (
    contrast_cell_types,
    evaluate,
)
from flashmm.options import InputError


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
