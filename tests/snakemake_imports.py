"""What runs of Snakemake and their jobs do first, done once: `snakemake_runs` forks from it."""

# ruff: noqa: E402
from __future__ import annotations

import gc

gc.disable()  # modules are no garbage, and many

from importlib import import_module

import pyarrow.dataset  # noqa: F401
import pytest
import smart_open  # noqa: F401
import snakemake.iocontainers
import snakemake.report.html_reporter  # noqa: F401
import statsmodels.regression.mixed_linear_model  # noqa: F401
from coarse_figures import draw_coarsely
from snakemake.cli import get_argument_parser

import flashmm.workflow.jobs
import flashmm.workflow.plan  # noqa: F401
from flashmm import plots
from flashmm.storage.provenance import PACKAGE, source_digest
from flashmm.workflow.worker import make_numba_ready

for step in (PACKAGE / "workflow" / "steps").glob("[a-z]*.py"):
    import_module(f"flashmm.workflow.steps.{step.stem}")
    source_digest(step)
for name in plots.__all__:
    getattr(plots, name)
get_argument_parser()  # finds the plugins
make_numba_ready()

draw_coarsely(pytest.MonkeyPatch())
gc.collect()
gc.freeze()  # the memory of modules stays shared
gc.enable()
