"""The tests that methods of a benchmark can run.

Each function takes a data set, a request and its settings, and returns the tidy frame of tests, or
a `MethodResult` where it has more to say; `flashmm.benchmark.methods` has a row for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from flashmm.benchmark.baselines import pooled_tests, pseudobulk_tests
from flashmm.benchmark.controls import control_table, permute_labels
from flashmm.benchmark.data import NONE, DataSet, MethodResult, Request
from flashmm.benchmark.mixedlm import TRIED, choose_genes, fit_mixedlm
from flashmm.design.contrasts import resolve_contrasts
from flashmm.inference.permutation import permutation_tests
from flashmm.inference.testing import contrast_tests
from flashmm.names import listed
from flashmm.options import InputError


def mixed(
    data: DataSet,
    request: Request,
    *,
    fixed: str | None = None,
    random: Sequence[str] = (),
    ddf: str | None = None,
    moderate: bool = False,
    genes: int | None = None,
    options: Mapping[str, Any] = NONE,
) -> MethodResult:
    """Tests of a mixed model, `contrast_tests`."""
    fit = data.fit(fixed or request.fixed, random, genes, options)
    table = contrast_tests(
        fit, request.contrasts, ddf=ddf, level=request.level, moderate=bool(moderate)
    )
    return MethodResult(table.to_frame(intervals=True), notes=(*fit.stats.notes, *table.notes))


def permutation(
    data: DataSet,
    request: Request,
    *,
    fixed: str | None = None,
    random: Sequence[str] = (),
    genes: int | None = None,
    n_permutations: int = 199,
    options: Mapping[str, Any] = NONE,
) -> MethodResult:
    """Permutation of the labels of a mixed model, `permutation_tests`."""
    table = permutation_tests(
        data.fit(fixed or request.fixed, random, genes, options),
        request.contrasts,
        request.factor,
        n_permutations=n_permutations,
        seed=request.seed,
        progress=False,
    )
    return MethodResult(table.to_frame(), notes=table.notes)


def pseudobulk(data: DataSet, request: Request, *, moderate: bool = False) -> pd.DataFrame:
    """t tests of the means of subjects."""
    return _pseudobulk(data, request, "mean", moderate)


def pseudobulk_cpm(data: DataSet, request: Request, *, moderate: bool = False) -> pd.DataFrame:
    """t tests of log₂ counts per million of subjects."""
    return _pseudobulk(data, request, "log2_cpm", moderate)


def _pseudobulk(data: DataSet, request: Request, values: str, moderate: bool) -> pd.DataFrame:
    return pseudobulk_tests(
        data.groups,
        request.factor,
        subject=request.subject,
        cell_type=request.cell_type,
        values=values,
        moderate=bool(moderate),
        level=request.level,
    )


def pooled(data: DataSet, request: Request, *, genes: int | None = None) -> pd.DataFrame:
    """Least squares over the cells as if there were no subjects."""
    stats = data.statistics(request.fixed, [request.subject], genes)
    return pooled_tests(stats, request.contrasts, level=request.level)


def mixedlm(
    data: DataSet,
    request: Request,
    *,
    fixed: str | None = None,
    random: Sequence[str] = (),
    genes: int | Sequence[str] = 30,
    optimisers: Sequence[str] = TRIED,
    options: Mapping[str, Any] = NONE,
) -> MethodResult:
    """Fits of statsmodels' MixedLM on the cells, to some genes by name or number, `fit_mixedlm`."""
    if options.keys() - {"method"}:
        raise InputError(f"MixedLM has no options {listed(options.keys() - {'method'})}.")
    if isinstance(genes, int):
        genes = choose_genes(data.groups, genes, request.seed)
    result = fit_mixedlm(
        data.cells,
        genes,
        fixed or request.fixed,
        list(random) or None,
        transform=data.groups.transform,
        reml=options.get("method", "REML") == "REML",
        optimisers=optimisers,
        contrasts=request.contrasts,
        layer=data.layer,
    )
    tables = {"fits": result.fits, "attempts": result.attempts}
    return MethodResult(result.tests, tables, result.notes)


def positive_control(data: DataSet, request: Request) -> pd.DataFrame:
    """The positive control: every true effect is found, other p-values are uniform."""
    return _control(data, request, data.truth, "truth")


def negative_control(data: DataSet, request: Request) -> pd.DataFrame:
    """The negative control: all p-values are uniform."""
    nothing = pd.DataFrame({"gene": [], "cell_type": [], "log_fc": []})
    return _control(data, request, nothing, "random")


def _control(data: DataSet, request: Request, known: Any, kind: str) -> pd.DataFrame:
    stats = data.statistics(request.fixed, [request.subject])
    found = resolve_contrasts(request.contrasts, stats.coefficients, stats.coefficient_columns)
    names = [contrast.name for contrast in found]
    return control_table(
        known, data.groups.genes, names, kind, request.seed, cell_type=request.cell_type
    )


def permuted_labels(
    data: DataSet,
    request: Request,
    *,
    fixed: str | None = None,
    random: Sequence[str] = (),
    ddf: str | None = None,
    moderate: bool = False,
    genes: int | None = None,
    options: Mapping[str, Any] = NONE,
) -> MethodResult:
    """The negative control of a mixed model: its tests after the labels were permuted once."""
    permuted = permute_labels(data.groups, request.factor, request.subject, request.seed)
    return mixed(
        DataSet(permuted),
        request,
        fixed=fixed,
        random=random,
        ddf=ddf,
        moderate=moderate,
        genes=genes,
        options=options,
    )
