"""The report: one page from the files of a run, and the words and numbers on it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from pages import HOSTILE, counts

from flashmm.cells.summary import summarise
from flashmm.design.from_groups import summary_statistics
from flashmm.inference.testing import DEFAULT_WITHIN, contrast_tests
from flashmm.io.fits import write_fit
from flashmm.io.groups import write_groups
from flashmm.io.tables import write_table
from flashmm.lmm import fit_lmm
from flashmm.options import InputError
from flashmm.report import Inputs, Run, write_report
from flashmm.report import page as blocks
from flashmm.report.overview import left_over
from flashmm.report.run import _made as sections_made
from flashmm.storage.provenance import source_digest
from flashmm.subject_level.heritability import recover_heritability
from flashmm.subject_level.means import subject_means
from flashmm.subject_level.models import indicators, kinship_by_trait, multitrait_by_gene

FIXED = "~ 0 + cell_type + cell_type:condition"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A report of one method on real counts, made from files."""
    folder = tmp_path_factory.mktemp("report")
    by = ["subject", "cell_type", "condition"]
    groups = summarise(counts(), by)
    write_groups(groups, folder / "groups.h5ad")
    fit = fit_lmm(summary_statistics(groups, FIXED, ["subject", "subject:cell_type"]))
    write_fit(fit, folder / "fit.h5ad", folder / "groups.h5ad")
    tests = contrast_tests(fit, "condition").to_frame()
    write_table(tests, folder / "tests.parquet")
    (folder / "notes.txt").write_text("Something was decided.\n")
    (folder / "measured.json").write_text(
        json.dumps({"seconds": 0.5, "genes": 40, "peak_memory_mib": 100.0})
    )
    metrics = pd.DataFrame(
        {"dataset": "mine", "method": "subject", "metric": "lambda_gc", "value": [1.0, 1.5]}
    ).assign(contrast=list(tests["contrast"].unique()))
    write_table(metrics, folder / "metrics.parquet")
    run = {
        "dataset": "mine",
        "scenario": "mine",
        "replicate": None,
        "counts": ["mine.h5ad"],
        "method": "subject",
        "model": {
            "transform": "log2p1",
            "formulas": {"fixed": FIXED, "random": ["subject", "subject:cell_type"]},
            "options": {"method": "REML", "nonnegative": True},
            "ddf": None,
        },
        **{name: str(folder / f"{name}.h5ad") for name in ("groups", "fit")},
        "tests": str(folder / "tests.parquet"),
        "notes": str(folder / "notes.txt"),
        "measured": str(folder / "measured.json"),
    }
    config = {"seed": 1, "report": {"title": "A <title>", "top_genes": 30, "fdr": 0.05}}
    config["test"] = "condition"
    inputs = Inputs.of(
        folder / "figures",
        runs=[run],
        tables={"metrics": str(folder / "metrics.parquet")},
        scenarios={},
        config=config,
    )
    write_report(folder / "report.html", inputs)
    write_report(folder / "by-two.html", inputs, processes=2)
    return folder / "report.html"


CHART = r'<div class="interactive"><script type="application/json">(.*?)</script>'


def table_of_genes(text: str) -> dict:
    """What the script of the page reads for the first table of genes."""
    payload = re.search(r'<script type="application/json">(\{"columns".*?)</script>', text)
    return json.loads(payload[1])


def test_two_processes_make_the_same_page(page):
    one, two = (
        re.sub(r" on \d{4}-\d\d-\d\d \d\d:\d\d", "", page.with_name(name).read_text())
        for name in ("report.html", "by-two.html")
    )
    assert one == two


def test_page_loads_nothing(page):
    text = page.read_text()
    assert "default-src 'none'" in text
    assert not re.search(r'\b(?:src|href)="(?!data:|#)', text)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)


def test_names_of_others_are_text_only(page):
    text = page.read_text()
    assert "<img src=x" not in text
    assert "A &lt;title&gt;" in text
    assert "b &lt;c&gt;, d+" in text


def test_table_of_genes_holds_the_top_of_each_contrast(page):
    data = table_of_genes(page.read_text())
    assert [len(contrast["rows"]) for contrast in data["contrasts"]] == [30, 30]
    first = data["contrasts"][0]
    assert first["total"] == 39
    column = [column["key"] for column in data["columns"]].index("p_value")
    p = [row[column] for row in first["rows"]]
    assert p == sorted(p)
    assert len(first["rows"][0]) == len(data["columns"]) + 1
    assert any(row[0] == HOSTILE for contrast in data["contrasts"] for row in contrast["rows"])


def test_sections_of_an_analysis(page):
    text = page.read_text()
    assert re.findall(r'<section id="(\w+)"', text) == [
        "results",
        "performance",
        "run",
        "fits",
        "notes",
        "provenance",
    ]
    assert "Something was decided." in text
    assert "all_zero" in text
    assert "the value zero, so there is nothing to fit" in text


