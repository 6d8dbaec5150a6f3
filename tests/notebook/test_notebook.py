"""A table of tests in a notebook: representations, figures, words, AnnData and files."""

from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import flashmm as fm
from flashmm.shown import Shown

pytestmark = pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def cells():
    spec = fm.SimulationSpec(n_genes=60, n_cells=900, n_subjects=8, n_cell_types=2, n_de_genes=20)
    return fm.simulate_counts(spec, seed=2).adata


@pytest.fixture(scope="module")
def table(cells):
    formula = "~ log(libsize) + condition + (1|subject)"
    return fm.de(cells, formula, "condition", within="cell_type")


def test_genes_are_found_once_however_many_tests_find_them(table):
    hits = table.adj_p_value <= 0.05
    assert list(table.found()) == list(table.genes[hits.any(1)])
    assert f"{hits.any(1).sum()} genes found" in repr(table)
    assert table.facts()["type1: condition[T.B]"] == f"{hits[:, 0].sum()} genes found"
    with pytest.raises(fm.InputError, match="fdr is a rate"):
        table.found(5)


def test_top_is_the_head_of_the_sorted_table(table):
    found = table.top(3, level="type2")
    frame = table.to_frame().query("cell_type == 'type2'").sort_values("p_value")
    pd.testing.assert_frame_equal(found, frame.head(3))
    with pytest.raises(fm.InputError, match="level: 'type9' is not in the table; did you mean"):
        table.top(level="type9")


def test_wide_has_a_row_per_gene(table):
    wide = table.wide()
    np.testing.assert_array_equal(wide.to_numpy(), table.estimate)
    assert list(wide.columns) == ["type1", "type2"] and wide.index.name == "gene"
    both = table.wide("log2_fc", "p_value")
    np.testing.assert_array_equal(both["p_value"].to_numpy(), table.p_value)
    with pytest.raises(fm.InputError, match="'foo' is not a column"):
        table.wide("foo")


@pytest.mark.parametrize("name", ["volcano", "ma", "qq", "forest", "expression"])
def test_figures_show_themselves(table, name):
    of_gene = name in ("forest", "expression")
    arguments = (table.found()[0],) if of_gene else () if name == "qq" else (None, "type1")
    figure = getattr(table.plot, name)(*arguments)
    assert isinstance(figure, Figure) and figure._repr_png_().startswith(b"\x89PNG")


def test_expression_has_the_means_of_the_cells(table, cells):
    gene, figure = "gene60", table.plot.expression("gene60")
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["type1", "type2"]
    points = figure.axes[0].collections[0].get_offsets()
    own = cells[cells.obs["cell_type"] == "type1"]
    values = np.log2(1 + own[:, gene].X.toarray()[:, 0])
    means = pd.Series(values).groupby(own.obs["subject"].to_numpy()).mean()
    np.testing.assert_allclose(np.sort(points[:, 1]), np.sort(means.to_numpy()))


def test_what_is_not_chosen_or_not_there_is_said(table):
    with pytest.raises(fm.InputError, match="level: the table has 2; choose one of 'type1'"):
        table.plot.volcano()
    with pytest.raises(fm.InputError, match="gene: 'gene6x' is not in the table; did you mean"):
        table.plot.forest("gene6x")


def test_a_gene_in_words(table):
    gene = table.top(1, level="type1")["gene"].item()
    text = table.explain(gene)
    row = table.to_frame(details=True).query("gene == @gene and cell_type == 'type1'").iloc[0]
    first = text.split("\n\n")[0]
    assert first.startswith(f"{gene}, B vs A in cell_type type1: ")
    assert f"log2 fold change {row['log2_fc']:.3g}" in first and "found at a false" in first
    assert "subject" in first and repr(text) == str(text)


def test_one_subject_that_carries_a_gene_is_named():
    """A gene that is high in one treated subject only, by itself significant."""
    groups = fm.simulate_gaussian_groups(
        fm.SimulationSpec(
            distribution="gaussian",
            n_genes=3,
            n_cells=2000,
            n_subjects=12,
            n_cell_types=1,
            n_de_genes=0,
            subject_variance=0.001,
        ),
        seed=4,
    ).groups
    fit = fm.fit_lmm(fm.summary_statistics(groups, "~ condition", ["subject"]))
    tests = fm.contrast_tests(fit, "condition")
    found = fm.influence(fit, "condition", genes=["gene1"])
    text = tests.explain("gene1")
    carried = found.p_value[0, 0] < 0.05 <= np.nanmax(found.p_without)
    assert ("One subject carries it" in text) == carried
    assert ("No single subject carries it" in text) == (not carried)


