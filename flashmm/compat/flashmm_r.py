"""The interface of the R package FLASHMM 1.3: genes × cells in, coefficients × genes out.

Argument names with a dot take an underscore (``max.iter`` is ``max_iter``). Variance components
are not bounded below and degrees of freedom are n - p, as in R; a gene that R stops on (constant,
exactly singular) has values where they exist and NaN elsewhere. Matrices with names are pandas
data frames.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from flashmm.design.columns import cell_design
from flashmm.design.contrasts import parse_expression
from flashmm.design.from_matrices import summary_statistics_from_matrices
from flashmm.design.statistics import SummaryStatistics
from flashmm.kernels.ddf import t_tail
from flashmm.lmm import LMMFit, fit_lmm
from flashmm.options import FlashmmWarning, InputError, Status
from flashmm.simulate.counts import SimulationSpec, simulate_counts

METHODS = {"REML": "REML", "ML": "ML", "REML-FS": "REML", "ML-FS": "ML"}
ALTERNATIVES = {
    "two.sided": "two-sided",
    "two-sided": "two-sided",
    "less": "less",
    "greater": "greater",
}

# FLASHMM stops on a score below epsilon, our engine on a Newton decrement; epsilon = 1e-5, the
# default there, is tol = 1e-16, the default here.
TOL_PER_EPSILON_SQUARED = 1e-6


class RList(dict[str, Any]):
    """A dictionary whose items are attributes too, and whose names may be written with dots."""

    def __missing__(self, name: str) -> Any:
        """Look `a.b` up as `a_b`."""
        key = name.replace(".", "_")
        if key == name:
            raise KeyError(name)
        return self[key]

    def __getattr__(self, name: str) -> Any:
        """Return the item of that name."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


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
    return _as_list(_statistics(Y, X, Z, [np.shape(Z)[1]], nBlocks))


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
    stats = _statistics(Y, X, Z, _sizes(d), nBlocks)
    options = (theta0, method, max_iter, epsilon, output_cov, output_FIM, output_RE, verbose)
    result = _fit(stats, *options)
    if output_SS:
        result["summary_data"] = _as_list(stats)
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
    stats = _from_list(dict(summary_stats) if summary_stats is not None else given, d)
    return _fit(
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
    matrix, genes = _matrix(counts), _names(counts, "index")
    data = anndata.AnnData(sparse.csr_matrix(matrix.T, dtype=np.float64))
    if genes is not None:
        data.var_names = pd.Index(genes).astype(str)
    return data


def _matrix(values: Any) -> Any:
    """Bare array or sparse matrix of a matrix-like argument; a vector is one row."""
    if isinstance(values, pd.DataFrame):
        values = values.to_numpy()
    return values if sparse.issparse(values) else np.atleast_2d(np.asarray(values))


def _names(values: Any, axis: str) -> list[str] | None:
    return [str(v) for v in getattr(values, axis)] if isinstance(values, pd.DataFrame) else None


def _log2p1(Y: Any) -> Any:
    """log2(1 + Y), keeping names and sparsity."""
    if hasattr(Y, "tocsr"):
        return Y.tocsr().astype(np.float64).log1p() / np.log(2.0)
    return np.log2(1.0 + Y)


def _sizes(d: int | Sequence[int] | None) -> list[int]:
    if d is None:
        raise InputError("d, the number of columns of Z per component, is missing.")
    return [int(v) for v in np.atleast_1d(d)]


def _statistics(
    Y: Any,
    X: Any,
    Z: Any,
    sizes: list[int],
    n_blocks: int | None,
) -> SummaryStatistics:
    values = _matrix(Y)
    options = {}
    if n_blocks is not None:
        options["block"] = max(1, -(-np.shape(X)[0] // n_blocks))
    return summary_statistics_from_matrices(
        values.T,
        X,
        Z,
        component_sizes=sizes,
        genes=_names(Y, "index") or [f"Gene{i + 1}" for i in range(values.shape[0])],
        components=[f"var{k + 1}" for k in range(len(sizes))],
        **options,
    )


def _as_list(stats: SummaryStatistics) -> RList:
    """Cross-products in FLASHMM's orientation."""
    x, z, genes = list(stats.coefficients), list(stats.Z_levels), list(stats.genes)
    ZZ = stats.ZtZ.toarray() if sparse.issparse(stats.ZtZ) else stats.ZtZ
    return RList(
        XX=pd.DataFrame(stats.XtX, x, x),
        XY=pd.DataFrame(stats.YtX.T, x, genes),
        ZX=pd.DataFrame(stats.ZtX, z, x),
        ZY=pd.DataFrame(stats.YtZ.T, z, genes),
        ZZ=pd.DataFrame(ZZ, z, z),
        Ynorm=pd.Series(stats.yty, genes),
        n=stats.n_cells,
    )


def _from_list(given: Mapping[str, Any], d: int | Sequence[int] | None) -> SummaryStatistics:
    """Cross-products back from FLASHMM's orientation, shapes checked."""
    missing = [
        name for name in ("XX", "XY", "ZX", "ZY", "ZZ", "Ynorm", "n") if given.get(name) is None
    ]
    if missing:
        raise InputError(f"These summary statistics are missing: {', '.join(missing)}.")
    values = {name: _dense(given[name]) for name in ("XX", "XY", "ZX", "ZY", "ZZ")}
    norm = np.atleast_1d(np.asarray(given["Ynorm"], dtype=np.float64))
    p, q, G = len(values["XX"]), len(values["ZZ"]), len(norm)
    sizes = _sizes(d)
    if sum(sizes) != q:
        raise InputError(
            f"d must sum to the {q} columns of Z; found {sizes}, which sum to {sum(sizes)}."
        )
    shapes = {"XX": (p, p), "XY": (p, G), "ZX": (q, p), "ZY": (q, G), "ZZ": (q, q)}
    for name, shape in shapes.items():
        if values[name].shape == (shape[0],) and G == 1:
            values[name] = values[name][:, None]
        if values[name].shape != shape:
            raise InputError(f"{name} must have shape {shape}; found {values[name].shape}.")
        if not np.isfinite(values[name]).all():
            raise InputError(f"{name} holds values that are not finite.")
    genes = _names(given["XY"], "columns") or [f"Gene{i + 1}" for i in range(G)]
    return SummaryStatistics(
        XtX=values["XX"],
        YtX=values["XY"].T,
        ZtX=values["ZX"],
        ZtZ=values["ZZ"],
        yty=norm,
        n_cells=int(given["n"]),
        X_sum=None,
        Z_sum=None,
        component_sizes=tuple(sizes),
        genes=pd.Index(genes),
        coefficients=tuple(_names(given["XX"], "columns") or [f"X{j + 1}" for j in range(p)]),
        components=tuple(f"var{k + 1}" for k in range(len(sizes))),
        Z_levels=pd.Index(_names(given["ZZ"], "columns") or [f"Z{j + 1}" for j in range(q)]),
        coefficient_columns=(frozenset(),) * p,
        products_YtZ=values["ZY"].T,
    )


def _dense(values: Any) -> np.ndarray:
    values = values.to_numpy() if isinstance(values, pd.DataFrame) else values
    values = values.toarray() if hasattr(values, "toarray") else values
    return np.asarray(values, dtype=np.float64)


def _fit(
    stats: SummaryStatistics,
    theta0: Sequence[float] | None,
    method: str,
    max_iter: int,
    epsilon: float,
    output_cov: bool,
    output_FIM: bool,
    output_RE: bool,
    verbose: bool,
) -> RList:
    """Fit without bounds and put the results in FLASHMM's words."""
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}; found {method!r}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FlashmmWarning)
        fit = fit_lmm(
            stats,
            method=METHODS[method],
            nonnegative=False,
            start=theta0,
            max_iter=max_iter,
            tol=TOL_PER_EPSILON_SQUARED * epsilon**2,
        )
    _warn_zeros(fit)
    cov = fit.covariance(fit.optimised)
    result = RList(method=METHODS[method], epsilon=epsilon, status=pd.Series(fit.status, fit.genes))
    result |= _estimates(fit, cov) | _components(fit, METHODS[method])
    if output_cov:
        result["cov"] = np.moveaxis(cov, 0, -1)
    if output_FIM:
        result["FIM_beta"] = np.moveaxis(_inverse(cov), 0, -1)
        result["FIM_theta"] = np.moveaxis(fit.fisher_information, 0, -1)
    if output_RE:
        result["RE"] = pd.DataFrame(fit.blup().T, list(stats.Z_levels), fit.genes)
    if verbose:
        print(f"{(fit.status == Status.NOT_CONVERGED).sum()} feature(s) did not converge.")
    return result


def _warn_zeros(fit: LMMFit) -> None:
    zeros = int((fit.status == Status.ALL_ZERO).sum())
    if zeros:
        warnings.warn(f"{zeros} feature(s) with only zero counts!", FlashmmWarning, stacklevel=4)


def _estimates(fit: LMMFit, cov: np.ndarray) -> dict[str, Any]:
    """Coefficients, standard errors, t and p, each coefficients × genes."""
    with np.errstate(invalid="ignore", divide="ignore"):
        se = np.sqrt(np.einsum("gpp->gp", cov))
        t = fit.coef / se
    p, _ = t_tail(t, np.full(t.shape, float(fit.df_residual)), "two-sided")
    names = list(fit.coefficients)
    table = {"coef": fit.coef, "se": se, "t": t, "p": p}
    frames = {key: pd.DataFrame(value.T, names, fit.genes) for key, value in table.items()}
    return frames | {"df": fit.df_residual}


def _components(fit: LMMFit, method: str) -> dict[str, Any]:
    """Variance components and how the optimiser ended, each components × genes."""
    rows = [*fit.components[:-1], "var0"]
    with np.errstate(invalid="ignore"):
        se = np.sqrt(np.einsum("gkk->gk", fit.theta_cov))
    # FLASHMM's REML criterion has no log|X'X|
    shift = 0.5 * fit.model.projection.log_det_XtX if method == "REML" else 0.0
    return {
        "theta": pd.DataFrame(fit.theta.T, rows, fit.genes),
        "se_theta": pd.DataFrame(se.T, rows, fit.genes),
        "dlogL": pd.DataFrame(fit.score().T, rows, fit.genes),
        "logLik": pd.Series(fit.loglik + shift, fit.genes),
        "niter": pd.Series(fit.n_iter, fit.genes),
    }


def _inverse(cov: np.ndarray) -> np.ndarray:
    """Information of the fixed effects; NaN rows and columns of aliased ones stay NaN."""
    information = np.full(cov.shape, np.nan)
    for g, matrix in enumerate(cov):
        kept = np.flatnonzero(np.isfinite(np.diag(matrix)))
        if len(kept):
            information[g][np.ix_(kept, kept)] = np.linalg.inv(matrix[np.ix_(kept, kept)])
    return information


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
