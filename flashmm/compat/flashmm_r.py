"""The interface of the R package FLASHMM 1.3: genes × cells in, coefficients × genes out.

Argument names with a dot take an underscore (``max.iter`` is ``max_iter``). Variance components
are not bounded below and degrees of freedom are n - p, as in R; a gene that R stops on (constant,
exactly singular) has values where they exist and NaN elsewhere. Matrices with names are pandas
data frames.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from flashmm.compat.flashmm_results import fit_unbounded
from flashmm.compat.flashmm_statistics import (
    as_list,
    bare_matrix,
    component_sizes,
    from_list,
    names_of,
    statistics_of,
)
from flashmm.compat.rlist import RList
from flashmm.design.columns import cell_design
from flashmm.design.contrasts import parse_expression
from flashmm.kernels.tails import t_tail
from flashmm.options import InputError
from flashmm.simulate import SimulationSpec, simulate_counts

ALTERNATIVES = {
    "two.sided": "two-sided",
    "two-sided": "two-sided",
    "less": "less",
    "greater": "greater",
}


def sslmm(X: Any, Y: Any, Z: Any, nBlocks: int | None = None) -> RList:
    """Summary statistics of cell-level data.

    Parameters
    ----------
    X : (cells, p) array or DataFrame
        Fixed-effects design.
    Y : (genes, cells) array, sparse matrix or DataFrame
        Responses.
    Z : (cells, q) array, sparse matrix or DataFrame
        Random-effects design.
    nBlocks : int, optional
        Blocks of genes to work through; bounds the memory.

    Returns
    -------
    RList
        XX (p × p), XY (p × genes), ZX (q × p), ZY (q × genes), ZZ (q × q), Ynorm (genes), n.
    """
    return as_list(statistics_of(Y, X, Z, [np.shape(Z)[1]], nBlocks))


def lmmfit(
    Y: Any,
    X: Any,
    Z: Any,
    d: int | Sequence[int],
    method: str = "REML",
    nBlocks: int | None = None,
    theta0: Sequence[float] | None = None,
    max_iter: int = 50,
    epsilon: float = 1e-5,
    output_cov: bool = True,
    output_FIM: bool = False,
    output_RE: bool = False,
    output_SS: bool = False,
    verbose: bool = False,
) -> RList:
    """Fit linear mixed models from cell-level data.

    Parameters
    ----------
    Y, X, Z
        As in `sslmm`.
    d : int or sequence of int
        Columns of Z per component.
    method : {"REML", "ML", "REML-FS"}
        Restricted or full maximum likelihood.
    nBlocks : int, optional
        Blocks of genes to summarise.
    theta0, max_iter, epsilon, output_cov, output_FIM, output_RE, verbose
        As in `lmm`.
    output_SS : bool
        Add ``summary_data``, what `sslmm` returns.

    Returns
    -------
    RList
        As of `lmm`.
    """
    stats = statistics_of(Y, X, Z, component_sizes(d), nBlocks)
    options = (theta0, method, max_iter, epsilon, output_cov, output_FIM, output_RE, verbose)
    result = fit_unbounded(stats, *options)
    if output_SS:
        result["summary_data"] = as_list(stats)
    return result


def lmm(
    XX: Any = None,
    XY: Any = None,
    ZX: Any = None,
    ZY: Any = None,
    ZZ: Any = None,
    Ynorm: Any = None,
    n: int | None = None,
    summary_stats: Mapping[str, Any] | None = None,
    d: int | Sequence[int] | None = None,
    theta0: Sequence[float] | None = None,
    method: str = "REML",
    max_iter: int = 50,
    epsilon: float = 1e-5,
    output_cov: bool = True,
    output_FIM: bool = False,
    output_RE: bool = False,
    verbose: bool = False,
) -> RList:
    """Fit linear mixed models from summary statistics.

    Parameters
    ----------
    XX, XY, ZX, ZY, ZZ, Ynorm, n
        X'X (p × p), X'Y' (p × genes), Z'X (q × p), Z'Y' (q × genes), Z'Z (q × q), squared norms
        (genes) and the number of cells.
    summary_stats : mapping, optional
        All of these in one, as `sslmm` returns them.
    d : int or sequence of int
        Columns of Z per component.
    theta0 : sequence of float, optional
        Start values of the components, residual last.
    method : {"REML", "ML", "REML-FS"}
        Restricted or full maximum likelihood.
    max_iter : int
        Limit of the iterations.
    epsilon : float
        Tolerance; 1e-5 is the default tolerance of our engine and smaller is stricter.
    output_cov, output_FIM, output_RE : bool
        Add ``cov``; ``FIM_beta`` and ``FIM_theta``; ``RE``.
    verbose : bool
        Print how many genes did not converge.

    Returns
    -------
    RList
        ``method, epsilon, dlogL, logLik, niter, coef, se, t, p, df, theta, se_theta`` and what the
        options add, coefficients × genes; ``logLik`` of REML leaves -log|X'X|/2 out, as FLASHMM
        does. ``status``, one word per gene, is ours.

    Raises
    ------
    InputError
        A statistic is missing, of the wrong shape or not finite.
    """
    given = {"XX": XX, "XY": XY, "ZX": ZX, "ZY": ZY, "ZZ": ZZ, "Ynorm": Ynorm, "n": n}
    stats = from_list(dict(summary_stats) if summary_stats is not None else given, d)
    return fit_unbounded(
        stats, theta0, method, max_iter, epsilon, output_cov, output_FIM, output_RE, verbose
    )


def flashmm(
    Y: Any,
    fixed: str,
    random: str | Sequence[str],
    metadata: pd.DataFrame,
    is_counts: bool = False,
    method: str = "REML",
    nBlocks: int | None = None,
    theta0: Sequence[float] | None = None,
    max_iter: int = 50,
    epsilon: float = 1e-5,
    output_cov: bool = True,
    output_FIM: bool = False,
    output_RE: bool = False,
    output_SS: bool = False,
    verbose: bool = False,
) -> RList:
    """Fit linear mixed models from cell-level data and formulas.

    Parameters
    ----------
    Y : (genes, cells) array, sparse matrix or DataFrame
        Responses.
    fixed : str
        One-sided formula of the fixed effects.
    random : str or sequence of str
        One-sided formula, such as ``"~ 0 + sam"``, per component.
    metadata : DataFrame
        One row per cell.
    is_counts : bool
        Whether Y holds raw counts, to be transformed as log2(1 + Y).
    method, nBlocks, theta0, max_iter, epsilon, output_cov, output_FIM, output_RE, output_SS,
    verbose
        As in `lmmfit`.

    Returns
    -------
    RList
        As of `lmm`; coefficients have R's names.
    """
    terms = [random] if isinstance(random, str) else list(random)
    design = cell_design(metadata, fixed, terms)
    X = design.X.rename(columns=r_name)
    labels = np.repeat(
        [component.replace(":", "") for component in design.components], design.component_sizes
    )
    names = [f"{label}{level}" for label, level in zip(labels, design.Z_levels, strict=True)]
    Z = pd.DataFrame(design.Z.toarray(), columns=names)
    return lmmfit(
        _log2p1(Y) if is_counts else Y,
        X,
        Z,
        list(design.component_sizes),
        method=method,
        nBlocks=nBlocks,
        theta0=theta0,
        max_iter=max_iter,
        epsilon=epsilon,
        output_cov=output_cov,
        output_FIM=output_FIM,
        output_RE=output_RE,
        output_SS=output_SS,
        verbose=verbose,
    )


def lmmtest(
    fit: Mapping[str, Any],
    index: int | str | Sequence[int | str] | None = None,
    contrast: Any = None,
    alternative: str = "two.sided",
) -> pd.DataFrame:
    """Test coefficients or contrasts with n - p degrees of freedom.

    Parameters
    ----------
    fit : RList
        A result of `flashmm`, `lmm` or `lmmfit`.
    index : int, str or a sequence of them, optional
        Coefficients to test; numbers count from 1, as in R. Default all; ignored with `contrast`.
    contrast : (p, contrasts) array or DataFrame, optional
        Weights of the coefficients, a column per contrast.
    alternative : {"two.sided", "less", "greater"}
        Direction of the alternative.

    Returns
    -------
    DataFrame
        genes × (``<name>_coef`` …, ``<name>_t`` …, ``<name>_p`` …).

    Raises
    ------
    InputError
        An unknown coefficient or alternative, a contrast of the wrong shape, or contrasts of a fit
        without ``cov``.
    """
    if alternative not in ALTERNATIVES:
        raise InputError(
            f"alternative must be one of {', '.join(sorted(ALTERNATIVES))}; found {alternative!r}."
        )
    if contrast is None:
        names = _chosen(fit["coef"].index, index)
        estimate, se = fit["coef"].loc[names].to_numpy(), fit["se"].loc[names].to_numpy()
    else:
        names, L = _contrast_columns(contrast, len(fit["coef"]))
        estimate, se = L.T @ fit["coef"].to_numpy(), _contrast_se(fit, L)
    t = estimate / se
    p, _ = t_tail(t, np.full(t.shape, float(fit["df"])), ALTERNATIVES[alternative])
    columns = [f"{name}_{what}" for what in ("coef", "t", "p") for name in names]
    return pd.DataFrame(np.vstack([estimate, t, p]).T, index=fit["coef"].columns, columns=columns)


def contrast_matrix(
    contrast: str | Sequence[str] | Mapping[str, str], model_matrix_names: Sequence[str]
) -> pd.DataFrame:
    """Contrasts, as arithmetic in coefficient names, as a matrix.

    Parameters
    ----------
    contrast : str, sequence of str, or mapping of name to str
        Expressions such as ``"A - (B + C)/2"``; one without a name is named by itself.
    model_matrix_names : sequence of str
        Names of the coefficients.

    Returns
    -------
    DataFrame
        Coefficients × contrasts.

    Raises
    ------
    InputError
        The coefficient names are not unique.
    FormulaError
        An expression cannot be read.
    """
    names = list(model_matrix_names)
    if len(set(names)) < len(names):
        raise InputError(f"model_matrix_names must be unique; found {names}.")
    if isinstance(contrast, str):
        contrast = [contrast]
    pairs = contrast.items() if isinstance(contrast, Mapping) else [(c, c) for c in contrast]
    columns = {name or text: parse_expression(text, names) for name, text in pairs}
    return pd.DataFrame(columns, index=names)


def simuRNAseq(
    counts: Any = None,
    nGenes: int | None = None,
    nCells: int | None = None,
    metadata: pd.DataFrame | None = None,
    samples_nested: bool = True,
    nsam: int = 25,
    ncls: int = 10,
    ntrt: int = 2,
    trt: str | None = None,
    nDEgenes: int | None = None,
    nDEgenesType: Mapping[str, int] | None = None,
    pDEgenesType: Mapping[str, float] | Sequence[float] | None = None,
    adjust_library_size: bool = True,
    direction: str = "both",
    minbeta: float = 0.25,
    maxbeta: float = 1.0,
    var_randomeffects: float = 0.1,
    seed: int = 0,
) -> RList:
    """Simulate multi-subject, multi-cell-type counts.

    Parameters
    ----------
    counts : (genes, cells) array, sparse matrix or DataFrame, optional
        Reference counts; without them, counts of mean 1 + Poisson(1) and size 1 + Poisson(1) are
        drawn.
    nGenes, nCells : int, optional
        Numbers to simulate; default those of `counts` (1,000 and 5,000 without).
    metadata : DataFrame, optional
        Columns sam, cls, trt and, optionally, libsize.
    samples_nested : bool
        Whether each drawn subject has one condition.
    nsam, ncls, ntrt : int
        Numbers of subjects, cell types and conditions to draw.
    trt : str, optional
        The treated condition; default the last in sorted order.
    nDEgenes, nDEgenesType, pDEgenesType
        Number of DE genes in total, per cell type, or their shares.
    adjust_library_size : bool
        False gives every cell the mean library size.
    direction : {"both", "up", "down"}
        Sign of the log fold changes.
    minbeta, maxbeta : float
        Range of the log fold changes (natural logarithm); both negative for "down".
    var_randomeffects : float
        Variance of the subject effects.
    seed : int
        Seed (R's ``set.seed``).

    Returns
    -------
    RList
        ``ref_mean_dispersion, metadata, counts`` (genes × cells), ``DEgenes`` (gene, beta,
        cluster), ``treatment``.
    """
    low, high = sorted((abs(minbeta), abs(maxbeta)))
    given = None if metadata is None else metadata.rename(columns=_OURS)
    spec = SimulationSpec(
        reference=_reference(counts),
        metadata=given,
        n_genes=nGenes,
        n_cells=nCells,
        n_subjects=nsam,
        n_cell_types=ncls,
        n_conditions=ntrt,
        nested=samples_nested,
        treated=trt,
        n_de_genes=nDEgenes,
        n_de_by_type=nDEgenesType,
        de_proportions=pDEgenesType,
        direction=direction,
        min_log_fc=low,
        max_log_fc=high,
        adjust_libsize=adjust_library_size,
        subject_variance=var_randomeffects,
    )
    sim = simulate_counts(spec, seed=seed)
    cells = sim.adata.obs.rename(columns={ours: theirs for theirs, ours in _OURS.items()})
    truth = sim.truth.rename(columns={"log_fc": "beta", "cell_type": "cluster"})
    Y = pd.DataFrame(
        sim.adata.X.toarray().T, index=sim.adata.var_names, columns=sim.adata.obs_names
    )
    return RList(
        ref_mean_dispersion=sim.reference,
        metadata=cells[list(_OURS)],
        counts=Y.astype(np.int64),
        DEgenes=truth[["gene", "beta", "cluster"]],
        treatment=sim.treated,
    )


_OURS = {"sam": "subject", "cls": "cell_type", "trt": "condition", "libsize": "libsize"}


def r_name(name: str) -> str:
    """R's name of a coefficient: ``cls[2]:trt[T.B]`` is ``cls2:trtB``."""
    if name == "Intercept":
        return "(Intercept)"
    return re.sub(r"\[(?:T\.)?([^\]]*)\]", r"\1", name)


def _reference(counts: Any) -> anndata.AnnData | None:
    """Reference counts as an AnnData of cells × genes."""
    if counts is None:
        return None
    matrix, genes = bare_matrix(counts), names_of(counts, "index")
    data = anndata.AnnData(sparse.csr_matrix(matrix.T, dtype=np.float64))
    if genes is not None:
        data.var_names = pd.Index(genes).astype(str)
    return data


def _log2p1(Y: Any) -> Any:
    """log2(1 + Y), keeping names and sparsity."""
    if hasattr(Y, "tocsr"):
        return Y.tocsr().astype(np.float64).log1p() / np.log(2.0)
    return np.log2(1.0 + Y)


def _chosen(names: pd.Index, index: int | str | Sequence[int | str] | None) -> list[str]:
    """Coefficients by name or by number from 1."""
    if index is None:
        return list(names)
    wanted = [index] if isinstance(index, (int, str, np.integer)) else list(index)
    chosen = []
    for item in wanted:
        if isinstance(item, str) and item in names:
            chosen.append(item)
        elif not isinstance(item, str) and 1 <= item <= len(names):
            chosen.append(names[int(item) - 1])
        else:
            raise InputError(
                f"index {item!r} is neither a coefficient ({', '.join(names)}) nor a number from "
                f"1 to {len(names)}."
            )
    return chosen


def _contrast_columns(contrast: Any, p: int) -> tuple[list[str], np.ndarray]:
    """Names and matrix (p, contrasts) of R's contrast argument."""
    L = np.asarray(contrast, dtype=np.float64)
    L = L[:, None] if L.ndim == 1 else L
    if L.shape[0] != p:
        raise InputError(f"contrast must have a row per coefficient ({p}); found shape {L.shape}.")
    if isinstance(contrast, pd.DataFrame):
        return [str(name) for name in contrast.columns], L
    return [f"L{j + 1}" for j in range(L.shape[1])], L


def _contrast_se(fit: Mapping[str, Any], L: np.ndarray) -> np.ndarray:
    if "cov" not in fit:
        raise InputError(
            "contrast needs the covariance of the coefficients: fit with output_cov=True."
        )
    with np.errstate(invalid="ignore"):
        return np.sqrt(np.einsum("pc,pqg,qc->cg", L, fit["cov"], L, optimize=True))
