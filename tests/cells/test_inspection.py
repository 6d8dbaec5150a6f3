"""What a file holds and can be asked: values, roles, arms, pairs, confounding."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import flashmm as fm
from flashmm.cells.counts import open_counts


def cells(n_subjects=6, paired=False, **more):
    """Counts of three genes of few cells of each subject, with a batch for each condition."""
    rng = np.random.default_rng(0)
    subject = np.repeat(np.arange(n_subjects), 8)
    arm = np.tile([0, 1], len(subject) // 2) if paired else subject % 2
    obs = pd.DataFrame(
        {
            "donor": [f"D{s}" for s in subject],
            "disease": np.where(arm == 1, "sick", "healthy"),
            "batch": np.where(subject % 2 == 1, "b1", "b2"),
            "age": 30 + subject,
            **more,
        },
        index=[f"c{i}" for i in range(len(subject))],
    )
    counts = rng.poisson(np.geomspace(0.5, 20, 6), (len(subject), 6)) + 1
    return ad.AnnData(sp.csr_array(counts.astype(np.float32)), obs=obs)


def test_roles_arms_and_confounding_are_found():
    found = fm.check(cells())
    assert found.roles == {"subject": "donor", "condition": "disease", "within": None}
    row = found.design.iloc[0]
    assert (row["subjects[sick]"], row["subjects[healthy]"], row["df"]) == (3, 3, 4)
    assert found.askable and not found.paired
    assert any("'batch' is confounded with 'disease'" in text for text in found.findings)
    assert not any("'age' is confounded" in text for text in found.findings)
    assert set(found.columns.query("of == 'subject'")["column"]) >= {"disease", "age"}


def test_pairs_have_one_df_less_than_they_are():
    found = fm.check(cells(paired=True))
    assert found.paired and found.design["pairs"][0] == 6 and found.design["df"][0] == 5


def test_what_is_given_is_checked():
    with pytest.raises(fm.InputError, match="subject='donr' is not a column of obs; did you mean"):
        fm.check(cells(), subject="donr")
    with pytest.raises(fm.InputError, match="reference='well' is not a level"):
        fm.check(cells(), reference="well")
    with pytest.raises(fm.InputError, match="A configuration needs a file"):
        fm.check(cells()).config()


def test_names_that_come_twice_are_problems():
    data = cells()
    data.var_names = ["A", "A", "B", "C", "D", "E"]
    found = fm.check(data)
    assert "duplicate_genes=" in found.problems[0] and not found.askable


def normalised(data, inverse=lambda x: x):
    made = data.copy()
    totals = np.asarray(made.X.sum(1)).ravel()
    made.X = made.X.astype(np.float32)
    made.X.data = inverse(made.X.data * np.repeat(1e4 / totals, np.diff(made.X.indptr)))
    return made


def test_labels_that_were_numbered_are_said():
    data = cells()
    data.obs["disease"] = (data.obs["disease"] == "sick").astype(int)
    found = fm.check(data)
    assert any("'disease' holds the numbers '0', '1'" in text for text in found.findings)
    data.uns["disease_categories"] = np.array(["healthy", "sick"])
    assert fm.check(data).design["comparison"][0] == "sick vs healthy"


KINDS = {
    "counts": lambda data: data,
    "normalised counts": normalised,
    "logarithms of normalised counts": lambda data: normalised(data, np.log1p),
    "corrected counts": lambda data: ad.AnnData(
        sp.csr_array(
            data.X.toarray() - np.where(np.arange(6) % 2, 0.37 * data.X.toarray() ** 0.3, 0)
        ),
        obs=data.obs,
    ),
    "scaled values": lambda data: ad.AnnData(data.X.toarray() - 3.3, obs=data.obs),
}


def smoothed(values):
    """Means of three cells, as imputation makes them."""
    return np.asarray(values[:-2] + values[1:-1] + values[2:]) / 3


AWKWARD = {
    "soup": (lambda y, t: np.maximum(y - 0.1 * y.mean(0) * t / t.mean(), 0), "corrected counts"),
    "shared reads": (lambda y, t: y + (y > 3) / 3, "corrected counts"),
    "square roots": (lambda y, t: np.sqrt(y), "values"),
    "imputed logarithms": (lambda y, t: smoothed(np.log1p(1e4 * y / t)), "values"),
    "log10": (lambda y, t: np.log10(1 + 1e4 * y / t), "values"),
    "log1p of counts": (lambda y, t: np.log1p(y), "logarithms of normalised counts"),
}


@pytest.mark.parametrize("layout", [sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize("kind", AWKWARD)
def test_values_that_are_nearly_others(kind, layout):
    make, expected = AWKWARD[kind]
    rng = np.random.default_rng(1)
    counts = rng.poisson(rng.gamma(0.5, 4.0, 80) * rng.gamma(4, 0.25, (300, 1))).astype(float)
    counts[:, 0] += 60  # there is a gene of many counts in every real matrix
    made = make(counts, counts.sum(1, keepdims=True))
    with open_counts(ad.AnnData(layout(made))) as source:
        assert source.looks_like() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_recognised(kind):
    with open_counts(KINDS[kind](cells())) as source:
        assert source.looks_like() == kind


@pytest.mark.parametrize("where", ["memory", "file"])
def test_counts_in_raw_are_found_and_read_by_name(tmp_path, where):
    whole = cells()
    data = normalised(whole, np.log1p)[:, :4].copy()
    data.raw = whole
    if where == "file":
        data.write_h5ad(tmp_path / "raw.h5ad")
        data = tmp_path / "raw.h5ad"
    with pytest.raises(fm.InputError, match=r"logarithms of normalised counts.*layer='raw'"):
        fm.summarise(data, by="donor")
    groups = fm.summarise(data, by="donor", layer="raw")
    np.testing.assert_array_equal(groups.counts, fm.summarise(whole, by="donor").counts)
    assert list(groups.genes) == list(whole.var_names)
    assert fm.check(data).layer == "raw"


def test_a_layer_named_raw_goes_before_the_attribute():
    data = cells()
    data.raw = data
    data.layers["raw"] = data.X * 2
    assert fm.summarise(data, by="donor", layer="raw").counts.sum() == 2 * data.X.sum()


def test_cells_without_columns_ask_for_a_table():
    data = cells()
    data.obs = data.obs[[]]
    found = fm.check(data)
    assert len(found.problems) == 1 and "with obs=" in found.problems[0]


def test_samples_of_the_same_people_are_said():
    data = cells()
    data.obs["sample"] = data.obs["donor"] + np.tile(["a", "b"], data.n_obs // 2)
    found = fm.check(data, subject="sample")
    assert any("samples of the same donor are not independent" in x for x in found.findings)
    assert not any("not independent" in x for x in fm.check(data).findings)


def test_a_number_is_asked_as_a_slope():
    found = fm.check(cells(), condition="age")
    assert list(found.design["comparison"]) == ["slope of age"] and found.reference is None
    assert found.design["df"][0] == 4 and found.askable  # six subjects, two coefficients
    within = fm.check(cells(dose=np.tile([0.0, 1.0, 2.0, 3.0], 12)), condition="dose")
    assert within.paired and within.design["df"][0] == 5


def test_missing_values_of_a_role_are_said():
    data = cells()
    data.obs.loc["c3", "disease"] = np.nan
    assert any("1 of 48 cells have no value of 'disease'" in x for x in fm.check(data).findings)


def test_a_column_has_one_role_and_a_plain_name():
    problems = fm.check(cells(), subject="disease").problems
    assert any("is given as subject= and as condition=" in text for text in problems)
    data = cells(**{"time point": "t1"})
    assert any("such as 'time_point'" in x for x in fm.check(data, within="time point").problems)
