"""The model of a method, fitted to a data set or a shard of its genes, and tested."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import pandas as pd

from flashmm.cells.groups import GroupStatistics
from flashmm.design.from_groups import summary_statistics
from flashmm.io.fits import write_fit
from flashmm.io.groups import gene_names, read_groups, read_size_factors
from flashmm.lmm import LMMFit, fit_lmm
from flashmm.options import InputError
from flashmm.storage.files import unchanged
from flashmm.within import FitsWithin, fit_within
from flashmm.workflow.jobs import measured
from flashmm.workflow.tests_of_fit import write_tests


def range_of(shard: Sequence[int] | None, path: str) -> tuple[int, int] | None:
    """First gene of a shard of the groups file, and one past the last; none for all genes."""
    if shard is None:
        return None
    number, n_shards = shard
    n_genes = len(gene_names(path))
    if n_shards > n_genes:
        raise InputError(f"shards: genes is {n_shards}, but '{path}' has {n_genes} genes.")
    return (number - 1) * n_genes // n_shards, number * n_genes // n_shards


def size_factors(recipe: dict[str, Any] | None, path: str) -> pd.Series | None:
    """Size factors of the groups from all genes of the file, whichever are fitted here."""
    if recipe is None:
        return None
    return read_size_factors(path, recipe["within"], recipe["method"])


def joint_fit(
    groups: GroupStatistics, factors: Any, params: Any, measured: AbstractContextManager[None]
) -> LMMFit:
    """One model of all groups; what is measured is the fit."""
    stats = summary_statistics(groups, params.fixed, params.random, factors, params.reference)
    with measured:
        return fit_lmm(stats, **params.options)


def fits_of_levels(
    groups: GroupStatistics, factors: Any, params: Any, measured: AbstractContextManager[None]
) -> FitsWithin:
    """A model for each level of a column; what is measured are their statistics and fits."""
    with measured:
        return fit_within(
            groups,
            params.within,
            params.fixed,
            params.random,
            size_factors=factors,
            min_counts=params.min_counts,
            reference=params.reference,
            **params.options,
        )


def run(job: Any) -> None:
    """Make the outputs of the job."""
    with unchanged(job.input.groups):
        source, params = job.input.groups, job.params
        factors = size_factors(params.size_factors, source)
        groups = read_groups(source, range_of(params.shard, source))
        record = measured(job.output.measured, genes=groups.n_genes, cells=groups.n_cells)
        make = joint_fit if params.within is None else fits_of_levels
        fit = make(groups, factors, params, record)
        write_fit(fit, job.output.fit, source)
        if job.output.get("table"):  # a shard of the genes is tested after it is joined
            write_tests(job, fit)