def test_figures_are_kept_as_svg_and_png(page):
    svg = {path.stem for path in (page.parent / "figures").glob("*.svg")}
    png = {path.stem for path in (page.parent / "figures").glob("*.png")}
    # volcano plots of both contrasts are files only; the page has them in one chart
    assert svg == png and len(svg) == 7
    assert page.read_text().count("<figure>") == 5


def test_provenance_is_kept_beside_the_page(page):
    said = json.loads((page.parent / "provenance.json").read_text())
    assert said["source"] == source_digest()
    assert said["config"]["seed"] == 1
    assert [len(record["digest"]) for record in said["inputs"]["mine"]] == [len("sha256:") + 64]


def test_a_missing_file_is_named(page):
    run = Run("d", "s", None, [], "m", {}, "nowhere.h5ad", "", "", "", "")
    inputs = Inputs((run,), {}, {}, {}, page.parent)
    with pytest.raises(InputError, match=r"nowhere\.h5ad"):
        _ = inputs.groups


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_of_a_section_is_the_same_in_a_process(processes, tmp_path):
    inputs = Inputs((), {"metrics": str(tmp_path / "nowhere.parquet")}, {}, {}, tmp_path)
    with pytest.raises(InputError, match=r"nowhere\.parquet"):
        sections_made([lambda: iter([inputs.table("metrics")])] * 2, inputs, processes)


def test_paths_of_a_job_are_where_its_files_lie():
    run = {"dataset": "d", "scenario": "d", "replicate": None, "method": "m", "measured": "m.json"}
    run |= {"groups": "g.h5ad", "fit": "f.h5ad", "tests": "t.parquet", "notes": "n.txt"}
    files = ["c.h5ad", "g.h5ad", "f.h5ad", "t.parquet", "n.txt", "m.json", "e.parquet"]
    params = {
        "files": files,
        "runs": [run | {"counts": ["c.h5ad"], "model": {"ddf": "residual"}}],
        "tables": {"metrics": "e.parquet"},
        "related": {},
        "scenarios": {"d": {}},
        "config": {"seed": 1},
    }
    job = SimpleNamespace(
        params=Parameters(params),
        input=SimpleNamespace(files=[f"bucket/{path}" for path in files]),
        output=SimpleNamespace(figures="figures"),
    )
    inputs = Inputs.from_job(job)
    found = inputs.runs[0]
    assert found.counts == ["bucket/c.h5ad"] and found.groups == "bucket/g.h5ad"
    assert found.model == {"ddf": "residual"} and found.reference is None
    assert inputs.tables == {"metrics": "bucket/e.parquet"}
    assert (inputs.config, inputs.figures) == ({"seed": 1}, Path("figures"))


class Parameters(dict):
    """Names as keys and as attributes, as a job of the workflow has them."""

    __getattr__ = dict.__getitem__


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (np.nan, "–"),
        (pd.NA, "–"),
        (True, "yes"),
        (np.int64(12345), "12,345"),
        (0.0, "0"),
        (0.05, "0.05"),
        (1234.5678, "1,235"),
        (2.5e-7, "2.50e-07"),
        ("a", "a"),
    ],
)
def test_cells_of_tables(value, text):
    assert blocks.cell(value) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.05234, 0.00412, "0.0523 ± 0.0041"),
        (1.2345, 0.2, "1.23 ± 0.20"),
        (0.5, 0.0, "0.500 ± 0.000"),
        (0.5, np.nan, "0.5"),
    ],
)
def test_numbers_with_errors(value, error, text):
    assert blocks.with_error(value, error) == text


# --- a model per cell type ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def typed(typed_page) -> str:
    return typed_page.read_text()


def test_models_per_cell_type_have_rows_and_figures_of_their_own(typed):
    assert "one per cell_type" in typed and DEFAULT_WITHIN in typed
    charts = [json.loads(text) for text in re.findall(CHART, typed)]
    volcano = next(chart for chart in charts if chart["choose"])
    assert [panel["title"] for panel in volcano["panels"]] == [
        "a: treated vs ctrl",
        "b <c>, d+: treated vs ctrl",
    ]
    assert "b &lt;c&gt;, d+: treated vs ctrl" in typed
    assert "Benjamini-Hochberg, per cell type" in typed


def test_the_comparison_is_said_in_words_and_numbers(typed):
    assert "Compared: treated vs ctrl (3 subjects ctrl, 3 subjects treated)." in typed
    assert 'class="caution">Few subjects: the smallest group has 3 subjects.' in typed
    cards = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", typed)
    assert cards[:3] == [
        ("subjects ctrl", "3"),
        ("subjects treated", "3"),
        ("cell types tested", "2"),
    ]
    found = int(dict(cards)["genes found at FDR 5%"])
    assert 5 <= found < 40 and f"{found} genes found, in " in typed


