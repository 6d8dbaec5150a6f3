"""The table of ddf methods: schemas, guides and error texts say what it says; a row is enough."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import group_designs
import numpy as np
import pytest
import yaml
from scipy import stats

import flashmm as fm
from flashmm.inference import ddf
from flashmm.inference.ddf import DDF, DEFAULT_DDF, METHODS, DdfMethod, ddf_method
from flashmm.inference.plan import Tails, TestPlan, Tests
from flashmm.inference.screening import Screened
from flashmm.options import InputError, Status

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ROOT / "workflow" / "schemas"
# advice on the designs is not looked at here
pytestmark = pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")

FIXED = "~ 0 + cell_type + cell_type:condition"


def schema(name: str) -> dict:
    return yaml.safe_load((SCHEMAS / f"{name}.schema.yaml").read_text())


def fields_named(tree, name: str) -> list[dict]:
    """Every property of a schema with a name, however deep."""
    if isinstance(tree, list):
        return [found for item in tree for found in fields_named(item, name)]
    if not isinstance(tree, dict):
        return []
    own = [tree[name]] if isinstance(tree.get(name), dict) else []
    return own + [found for value in tree.values() for found in fields_named(value, name)]


def lists_of_ddf() -> list[tuple[str, list[str]]]:
    """Every enumeration of the schemas that names a ddf."""
    found = []
    for path in sorted(SCHEMAS.glob("*.yaml")):
        text = path.read_text()
        for field in fields_named({"all": yaml.safe_load(text)}, "all"):
            found += [(path.name, values) for values in enumerations(field) if set(values) & {*DDF}]
    return found


def enumerations(tree) -> list[list[str]]:
    if isinstance(tree, dict):
        own = [tree["enum"]] if isinstance(tree.get("enum"), list) else []
        return own + [e for value in tree.values() for e in enumerations(value)]
    return [e for item in tree for e in enumerations(item)] if isinstance(tree, list) else []


# --- one table ----------------------------------------------------------------------------------


def test_schemas_name_the_methods_of_the_table():
    found = lists_of_ddf()
    assert {name for name, _ in found} == {
        "config.schema.yaml",
        "methods.schema.yaml",
        "calibration_methods.schema.yaml",
    }
    for name, values in found:
        # tests of one model per type have a word before their name
        assert tuple(value for value in values if not value.startswith("per type, ")) == DDF, name


@pytest.mark.parametrize("name", ["methods", "calibration_methods"])
def test_descriptions_of_the_schemas_name_them_and_the_default(name):
    (field,) = fields_named(schema(name), "ddf")
    said, default = field["description"].split("; by default ")
    assert tuple(re.split(r",\s+", said.removeprefix("one of "))) == DDF
    defaults = dict.fromkeys(re.findall(r"[a-z][a-z0-9-]{4,}", default))
    assert set(defaults) <= set(DEFAULT_DDF.values()) and DEFAULT_DDF["REML"] in defaults


def test_guide_has_a_row_for_each_method():
    text = (ROOT / "docs" / "inference.md").read_text()
    table = text.split("| `ddf` | what it is | when |\n|---|---|---|\n")[1].split("\n\n")[0]
    assert table.splitlines() == [method.guide_row for method in METHODS]


def test_reference_of_the_configuration_names_each_method():
    rows = [
        line
        for line in (ROOT / "config" / "README.md").read_text().splitlines()
        if line.startswith("| `ddf` |")
    ]
    named, default = rows[0].split("|")[2:4]
    assert tuple(re.findall(r"`([a-z0-9-]+)`", named)) == DDF
    assert re.findall(r"`([a-z-]+)`", default) == list(DEFAULT_DDF.values())


@pytest.mark.parametrize("path", ["README.md", "docs/methods.md", "docs/inference.md"])
def test_guides_know_no_other_method(path):
    used = set(re.findall(r"ddf=\"([^\"]+)\"", (ROOT / path).read_text()))
    assert used and used <= set(DDF)


def test_docstring_names_each_method():
    text = fm.contrast_tests.__doc__
    assert [name for name in DDF if f'"{name}"' not in text] == []


def test_there_is_a_default_for_each_likelihood():
    assert DEFAULT_DDF == {"REML": "kenward-roger", "ML": "satterthwaite"}
    assert len(set(DDF)) == len(DDF) and list(DDF) == [method.name for method in METHODS]
    assert ddf_method(None, "ML") is ddf_method("satterthwaite")


def test_unknown_names_are_met_with_the_list():
    with pytest.raises(InputError, match=re.escape(", ".join(DDF))):
        ddf_method("welch")
    with pytest.raises(InputError, match="residual; found 'jackknife'"):
        ddf.row_tests(None, np.eye(1), "jackknife")


# --- needs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fit():
    groups = group_designs.groups_of(group_designs.crossed(8, 2), genes=12, seed=4)
    return group_designs.fit_groups(groups, FIXED, ("subject",))


@pytest.fixture(scope="module")
def ml_fit():
    groups = group_designs.groups_of(group_designs.crossed(8, 2), genes=12, seed=4)
    return group_designs.fit_groups(groups, FIXED, ("subject",), method="ML")


@pytest.mark.parametrize("method", METHODS, ids=DDF)
def test_each_row_tests_what_it_says(fit, ml_fit, method):
    table = fm.contrast_tests(fit, "condition", method.name)
    assert table.ddf == method.name and np.isfinite(table.p_value).all()
    assert (table.status != "").all()
    if method.needs_reml:
        with pytest.raises(InputError, match="REML"):
            fm.contrast_tests(ml_fit, "condition", method.name)
    else:
        assert np.isfinite(fm.contrast_tests(ml_fit, "condition", method.name).p_value).all()


@pytest.mark.parametrize("method", [m for m in METHODS if m.rows], ids=lambda m: m.name)
def test_rows_are_the_tests_of_the_table(fit, method):
    table = fm.contrast_tests(fit, "condition", method.name)
    rows = np.vstack([contrast.matrix for contrast in table.contrasts])
    for name, values in method.rows(fit, rows).items():
        np.testing.assert_allclose(values, getattr(table, name), rtol=1e-12)


# --- a method with its own p-values --------------------------------------------------------------


@pytest.fixture
def plain(monkeypatch):
    """A method of one more row: normal tests with limits, and a failure, of its own."""

    def test(plan: TestPlan, screened: Screened) -> Tests:
        fit, rows = screened.fit, np.vstack([c.basis for c in screened.contrasts])
        estimate = fit.coef @ rows.T
        std_error = np.sqrt(np.einsum("cp,gpq,cq->gc", rows, fit.cov, rows))
        z = estimate / std_error
        failed = np.zeros(screened.shape, dtype=bool)
        failed[1, 0] = True
        values = np.where(failed, np.nan, 2 * stats.norm.sf(np.abs(z)))
        tails = Tails(values, np.log10(values), estimate - std_error, estimate + std_error)
        return Tests(
            estimate,
            std_error,
            z,
            np.full_like(z, np.inf),
            {Status.ZERO_VARIANCE: failed},
            tails=tails,
            prior={"alternative": plan.alternative},
            notes=("said by the method",),
        )

    row = DdfMethod("plain", "normal tests", "never", test, moderates=False)
    monkeypatch.setattr(ddf, "METHODS", (*METHODS, row))
    return row


def test_one_row_makes_a_method(fit, plain):
    table = fm.contrast_tests(fit, "condition", plain.name, "less")
    z = table.estimate / table.std_error
    expected = 2 * stats.norm.sf(np.abs(z))
    expected[1, 0] = np.nan
    np.testing.assert_array_equal(table.p_value, expected)
    np.testing.assert_array_equal(table.conf_high, table.estimate + table.std_error)
    assert table.status[1, 0] == "zero_variance" and (table.status[2:] != "zero_variance").all()
    assert table.prior == {"alternative": "less"} and "said by the method" in table.notes
    # the adjustment is over the genes that have a test
    fine = np.delete(expected[:, 0], 1)
    np.testing.assert_allclose(
        np.delete(table.adj_p_value[:, 0], 1), stats.false_discovery_control(fine)
    )
    assert list(table.to_frame()) == list(fm.contrast_tests(fit, "condition").to_frame())


def test_a_method_that_shares_variances_is_not_moderated(fit, plain):
    with pytest.raises(InputError, match="moderate=True does not go with ddf='plain'"):
        fm.contrast_tests(fit, "condition", plain.name, moderate=True)


# --- statuses ------------------------------------------------------------------------------------


def test_every_status_has_a_sentence():
    assert all(status.sentence.endswith(".") for status in Status)
    assert Status.TOO_FEW_RELABELLINGS is Status.TOO_FEW_PERMUTATIONS
    text = (ROOT / "docs" / "model.md").read_text()
    groups = set(re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE))
    kinship = {"too_few_values", "not_identifiable", "unbounded", "zero_variance"}
    assert set(Status) - groups <= kinship


def test_rare_genes_have_no_test_and_do_not_count(fit):
    status = fit.status.astype(object)
    status[:3] = Status.LOW_EXPRESSION
    coef = np.where((status == Status.LOW_EXPRESSION)[:, None], np.nan, fit.coef)
    status = status.astype(str)
    table = fm.contrast_tests(replace(fit, status=status, coef=coef), "condition", "residual")
    assert (table.status[:3] == "low_expression").all() and np.isnan(table.p_value[:3]).all()
    np.testing.assert_allclose(
        table.adj_p_value[3:, 0], stats.false_discovery_control(table.p_value[3:, 0])
    )
