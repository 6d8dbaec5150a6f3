"""The tests that methods of a benchmark can run.

Each function takes a data set, a request and its settings, and returns the tidy frame of tests, or
a `MethodResult` where it has more to say; `flashmm.benchmark.methods` has a row for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from flashmm.benchmark.baselines import pooled_tests, pseudobulk_tests
from flashmm.benchmark.cell_level import wilcoxon_tests
from flashmm.benchmark.comparison import Comparison, comparison_of
from flashmm.benchmark.controls import control_table, permute_labels
from flashmm.benchmark.data import NONE, DataSet, MethodResult, Request, size_factors_of
from flashmm.benchmark.mixedlm import TRIED, choose_genes, fit_mixedlm
from flashmm.benchmark.pydeseq2 import pydeseq2_tests
from flashmm.cells.groups import regrouped
from flashmm.cells.sparse_counts import read_sparse
from flashmm.design.contrasts import resolve_contrasts
from flashmm.inference.permutation import permutation_tests
from flashmm.inference.testing import contrast_tests
from flashmm.kernels.expression_filter import MIN_TOTAL
from flashmm.lmm import LMMFit
from flashmm.names import listed
from flashmm.options import InputError
from flashmm.within import SIZE_FACTORS, FitsWithin


def mixed(
    data: DataSet,
    request: Request,
    *,
    fixed: str | None = None,
    random: Sequence[str] = (),
    within: str | None = None,
    size_factors: str | None = None,
    min_counts: float = MIN_TOTAL,
    ddf: str | None = None,
    moderate: bool = False,
    genes: int | None = None,
    options: Mapping[str, Any] = NONE,
) -> MethodResult:
    """Tests of a mixed model, or of one for each level of a column, `contrast_tests`."""
    formula, factors = fixed or request.fixed, size_factors_of(size_factors, within)
    notes: tuple[str, ...] = ()
    fit: LMMFit | FitsWithin
    if within is None:
        fit = data.fit(formula, random, genes, options, factors)
        notes = fit.stats.notes
    elif genes is not None:
        raise InputError("genes: size factors and the tests within levels need all genes.")
    else:
        fit = data.fit_within(within, formula, random, factors, min_counts, options)
    table = contrast_tests(
        fit, request.contrasts, ddf=ddf, level=request.level, moderate=bool(moderate)
    )
    return MethodResult(table.to_frame(intervals=True), notes=(*notes, *table.notes))


def within(
    data: DataSet,
    request: Request,
    *,
    within: str | None = None,
    fixed: str | None = None,
    random: Sequence[str] = (),
    ddf: str | None = None,
    size_factors: str | None = None,
    moderate: bool = False,
    options: Mapping[str, Any] = NONE,
) -> MethodResult:
    """Tests of a mixed model of each cell type, `fit_within`.

    Without a formula: the covariates of the groups and the factor. Without size factors: trimmed
    means where there are counts and a library size.
    """
    column, groups = within or request.cell_type, data.groups
    sized = data.has("counts") and any("libsize" in x for x in groups.covariates)
    fits = data.fit_within(
        column,
        fixed or "~ " + " + ".join([*groups.covariates, request.factor]),
        random or [request.subject],
        size_factors or (SIZE_FACTORS if sized else None),
        MIN_TOTAL if data.has("counts") else None,
        options,
    )
    table = contrast_tests(
        fits, request.contrasts, ddf=ddf, level=request.level, moderate=bool(moderate)
    )
    frame = table.to_frame(intervals=True)
    # as the same effect is called in the joint model
    frame["contrast"] = [
        f"{column}[{level}]:{contrast}"
        for level, contrast in zip(frame[column], frame["contrast"], strict=True)
    ]
    return MethodResult(frame, notes=table.notes)


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


def pseudobulk_tmm(
    data: DataSet, request: Request, *, moderate: bool = False, min_counts: float = 0
) -> pd.DataFrame:
    """t tests of log₂ counts per million of subjects, library sizes by trimmed means."""
    return _pseudobulk(data, request, "log2_cpm_tmm", moderate, min_counts)


def _pseudobulk(
    data: DataSet, request: Request, values: str, moderate: bool, min_counts: float = 0
) -> pd.DataFrame:
    return pseudobulk_tests(
        regrouped(data.groups, (request.subject, request.cell_type, request.factor)),
        request.factor,
        subject=request.subject,
        cell_type=request.cell_type,
        values=values,
        moderate=bool(moderate),
        min_counts=min_counts,
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
    within: str | None = None,
    size_factors: str | None = None,
    min_counts: float = MIN_TOTAL,
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
        within=within,
        size_factors=size_factors,
        min_counts=min_counts,
        ddf=ddf,
        moderate=moderate,
        genes=genes,
        options=options,
    )


def wilcoxon(data: DataSet, request: Request) -> pd.DataFrame:
    """Rank-sum tests of cells as if there were no subjects."""
    asked = comparison(data, request)
    parts = data.cells if isinstance(data.cells, list) else [data.cells]
    cells = read_sparse(parts, list(asked.columns), layer=data.layer)
    return wilcoxon_tests(cells, asked)


def pydeseq2(data: DataSet, request: Request) -> pd.DataFrame:
    """Wald tests of PyDESeq2 on pseudobulk."""
    return pydeseq2_tests(data.groups, comparison(data, request))


def comparison(data: DataSet, request: Request) -> Comparison:
    """What a request asks of methods from elsewhere."""
    return comparison_of(
        data.groups, request.factor, subject=request.subject, cell_type=request.cell_type or None
    )