def test_two_pairs_are_said_to_be_few():
    spec = fm.SimulationSpec(
        distribution="gaussian",
        n_genes=60,
        n_cells=400,
        n_subjects=2,
        n_cell_types=1,
        nested=False,
        n_de_genes=0,
        subject_variance=0.001,
    )
    groups = fm.simulate_gaussian_groups(spec, seed=4).groups
    terms = ["subject", "subject:condition"]
    fit = fm.fit_lmm(fm.summary_statistics(groups, "~ condition", terms))
    with pytest.warns(fm.FlashmmWarning, match="an order of candidates"):
        tests = fm.contrast_tests(fit, "condition", "empirical-bayes")
    said = tests.explain(tests.genes[0])
    assert "With 1 degree of freedom between subjects it rests on the variances" in said
    assert "too few subjects to leave one out" in said and "carries it" not in said


def test_a_gene_without_a_test_has_its_reason(table):
    status = table.status.astype(object)
    status[0, 0] = "low_expression"
    p = table.p_value.copy()
    p[0, 0] = np.nan
    changed = replace(table, status=status, p_value=p)
    assert "not tested (low_expression). The gene is expressed too little" in changed.explain(
        table.genes[0]
    )


def test_tests_in_an_anndata_survive_a_file(table, cells, tmp_path):
    adata = table.to_anndata(cells[:, ::-1].copy())
    assert adata.uns["flashmm"]["tests"] == [
        "flashmm:type1: condition[T.B]",
        "flashmm:type2: condition[T.B]",
    ]
    adata.write_h5ad(tmp_path / "with_tests.h5ad")
    back = ad.read_h5ad(tmp_path / "with_tests.h5ad")
    found = back.varm["flashmm:type1: condition[T.B]"].loc[table.genes, "p_value"]
    np.testing.assert_array_equal(found, table.p_value[:, 0])
    with pytest.raises(fm.InputError, match="none of the genes"):
        table.to_anndata(ad.AnnData(np.zeros((2, 2))))


@pytest.mark.parametrize("name", ["t.parquet", "t.tsv", "t.csv.gz"])
def test_tables_are_written_by_their_ending(table, tmp_path, name):
    table.write(tmp_path / name)
    sep = "\t" if "tsv" in name else ","
    read = fm.read_table if "parquet" in name else lambda p: pd.read_csv(p, sep=sep)
    np.testing.assert_allclose(read(tmp_path / name)["p_value"], table.to_frame()["p_value"])
    with pytest.raises(fm.InputError, match="written as"):
        table.write(tmp_path / "t.xlsx")


def test_records_show_short_texts_and_escaped_html(cells):
    cells = cells.copy()
    cells.var_names = [HOSTILE, *cells.var_names[1:]]
    cells.obs["cell_type"] = cells.obs["cell_type"].cat.rename_categories({"type1": HOSTILE})
    formula = "~ log(libsize) + condition + (1|subject)"
    table = fm.de(cells, formula, "condition", within="cell_type")
    fit = table.tested.fits["type2"]
    records = [
        *(table, table.tested, fit, fit.stats, fit.stats.groups, table.prior),
        *(fm.power(table, subjects=4, log2_fc=1), fm.check(cells), fm.variance_tests(fit)),
        *(fm.influence(fit, "condition"), fm.variance_explained(fit)),
        fm.simulate_counts(fm.SimulationSpec(n_genes=20, n_cells=90, n_subjects=4), seed=1),
    ]
    records[5] = next(iter(table.prior.values())) if table.prior else records[0]
    for record in records:
        assert isinstance(record, Shown)
        html = record._repr_html_()
        assert "<script>" not in html and html.startswith("<div>")
        assert len(repr(record)) < 1500, type(record)
    assert "&lt;script&gt;" in table._repr_html_()


def test_a_fit_is_a_table_of_genes(table):
    fit = table.tested["type1"]
    frame = fit.to_frame()
    np.testing.assert_array_equal(frame["coef[condition[T.B]]"], fit.coef[:, 2])
    np.testing.assert_array_equal(frame["variance[residual]"], fit.theta[:, -1])
    assert list(frame["gene"]) == list(fit.genes)
