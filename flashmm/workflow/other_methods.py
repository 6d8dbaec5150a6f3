"""Run a method that is no model of this package: a command, or a built-in function.

A function runs in a process of its own too, so that both are measured by the same clock and kept
to the same limits.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import pandas as pd

from flashmm.benchmark.comparison import (
    Comparison,
    cells_file,
    cells_table,
    comparison_of,
    design_table,
    groups_files,
    matrix_files,
)
from flashmm.benchmark.data import DataSet
from flashmm.benchmark.external import Verdict, judged, run_command
from flashmm.benchmark.functions import function_method, run_function
from flashmm.benchmark.mixedlm import choose_genes
from flashmm.cells.groups import GroupStatistics
from flashmm.cells.reference import with_reference
from flashmm.cells.sparse_counts import SparseCounts, read_sparse
from flashmm.io.groups import gene_names, read_groups
from flashmm.options import FlashmmError, UnavailableError
from flashmm.storage.processes import SKIPPED_CODE, Limits, status_memory
from flashmm.storage.programs import Content, located, run_on_files


@dataclass(frozen=True)
class Job:
    """A method and the data set that it tests.

    Attributes
    ----------
    groups : str
        Path of the groups.
    counts : list of str
        Paths of the counts.
    method : dict
        `command` (arguments) or `function` (the row of the sheet), and `factor, subject,
        cell_type, fixed, alternative, genes, timeout` (minutes) and `memory` (MB).
    truth : str or None
        Path of the table of true effects.
    reference : dict
        Reference levels by column.
    layer : str or None
        Layer of the counts.
    libsize : str
        Column of the library sizes.
    seed, threads : int
        Of the method.
    """

    groups: str
    counts: list[str]
    method: dict[str, Any]
    truth: str | None = None
    reference: dict[str, Any] = field(default_factory=dict)
    layer: str | None = None
    libsize: str = "libsize"
    seed: int = 0
    threads: int = 1

    @property
    def limits(self) -> Limits:
        """What the method may take."""
        return Limits(60 * self.method["timeout"], self.method.get("memory"), self.threads)

    @cached_property
    def statistics(self) -> GroupStatistics:
        """The groups, with their reference levels."""
        return with_reference(read_groups(self.groups), self.reference)

    @cached_property
    def asked(self) -> Comparison:
        """What is compared, of the genes that are tested."""
        given = self.method
        asked = comparison_of(
            self.statistics,
            given["factor"],
            subject=given["subject"],
            cell_type=given["cell_type"],
            fixed=given.get("fixed"),
            alternative=given["alternative"],
        )
        most = given.get("genes")
        if most is None or most >= len(asked.genes) or "command" not in given:
            return asked
        return replace(asked, genes=pd.Index(choose_genes(self.statistics, most, self.seed)))

    @cached_property
    def cells(self) -> SparseCounts:
        """Counts of the cells, of the genes that are tested."""
        asked = self.asked
        return read_sparse(
            self.counts,
            list(dict.fromkeys([*asked.columns, *asked.adjust])),
            genes=asked.genes,
            layer=self.layer,
            libsize=self.libsize,
        )

    def data(self) -> DataSet:
        """What a function is given."""
        truth = None
        if self.truth is not None:
            truth = pd.read_csv(self.truth, sep="\t", dtype={"gene": str, "cell_type": str})
        one = next(iter(self.counts), None)  # none where the function does not need the cells
        cells = self.counts if len(self.counts) > 1 else one
        return DataSet(self.statistics, cells=cells, layer=self.layer, truth=truth)

    def contents(self) -> dict[str, Callable[[], Content]]:
        """Placeholder to what makes its content."""
        asked = self.asked
        return {
            "groups": lambda: groups_files(self.statistics, asked),
            "cells": lambda: cells_file(self.cells, asked),
            "matrix": lambda: matrix_files(self.cells, asked),
            "obs": lambda: cells_table(self.cells, asked),
            "design": lambda: design_table(asked, seed=self.seed, threads=self.threads),
        }


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method left, and how many genes there were.

    Attributes
    ----------
    verdict : Verdict
        How it ended, its tests and costs.
    genes, genes_total : int
        Genes that were tested, and genes of the data set.
    """

    verdict: Verdict
    genes: int
    genes_total: int


def run_method(job: Job) -> Outcome:
    """Run a method on a data set; whatever it does, there is an outcome.

    Parameters
    ----------
    job : Job
        What is to be run.

    Returns
    -------
    Outcome

    Raises
    ------
    InputError
        The groups cannot be read, or have no such columns.
    """
    total = len(gene_names(job.groups))
    run = _run_command if "command" in job.method else _run_function
    try:
        verdict = run(job)
    except FlashmmError as error:
        # such as a column with one level: the others go on, and say so themselves
        nothing = {"seconds": 0.0, "cpu_seconds": 0.0, "peak_memory_mib": 0.0}
        empty = pd.DataFrame({"gene": [], "contrast": [], "p_value": [], "status": []})
        verdict = Verdict("failed", str(error), empty, costs=nothing)
    return Outcome(verdict, _tested(job, verdict), total)


def _tested(job: Job, verdict: Verdict) -> int:
    if "command" in job.method and verdict.status == "ok":
        return len(job.asked.genes)
    return int(verdict.tests["gene"].nunique()) if len(verdict.tests) else 0


def _run_command(job: Job) -> Verdict:
    return run_command(
        [located(argument) for argument in job.method["command"]],
        job.asked,
        job.contents(),
        limits=job.limits,
        seed=job.seed,
        genes_total=job.statistics.n_genes,
    )


def _run_function(job: Job) -> Verdict:
    """Run a function in a process of its own, within its limits."""
    answer = run_on_files(partial(function_job, job), {}, {}, job.limits)
    verdict = judged(replace(answer, table=None), job.asked, job.limits)
    if answer.table is None:
        return verdict
    # it is our own table, with what its maker has to say
    said = answer.table.attrs
    costs = {**verdict.costs, "baseline_memory_mib": said["baseline_memory_mib"]}
    return Verdict("ok", "", answer.table, verdict.log, tuple(said["notes"]), costs)


# ----------------------------------------------------------------------------------------------
# In the process of a function


def function_job(job: Job, out: str) -> int:
    """Run the function of a job and write its tests.

    Parameters
    ----------
    job : Job
        Its groups have not been read yet, so that reading them is measured.
    out : str
        The Parquet file to write; its attributes are the notes and the memory that was in use
        before anything was read.

    Returns
    -------
    int
        The exit code: `SKIPPED_CODE` where something is missing that the function needs.
    """
    warnings.simplefilter("ignore")
    baseline = status_memory()[0]
    try:
        tests, notes = run_function(
            function_method(job.method["function"]), job.data(), job.asked, job.seed
        )
    except FlashmmError as error:
        print(error, file=sys.stderr)
        return SKIPPED_CODE if isinstance(error, UnavailableError) else 1
    tests = tests.reset_index(drop=True)
    tests.attrs = {"baseline_memory_mib": baseline, "notes": list(notes)}
    tests.to_parquet(out)
    return 0
