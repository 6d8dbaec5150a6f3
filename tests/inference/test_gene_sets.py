"""Gene sets of a table: what is tested, found and refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import flashmm as fm

pytestmark = pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")


@pytest.fixture(scope="module")
def sets(table):
    """Genes that are up in the first cell type, others, and some that are not there."""
    order = table.genes[np.argsort(-table.statistic[:, 0])]
    return {"up": [*order[:8], "elsewhere"], "others": order[30:50], "few": order[:3]}


@pytest.mark.parametrize("correlation", [0.01, "estimated"])
def test_sets_of_each_cell_type(table, sets, correlation):
    found = fm.gene_set_tests(table, sets, correlation=correlation)
    assert list(found["gene_set"]) == ["up", "others", "few"] * 2
    assert list(found["cell_type"].unique()) == list(table.levels)
    first = found.iloc[0]
    assert (first["n_genes"], first["direction"], first["status"]) == (8, "up", "ok")
    assert first["p_value"] < found.iloc[1]["p_value"]
    few = found.iloc[2]
    assert few["status"] == "too_few_genes" and np.isnan(few["p_value"])
    assert pd.isna(few["direction"])
    fine = found["status"] == "ok"
    assert found.loc[fine, "p_value"].between(0, 1).all()


def test_a_one_sided_table_is_refused(table):
    one_sided = fm.contrast_tests(table.tested, ("condition", "B", "A"), alternative="less")
    with pytest.raises(fm.InputError, match="give a table of two-sided tests"):
        fm.gene_set_tests(one_sided, {"a": table.genes[:9]})


@pytest.mark.parametrize(
    ("sets", "options", "words"),
    [
        ({}, {}, "at least one set"),
        ({"a": "gene1"}, {}, "a dictionary of lists of texts; found .'a': 'gene1'."),
        ({"a": 3}, {}, "a dictionary of lists of texts; found .'a': 3."),
        ({"a": None}, {}, "found .'a': None."),
        ({"a": ["nothing"]}, {}, "none of their genes"),
        ({"a": ["gene1"]}, {"correlation": 1.0}, "correlation is from 0"),
        ({"a": ["gene1"]}, {"correlation": "camera"}, "found 'camera'"),
        ({"a": ["gene1"]}, {"min_genes": 0}, "min_genes"),
    ],
)
def test_what_is_refused(table, sets, options, words):
    with pytest.raises(fm.InputError, match=words):
        fm.gene_set_tests(table, sets, **options)
