"""Counts of 10x with a table of the cells: checked before any rule, the numbers of an .h5ad."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cell_containers import study, write_10x

import flashmm as fm
from flashmm.workflow.cells_check import check_cells
from flashmm.workflow.plan import read_plan
from flashmm.workflow.sheet_files import ConfigError
from flashmm.workflow.sheets import Schemas
from flashmm.workflow.steps import summarise as step

SCHEMAS = Schemas.in_folder(Path(__file__).resolve().parents[2] / "workflow" / "schemas")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same cells as .h5ad, and as .h5 of 10x with a table."""
    path = tmp_path_factory.mktemp("containers")
    cells = study()
    write_10x(cells, path / "cells.h5")
    cells.write_h5ad(path / "cells.h5ad")
    cells.obs.to_csv(path / "cells.tsv", sep="\t")
    return path


def plan_of(counts, **more):
    methods = {"m": {"fixed": "~ log(libsize) + condition", "random": ["subject"]}}
    data = {"counts": str(counts), **{key: str(value) for key, value in more.items()}}
    by = ["subject", "condition"]
    return read_plan({"by": by, "methods": methods, "datasets": {"d": data}}, SCHEMAS)


def test_numbers_are_those_of_an_h5ad(files, tmp_path):
    made = {}
    for name, more in (("cells.h5", {"obs": files / "cells.tsv"}), ("cells.h5ad", {})):
        plan = plan_of(files / name, **more)
        check_cells(plan)
        given = SimpleNamespace(counts=plan.counts_of("d")[0], obs=plan.sheet_of("d", 0))
        out = SimpleNamespace(groups=tmp_path / f"{name}.g.h5ad", measured=tmp_path / "m.json")
        step.run(
            SimpleNamespace(input=given, output=out, params={"shard": None, **plan.datasets["d"]})
        )
        made[name] = fm.read_groups(out.groups)
    ours, expected = made.values()
    assert list(ours.genes) == list(expected.genes)
    np.testing.assert_array_equal(ours.sum, expected.sum)


def test_faults_are_said_before_any_rule(files):
    with pytest.raises(ConfigError, match=r"obs: cells\.tsv"):
        check_cells(plan_of(files / "cells.h5"))
    with pytest.raises(ConfigError, match=r"datasets: d: obs: .*no such file"):
        plan_of(files / "cells.h5", obs=files / "none.tsv")
    with pytest.raises(ConfigError, match="one of error, sum, unique"):
        plan_of(files / "cells.h5", obs=files / "cells.tsv", duplicate_genes="first")
    with pytest.raises(ConfigError, match=r"nothing"):
        check_cells(plan_of(files / "cells.h5", obs=files / "cells.tsv", gene_names="nothing"))
