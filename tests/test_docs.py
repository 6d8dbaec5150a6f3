"""The code in the documents runs as it stands there."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from textwrap import dedent

import pytest

import flashmm as fm

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
DOCUMENTS = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCKS = {
    str(path.relative_to(DOCS if DOCS in path.parents else ROOT)): blocks
    for path in DOCUMENTS
    if (blocks := re.findall(r"^ *```python\n(.*?)```", path.read_text(), re.DOTALL | re.MULTILINE))
}
SCRIPTS = [path for path in sorted((DOCS / "notebooks").glob("*.py")) if path.name != "run.py"]


@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")  # few genes, one variance
@pytest.mark.parametrize("document", BLOCKS)
def test_code_runs(document, tmp_path, monkeypatch, capsys):
    """The blocks of a document run one after another, as its reader would run them.

    The counts are small, and permutations few.
    """
    # a prior of the variance ratios needs more genes
    n_genes, n_cells = (60, 500) if document == "inference.md" else (20, 400)
    spec = fm.SimulationSpec(n_genes=n_genes, n_cells=n_cells, n_subjects=10, n_cell_types=2)
    adata = fm.simulate_counts(spec, seed=1, path=tmp_path / "cells.h5ad").adata
    (tmp_path / "hallmark.gmt").write_text("\t".join(["some", "", *adata.var_names[:30]]))
    adata.file.close()
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for number, block in enumerate(BLOCKS[document]):
        code = re.sub(r"\bn_permutations=\d+", "n_permutations=19", block)
        exec(compile(dedent(code), f"{document}, block {number}", "exec"), names)
    assert "fm" in names


@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning", "ignore::UserWarning:anndata")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_notebooks_run(script, tmp_path, monkeypatch, capsys):
    """The cells of a notebook, on fewer cells and genes than it shows."""
    text = script.read_text()
    for size, number in {"n_genes": 60, "n_de_genes": 12, "n_cells": 800}.items():
        text = re.sub(rf"\b{size}=\d+", f"{size}={number}", text)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(text, script.name, "exec"), names)
    assert "fm" in names


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_notebooks_show_what_their_scripts_say(script):
    """`make site` executes a notebook anew where its script has changed."""
    cells = json.loads(script.with_suffix(".ipynb").read_text())["cells"]
    kinds = re.split(r"^# %%(.*)\n", script.read_text(), flags=re.MULTILINE)[1::2]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    held = ["".join(cell["source"]).strip() for cell in code]
    texts = re.split(r"^# %%.*\n", script.read_text(), flags=re.MULTILINE)[1:]
    assert held == [
        text.strip() for kind, text in zip(kinds, texts, strict=True) if "markdown" not in kind
    ]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [out for cell in code for out in cell["outputs"] if out["output_type"] == "error"]


def test_links_lead_somewhere():
    for path in [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "config" / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tables_have_as_many_cells_as_headings(document):
    """A table of other widths is shown as text with bars, here and where the repository lies."""
    lines = document.read_text().splitlines()
    for head, rule in pairwise(lines):
        if re.fullmatch(r"\|[\s:|-]*---[\s:|-]*\|", rule):
            widths = [len(re.sub(r"\\\|", "", line).split("|")) for line in (head, rule)]
            assert widths[0] == widths[1], head


def test_the_plan_of_the_package_has_every_room():
    plan = (ROOT / "docs" / "architecture.md").read_text()
    rooms = {path.parent.name for path in (ROOT / "flashmm").glob("*/__init__.py")}
    assert set(re.findall(r"^\*\*`(\w+)/`\*\*", plan, re.MULTILINE)) == rooms
    picture = (ROOT / "docs" / "rooms.svg").read_text()
    assert set(re.findall(r">(\w+)/<", picture)) == rooms


def test_what_contributors_are_sent_to_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"`((?:flashmm|tests|config|docs|workflow)/[\w./]*)`", text)
    missing = {path for path in paths if not (ROOT / path).exists()}
    assert not missing
