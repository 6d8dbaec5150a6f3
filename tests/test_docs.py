"""The code in the documents runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import flashmm as fm

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = {
    path.name: blocks
    for path in DOCUMENTS
    if (blocks := re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL))
}


@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")  # few genes, one variance
@pytest.mark.parametrize("document", BLOCKS)
def test_code_runs(document, tmp_path, monkeypatch, capsys):
    """The blocks of a document run one after another, as its reader would run them."""
    # a prior of the variance ratios needs more genes
    n_genes, n_cells = (90, 800) if document == "inference.md" else (20, 400)
    spec = fm.SimulationSpec(n_genes=n_genes, n_cells=n_cells, n_subjects=10, n_cell_types=2)
    adata = fm.simulate_counts(spec, seed=1, path=tmp_path / "cells.h5ad").adata
    (tmp_path / "hallmark.gmt").write_text("\t".join(["some", "", *adata.var_names[:30]]))
    adata.file.close()
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for number, code in enumerate(BLOCKS[document]):
        exec(compile(code, f"{document}, block {number}", "exec"), names)
    assert "fm" in names


def test_links_lead_somewhere():
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "config" / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_plan_of_the_package_has_every_room():
    plan = (ROOT / "docs" / "architecture.md").read_text()
    rooms = {path.parent.name for path in (ROOT / "flashmm").glob("*/__init__.py")}
    assert set(re.findall(r"^\*\*`(\w+)/`\*\*", plan, re.MULTILINE)) == rooms
    picture = plan[plan.index("```mermaid") : plan.index("## Room by room")]
    assert set(re.findall(r"(\w+)/", picture)) == rooms


def test_what_contributors_are_sent_to_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"`((?:flashmm|tests|config|docs|workflow)/[\w./]*)`", text)
    missing = {path for path in paths if not (ROOT / path).exists()}
    assert not missing