def test_expression_by_subject_is_that_of_the_groups(typed):
    text = re.search(r'<script type="application/json" id="expression[^>]*>(.*?)</script>', typed)
    data = json.loads(text[1])
    group = data["subject"].index("S1")
    cells = counts()
    chosen = (cells.obs["subject"] == "S1") & (cells.obs["cell_type"] == data["type"][group])
    values = cells.X.toarray()[chosen.to_numpy(), cells.var_names.get_loc("gene9")]
    mean = data["means"][data["genes"].index("gene9")][group]
    assert mean == pytest.approx(np.log2(1 + values).mean(), rel=1e-3)
    assert data["cells"][group] == chosen.sum()


def test_tests_that_earlier_runs_left_are_said(tmp_path):
    paths = [tmp_path / "tests" / name for name in ("mine/a.parquet", "mine/b.parquet")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    run = Run("mine", "mine", None, [], "a", {}, "", "", str(paths[0]), "", "")
    (said,) = left_over(Inputs((run,), {}, {}, {}, tmp_path))
    assert said.endswith("does not show: mine/b.")
    paths[1].unlink()
    assert list(left_over(Inputs((run,), {}, {}, {}, tmp_path))) == []


def test_what_boundary_means_is_said(typed):
    assert "Status “boundary” is fine" in typed


def test_status_is_counted_in_every_cell_type(typed):
    table = typed.split('aria-label="Genes by status"')[-1].split("</table>")[0]
    numbers = [int(n) for n in re.findall(r'class="n"[^>]*>(\d+)<', table)]
    assert sum(numbers) == 2 * 40


def test_genes_of_all_cell_types_are_listed_together(typed):
    data = table_of_genes(typed)
    assert [column["key"] for column in data["columns"]][:2] == ["gene", "cell_type"]
    assert [contrast["name"] for contrast in data["contrasts"]] == [
        "every cell type: treated vs ctrl",
        "a: treated vs ctrl",
        "b <c>, d+: treated vs ctrl",
    ]
    together = data["contrasts"][0]
    assert {row[1] for row in together["rows"]} == {"a", "b <c>, d+"}
    assert together["total"] == sum(contrast["total"] for contrast in data["contrasts"][1:])


# --- models between subjects -------------------------------------------------------------------


def stored(folder, result, names) -> dict[str, str]:
    """Tables of a result as files, as the rules write them."""
    folder.mkdir()
    for name in names:
        write_table(getattr(result, name), folder / f"{name}.parquet")
    (folder / "notes.txt").write_text("".join(f"{text}\n" for text in result.notes))
    found = {name: str(folder / f"{name}.parquet") for name in names}
    return found | {"notes": str(folder / "notes.txt")}


@pytest.fixture(scope="module")
def related(tmp_path_factory) -> str:
    """A page of nothing but models between subjects."""
    folder = tmp_path_factory.mktemp("related")
    means = subject_means(summarise(counts(), ["subject", "cell_type", "condition"]))
    family = pd.Series(list("aabbcc"), index=means.subjects, name="family")
    kinship = kinship_by_trait(means, indicators(family), "~ condition")
    genes = ["gene15", "zero", HOSTILE]
    joint = multitrait_by_gene(means, indicators(family), genes, "~ condition")
    recovered = recover_heritability(60, 3, (0.0, 1.0), n_markers=80, n_dense=1)
    # a study so small has notes of its own by chance only
    recovered = replace(recovered, notes=(*recovered.notes, "What was decided on the way."))
    names = ("heritability", "tests", "profiles")
    files = {
        "kinship": {"mine": stored(folder / "k", kinship, names)},
        "multitrait": {"mine": stored(folder / "m", joint, ("fits", "effects", "covariances"))},
        "heritability": {
            "simulated": stored(
                folder / "h", recovered, ("estimates", "summary", "dense", "profiles")
            )
        },
    }
    model = {"covariates": "~ condition", "method": "REML"}
    config = {
        "seed": 1,
        "report": {"title": "Related", "fdr": 0.05},
        "kinship": model,
        "multitrait": model | {"column": "family", "rank": 1},
        "heritability": {"individuals": 60, "markers": 80, "family_size": 5, "traits": 3},
    }
    path = folder / "report.html"
    inputs = Inputs.of(
        folder / "figures", runs=[], tables={}, scenarios={}, config=config, related=files
    )
    write_report(path, inputs)
    return path.read_text()


def test_sections_of_models_between_subjects(related):
    assert re.findall(r'<section id="(\w+)"', related) == [
        "kinship",
        "multitrait",
        "heritability",
        "fits",
        "notes",
        "provenance",
    ]
    assert related.count("<figure>") == 6
    assert HOSTILE not in related
    assert "simulated/heritability" in related


def test_what_a_joint_model_leaves_out_is_said(related):
    assert "Genes without a fit (1)" in related
    assert "zero: Trait" in related and "column family" in related


def test_recovered_heritabilities_are_shown(related):
    for title in ("Estimates", "Intervals and tests", "Agreement with a dense optimiser"):
        assert f"<strong>{title}.</strong>" in related
    assert "<dd>6</dd>" in related  # simulated traits
