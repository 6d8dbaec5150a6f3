"""The baseline that flashmm is compared with: statsmodels' MixedLM, gene by gene, on the cells.

MixedLM is a poor oracle. Its default optimisers end in "Singular matrix" where a variance component
is zero, and what they call converged need not be the optimum. So every gene is tried with a
documented list of optimisers, each from MixedLM's own start values, until one gives a usable fit;
every attempt is kept with its outcome, and the log-likelihood is kept so that it can be said whose
fit is better.

The log-likelihood needs no conversion: MixedLM's `llf` is, with ν = n − p under REML (n under ML),

    −½ {ν log(2π Q/ν) + ν + log|W| + [REML: log|X'W⁻¹X|]},   W = V/σ²,  Q = (y − Xβ)'W⁻¹(y − Xβ),

which is lme4's `logLik` with all its constants. MixedLM tests with z; its p-values have no degrees
of freedom, and with few subjects they are too small.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from flashmm.benchmark.truth import adjust_per_contrast
from flashmm.cells.counts import read_genes
from flashmm.cells.summary import Data
from flashmm.design.columns import CellDesign, cell_design
from flashmm.design.contrasts import Contrast, resolve_contrasts
from flashmm.kernels.rotation import independent_columns
from flashmm.kernels.tails import chi2_tail, normal_tail
from flashmm.kernels.threads import single_blas_thread
from flashmm.names import listed
from flashmm.options import DesignError, InputError, Status, checked, note

__all__ = ["MixedLMResult", "choose_genes", "fit_mixedlm"]

# optimisers that are tried, in their order, and those that MixedLM knows
TRIED = ("lbfgs", "bfgs", "powell")
OPTIMISERS = ("lbfgs", "bfgs", "cg", "powell", "nm", "basinhopping")
# a component below this share of the residual variance is at the boundary
BOUNDARY_RATIO = 1e-6
# what statsmodels, scipy and LAPACK raise when a fit breaks down
_BREAKDOWNS = (np.linalg.LinAlgError, ArithmeticError, RuntimeError, ValueError)


@dataclass(frozen=True, eq=False)
class MixedLMResult:
    """MixedLM fits of some genes.

    Attributes
    ----------
    coefficients : DataFrame
        `gene, coefficient, estimate, std_error, statistic` (z), `p_value`; NaN where there is no
        fit.
    tests : DataFrame
        The contrasts as a tidy frame of tests: `gene, contrast, estimate, std_error, statistic, df`
        (infinite), `p_value, log10_p, adj_p_value, status`, and `df_num` where several rows are
        tested jointly (then `statistic` is Wald's chi-squared over `df_num`).
    fits : DataFrame
        Per gene `optimiser` (the one whose fit was taken), `converged, status, loglik` (lme4's
        convention), `theta:<component>`, `seconds` (all attempts), `peak_memory_mib` (of the
        process, until then), `attempts`.
    attempts : DataFrame
        Every optimiser tried: `gene, optimiser, accepted, reason` (why not), `converged, loglik,
        seconds, warnings`.
    options : dict
        How it was fitted: formulas, transform, criterion (REML or not), optimisers, version of
        statsmodels.
    notes : tuple of str
        What was decided for the user.
    """

    coefficients: pd.DataFrame
    tests: pd.DataFrame
    fits: pd.DataFrame
    attempts: pd.DataFrame
    options: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def failures(self) -> pd.DataFrame:
        """Attempts whose fit cannot be used: `gene, optimiser, reason`."""
        failed = self.attempts[~self.attempts["accepted"]]
        return failed[["gene", "optimiser", "reason"]].reset_index(drop=True)

    @property
    def failure_counts(self) -> pd.DataFrame:
        """Per optimiser: `optimiser, tried, failed`, in the order of trying."""
        counts = self.attempts.groupby("optimiser", sort=False)["accepted"].agg(["size", "sum"])
        counts = counts.reindex(list(self.options["optimisers"]), fill_value=0)
        failed = counts["size"] - counts["sum"]
        return pd.DataFrame(
            {
                "optimiser": counts.index,
                "tried": counts["size"].to_numpy(int),
                "failed": failed.to_numpy(int),
            }
        )


@checked
def fit_mixedlm(
    data: Data,
    genes: Iterable[str],
    fixed: str,
    random: str | Sequence[str] | None = None,
    *,
    transform: str = "log2p1",
    reml: bool = True,
    optimisers: Sequence[str] = TRIED,
    contrasts: Any = None,
    layer: str | None = None,
    methods: Sequence[str] | None = None,
) -> MixedLMResult:
    """Fit statsmodels' MixedLM to some genes.

    Parameters
    ----------
    data : AnnData or path
        Cells × genes; of a file only the columns of `genes` are kept in memory.
    genes : iterable of str
        Genes to fit, one model each.
    fixed, random : str, sequence of str or None
        Formulas as for `summary_statistics`.
    transform : str
        Transform of the counts as for `summarise`.
    reml : bool
        Restricted (default) or full maximum likelihood.
    optimisers : sequence of str
        Optimisers, in the order of trying. Each starts from MixedLM's own start values; the first
        fit that can be used is taken.
    contrasts : optional
        Contrasts as for `contrast_tests`; None tests every coefficient.
    layer : str, optional
        Layer of the counts instead of X.
    methods : sequence of str, optional
        The former name of `optimisers`.

    Returns
    -------
    MixedLMResult

    Raises
    ------
    InputError
        No gene, genes that are not in the data or are asked for twice, or no optimiser.
    FormulaError, DesignError
        From the formulas.

    Notes
    -----
    A fit can be used when it converged with a finite log-likelihood and finite, positive standard
    errors: MixedLM calls fits converged whose likelihood is not a number. If no optimiser gives
    one, the fit of highest likelihood is kept, with status ``not_converged``. Warnings are kept in
    `attempts`, and not shown. A gene without any count is not tried (status ``all_zero``).

    One random component is a random intercept (or slope) of MixedLM's groups. Several are variance
    components within the finest groups that share no level: subjects for components nested in
    subjects, all cells in one group for crossed ones.
    """
    if methods is not None:
        warnings.warn(
            "fit_mixedlm: 'methods' is now called 'optimisers'.", DeprecationWarning, stacklevel=2
        )
        optimisers = methods
    genes, optimisers = _valid_names(genes, "genes"), _valid_names(optimisers, "optimisers")
    unknown = [name for name in optimisers if name not in OPTIMISERS]
    if unknown:
        raise InputError(
            f"optimisers: {listed(unknown)} do not fit MixedLM; use some of {listed(OPTIMISERS)}."
        )
    obs, values = read_genes(data, genes, transform=transform, layer=layer)
    problem = _problem(cell_design(obs, fixed, random), reml)
    resolved = resolve_contrasts(
        contrasts, list(problem.design.X.columns), problem.design.coefficient_columns
    )
    with single_blas_thread():
        outcomes = [
            _fit_gene(problem, g, y, optimisers) for g, y in zip(genes, values.T, strict=True)
        ]
    options = {
        "fixed": fixed,
        "random": [random] if isinstance(random, str) else random and list(random),
        "transform": transform,
        "reml": reml,
        "optimisers": list(optimisers),
        "statsmodels": version("statsmodels"),
    }
    return _assemble(problem, outcomes, resolved, options)


def choose_genes(groups_or_names: Any, n: int, seed: int | np.random.SeedSequence = 0) -> list[str]:
    """Choose genes for the baseline, spread over the range of expression.

    Parameters
    ----------
    groups_or_names : GroupStatistics, Series or sequence of str
        Groups, or mean expression indexed by gene: genes without expression are left out, the
        others are cut into `n` strata of equal size by their mean and one is drawn from each. Names
        alone: drawn at random.
    n : int
        Number of genes; all are taken when there are fewer.
    seed : int or SeedSequence
        Seed of the draws.

    Returns
    -------
    list of str
        In the order of the data.
    """
    if n < 1:
        raise InputError(f"n: {n} genes asked for; ask for at least one.")
    rng = np.random.default_rng(seed)
    names, ranked = _by_expression(groups_or_names, rng)
    if len(ranked) > n:
        # stratum i holds the ranks from ⌊i·G/n⌋ to ⌊(i + 1)·G/n⌋
        edges = np.arange(n + 1) * len(ranked) // n
        ranked = ranked[rng.integers(edges[:-1], edges[1:])]
    return [str(name) for name in names[np.sort(ranked)]]


def _by_expression(source: Any, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Names of all genes, and the places of those to choose from, from low to high expression."""
    if isinstance(source, pd.Series):
        names, mean = source.index.to_numpy(), source.to_numpy(dtype=float)
    elif hasattr(source, "genes") and hasattr(source, "sum"):
        names, mean = np.asarray(source.genes), np.asarray(source.sum).sum(axis=0)
    else:
        names = np.asarray(list(source), dtype=object)
        return names, rng.permutation(len(names))
    order = np.argsort(mean, kind="stable")
    return names, order[mean[order] > 0]


# ----------------------------------------------------------------------------------------------
# The model that genes share


@dataclass(frozen=True, eq=False)
class _Problem:
    """What all genes share: the design, and the arguments of MixedLM made from it."""

    design: CellDesign
    X: np.ndarray
    kept: np.ndarray
    reml: bool
    arguments: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def components(self) -> tuple[str, ...]:
        return tuple(self.design.components)


def _problem(design: CellDesign, reml: bool) -> _Problem:
    _statsmodels()  # now, not in the seconds of the first gene
    X = design.X.to_numpy(dtype=float)
    kept = independent_columns(X.T @ X)
    if not kept.any() or not len(design.components):
        raise DesignError("MixedLM needs at least one estimable fixed effect and one random term.")
    notes = tuple(design.notes)
    if not kept.all():
        dropped = listed(design.X.columns[~kept], 20)
        notes += (note(f"MixedLM: linearly dependent fixed effects were dropped: {dropped}."),)
    return _Problem(design, X[:, kept], kept, reml, _random_arguments(design), notes)


def _statsmodels() -> Any:
    """MixedLM's module, which takes a second to import and is not needed to name a method."""
    from statsmodels.regression import mixed_linear_model

    return mixed_linear_model


def _random_arguments(design: CellDesign) -> dict[str, Any]:
    """Arguments `groups`, `exog_re`, `exog_vc` of MixedLM for the random design."""
    if 0 in design.component_sizes:
        raise DesignError(
            "the comparison with MixedLM takes independent random effects, and this model has a "
            "covariance of two; write || in the place of |."
        )
    Z = sparse.csr_array(design.Z)
    if len(design.component_sizes) == 1:
        # a cell has one level at most; one whose slope is zero belongs anywhere
        level = np.asarray(abs(Z).argmax(axis=1)).ravel()
        return {"groups": level, "exog_re": Z.sum(axis=1).reshape(-1, 1)}
    groups = _independent_groups(Z)
    mats, names = [], []
    for part, labels in _component_columns(Z, design):
        in_groups = [part[groups == g].toarray() for g in range(groups.max() + 1)]
        used = [np.flatnonzero(np.abs(block).sum(axis=0)) for block in in_groups]
        mats.append([block[:, columns] for block, columns in zip(in_groups, used, strict=True)])
        names.append([list(labels[columns]) for columns in used])
    return {
        "groups": groups,
        "exog_vc": _statsmodels().VCSpec(list(design.components), names, mats),
    }


def _component_columns(
    Z: sparse.csr_array, design: CellDesign
) -> Iterator[tuple[sparse.csr_array, np.ndarray]]:
    """Yield the columns of Z of each component, and their names."""
    ends = np.cumsum(design.component_sizes)
    levels = np.asarray(design.Z_levels, dtype=object)
    for end, size in zip(ends, design.component_sizes, strict=True):
        yield Z[:, end - size : end], levels[end - size : end]


def _independent_groups(Z: sparse.csr_array) -> np.ndarray:
    """Number the finest groups of cells that share no level of any component, (cells,) int."""
    # cells and levels are the nodes of a graph, the entries of Z its edges
    n = Z.shape[0]
    blocks: Any = [[None, Z], [Z.T, None]]
    edges = sparse.block_array(blocks)
    _, label = connected_components(edges, directed=False)
    return np.unique(label[:n], return_inverse=True)[1]


# ----------------------------------------------------------------------------------------------
# One gene


@dataclass(frozen=True, eq=False)
class _Attempt:
    """One optimiser on one gene; arrays are of the independent columns."""

    optimiser: str
    reason: str
    converged: bool = False
    loglik: float = np.nan
    coef: np.ndarray | None = None
    cov: np.ndarray | None = None
    theta: np.ndarray | None = None
    seconds: float = np.nan
    warnings: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        return not self.reason


@dataclass(frozen=True, eq=False)
class _Outcome:
    """All attempts on one gene, and the one that is taken."""

    gene: str
    status: Status
    attempts: tuple[_Attempt, ...] = ()
    taken: _Attempt | None = None
    seconds: float = 0.0
    peak_memory_mib: float = field(default_factory=lambda: peak_memory_mib())


def _fit_gene(problem: _Problem, gene: str, y: np.ndarray, optimisers: Sequence[str]) -> _Outcome:
    if not y.any():
        return _Outcome(gene, Status.ALL_ZERO)
    start = time.perf_counter()
    attempts: list[_Attempt] = []
    for optimiser in optimisers:
        attempts.append(_attempt(problem, y, optimiser))
        if attempts[-1].accepted:
            break
    seconds = time.perf_counter() - start
    taken = _best(attempts)
    return _Outcome(gene, _status(taken), tuple(attempts), taken, seconds)


def _attempt(problem: _Problem, y: np.ndarray, optimiser: str) -> _Attempt:
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = _statsmodels().MixedLM(y, problem.X, **problem.arguments)
            found = _read(problem, model.fit(reml=problem.reml, method=[optimiser]))
        except _BREAKDOWNS as error:
            found = {"reason": f"{type(error).__name__}: {error}"}
    said = tuple(dict.fromkeys(str(warning.message) for warning in caught))
    seconds = time.perf_counter() - start
    return _Attempt(optimiser, **found, seconds=seconds, warnings=said)


def _read(problem: _Problem, result: Any) -> dict[str, Any]:
    """Take what is compared from MixedLM's result, and say why it cannot be used if so."""
    p = problem.X.shape[1]
    components = result.vcomp if "exog_vc" in problem.arguments else np.diag(result.cov_re)
    found: dict[str, Any] = {
        "converged": bool(result.converged),
        "loglik": float(result.llf),
        "coef": np.asarray(result.fe_params, dtype=float),
        "cov": np.asarray(result.cov_params(), dtype=float)[:p, :p],
        "theta": np.append(np.asarray(components, dtype=float), result.scale),
    }
    return found | {"reason": _why_not(**found)}


def _why_not(
    converged: bool, loglik: float, coef: np.ndarray, cov: np.ndarray, theta: np.ndarray
) -> str:
    """Reason why a fit cannot be used, empty if it can."""
    if not np.isfinite(loglik):
        return "log-likelihood is not finite"
    if not (np.isfinite(coef).all() and np.isfinite(theta).all()):
        return "estimates are not finite"
    if not (np.isfinite(cov).all() and (np.diag(cov) > 0).all()):
        return "standard errors are not defined"
    return "" if converged else "not converged"


def _best(attempts: Sequence[_Attempt]) -> _Attempt | None:
    """Take the usable fit, else the one of highest likelihood among those that have estimates."""
    if attempts[-1].accepted:
        return attempts[-1]
    finite = [a for a in attempts if a.coef is not None and np.isfinite(a.loglik)]
    return max(finite, key=lambda a: a.loglik, default=None)


def _status(taken: _Attempt | None) -> Status:
    if taken is None or taken.theta is None or not taken.accepted:
        return Status.NOT_CONVERGED
    ratio = taken.theta[:-1] / taken.theta[-1]
    return Status.BOUNDARY if (ratio < BOUNDARY_RATIO).any() else Status.OK


def peak_memory_mib() -> float:
    """Return the peak resident memory of this process so far, in MiB; NaN where it is not told."""
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


# ----------------------------------------------------------------------------------------------
# Tables


def _assemble(
    problem: _Problem,
    outcomes: Sequence[_Outcome],
    contrasts: Sequence[Contrast],
    options: dict[str, Any],
) -> MixedLMResult:
    names = problem.design.X.columns
    coefficients = [
        Contrast(str(name), row[None]) for name, row in zip(names, np.eye(len(names)), strict=True)
    ]
    coefficient_tests = _tests(problem, outcomes, coefficients)
    columns = ["gene", "coefficient", "estimate", "std_error", "statistic", "p_value"]
    return MixedLMResult(
        coefficients=coefficient_tests.rename(columns={"contrast": "coefficient"})[columns],
        tests=_tests(problem, outcomes, contrasts),
        fits=pd.DataFrame([_fit_row(problem, outcome) for outcome in outcomes]),
        attempts=_attempts_frame(outcomes),
        options=options,
        notes=problem.notes,
    )


def _fit_row(problem: _Problem, outcome: _Outcome) -> dict[str, Any]:
    taken = outcome.taken
    names = [f"theta:{name}" for name in (*problem.components, "residual")]
    missing = np.full(len(names), np.nan)
    theta = missing if taken is None or taken.theta is None else taken.theta
    return {
        "gene": outcome.gene,
        "optimiser": "" if taken is None else taken.optimiser,
        "converged": taken is not None and taken.accepted,
        "status": str(outcome.status),
        "loglik": np.nan if taken is None else taken.loglik,
        **dict(zip(names, theta, strict=True)),
        "seconds": outcome.seconds,
        "peak_memory_mib": outcome.peak_memory_mib,
        "attempts": len(outcome.attempts),
    }


_ATTEMPT_COLUMNS = {
    "gene": "object",
    "optimiser": "object",
    "accepted": "bool",
    "reason": "object",
    "converged": "bool",
    "loglik": "float64",
    "seconds": "float64",
    "warnings": "object",
}


def _attempts_frame(outcomes: Sequence[_Outcome]) -> pd.DataFrame:
    rows = [
        {name: getattr(attempt, name) for name in list(_ATTEMPT_COLUMNS)[1:]}
        | {"gene": outcome.gene, "warnings": "; ".join(attempt.warnings)}
        for outcome in outcomes
        for attempt in outcome.attempts
    ]
    return pd.DataFrame(rows, columns=list(_ATTEMPT_COLUMNS)).astype(_ATTEMPT_COLUMNS)


def _tests(
    problem: _Problem, outcomes: Sequence[_Outcome], contrasts: Sequence[Contrast]
) -> pd.DataFrame:
    """Wald tests of contrasts, genes outermost, adjusted per contrast."""
    rows = [
        {"gene": outcome.gene, "contrast": contrast.name} | _wald(problem, outcome, contrast)
        for outcome in outcomes
        for contrast in contrasts
    ]
    frame = pd.DataFrame(rows)
    adjusted = adjust_per_contrast(frame["p_value"].to_numpy(), frame["contrast"])
    frame.insert(list(frame).index("log10_p") + 1, "adj_p_value", adjusted)
    return frame if (frame["df_num"] > 1).any() else frame.drop(columns="df_num")


def _wald(problem: _Problem, outcome: _Outcome, contrast: Contrast) -> dict[str, Any]:
    L, taken = np.atleast_2d(np.asarray(contrast.matrix, dtype=float)), outcome.taken
    status = outcome.status
    test = dict.fromkeys(("estimate", "std_error", "statistic"), np.nan) | {"df": np.inf}
    test |= {"p_value": np.nan, "log10_p": np.nan}
    if status in (Status.OK, Status.BOUNDARY) and L[:, ~problem.kept].any():
        status = Status.NOT_ESTIMABLE
    elif taken is not None and taken.coef is not None:
        test |= _wald_numbers(L[:, problem.kept], taken)
    return test | {"status": str(status), "df_num": len(L)}


def _wald_numbers(L: np.ndarray, taken: _Attempt) -> dict[str, float]:
    """One row: z = l'β / √(l'Cl). Several: F = (Lβ)'(LCL')⁻¹(Lβ) / rows, chi-squared × 1/rows."""
    effect, cov = L @ taken.coef, L @ taken.cov @ L.T
    if len(L) > 1:
        wald = float(effect @ np.linalg.lstsq(cov, effect, rcond=None)[0])
        p, log10_p = chi2_tail(np.array([wald]), len(L))
        return {"statistic": wald / len(L), "p_value": float(p[0]), "log10_p": float(log10_p[0])}
    std_error = float(np.sqrt(cov[0, 0])) if cov[0, 0] > 0 else np.nan
    z = float(effect[0] / std_error)
    p, log10_p = normal_tail(np.array(z))
    return {
        "estimate": float(effect[0]),
        "std_error": std_error,
        "statistic": z,
        "p_value": float(p),
        "log10_p": float(log10_p),
    }


# ----------------------------------------------------------------------------------------------
# Small helpers


def _valid_names(names: Iterable[str], what: str) -> list[str]:
    given = [names] if isinstance(names, str) else [str(name) for name in names]
    if not given:
        raise InputError(f"{what}: none given; give at least one.")
    twice = sorted({name for name in given if given.count(name) > 1})
    if twice:
        raise InputError(f"{what}: {listed(twice)} are given more than once.")
    return given
