"""The code in the documents runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import flashmm as fm

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = [
    pytest.param(code, id=f"{path.name}-{number}")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("code", BLOCKS)
def test_code_runs(code, tmp_path, monkeypatch, capsys):
    spec = fm.SimulationSpec(n_genes=20, n_cells=400, n_subjects=6, n_cell_types=2)
    fm.simulate_counts(spec, seed=1, path=tmp_path / "cells.h5ad").adata.file.close()
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, "document", "exec"), names)
    assert "fm" in names


def test_links_lead_somewhere():
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "config" / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
