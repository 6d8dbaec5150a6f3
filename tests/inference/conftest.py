"""A table of tests of models per cell type, for the tests of what is made from it."""

from __future__ import annotations

import pytest

import flashmm as fm


@pytest.fixture(scope="session")
def table() -> fm.TestTable:
    spec = fm.SimulationSpec(
        n_genes=80,
        n_cells=2400,
        n_subjects=8,
        n_cell_types=2,
        n_de_genes=20,
        min_log_fc=1.5,
        max_log_fc=2.0,
    )
    adata = fm.simulate_counts(spec, seed=5).adata
    formula = "~ log(libsize) + condition + (1|subject)"
    return fm.de(adata, formula, ("condition", "B", "A"), within="cell_type")
