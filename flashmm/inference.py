"""Test contrasts of the fixed effects, with degrees of freedom that know about subjects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from flashmm.advice import advise_contrasts, advise_fit, note_cell_df
from flashmm.between import SubjectDesign, columns_of
from flashmm.contrasts import Contrast, resolve_contrasts
from flashmm.crossproducts import SummaryStatistics
from flashmm.kernels import ddf as kernels
from flashmm.kernels import moderation, student
from flashmm.kernels.engine import VarianceForms
from flashmm.lmm import LMMFit
from flashmm.options import DesignError, FitOptions, InputError, Status, note
from flashmm.subjects import between_df, estimates_without, independent_subjects

# Options that take the Kenward-Roger variance; the last two need the subjects of the cells.
BY_SUBJECTS = ("kenward-roger-floor", "between-within")
KENWARD_ROGER = ("kenward-roger", *BY_SUBJECTS)
JACKKNIFE = ("jackknife", "jackknife-refit")
DDF = (*KENWARD_ROGER, "satterthwaite", "residual", *JACKKNIFE)
ALTERNATIVES = ("two-sided", "less", "greater")

# Variance of a contrast, relative to the one that the total variance would give it, that is none.
NO_VARIANCE = 1e-12

# Names of the tidy columns in the words of pertpy's linear models.
PERTPY_NAMES = {"gene": "variable", "estimate": "log_fc", "std_error": "sd", "statistic": "t_value"}


class FittedBlock(Protocol):
    """Fitted genes that share a design, with what their tests need.

    Components θ end with the residual. Contrasts are rows (C, p) over all coefficients, zero where
    `kept` is not.
    """

    @property
    def index(self) -> np.ndarray:
        """Which genes of the fit, (block,) int."""

    @property
    def kept(self) -> np.ndarray:
        """Coefficients that the design can estimate, (p,) bool."""

    @property
    def df_residual(self) -> int:
        """Number of observations minus the rank of X."""

    @property
    def theta(self) -> np.ndarray:
        """Variance components, (block, k)."""

    def observed_information(self) -> np.ndarray:
        """Observed information of θ, (block, k, k)."""

    def variance_forms(self, left: np.ndarray, right: np.ndarray) -> VarianceForms:
        """Covariances of the rows of `left` and `right` times β̂, and derivatives in θ."""


class ModelFit(Protocol):
    """What a fit offers to be tested; `LMMFit` and `KinshipFit` do."""

    @property
    def genes(self) -> pd.Index:
        """Names of the genes."""

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Names of the coefficients."""

    @property
    def coefficient_columns(self) -> tuple[frozenset[str], ...]:
        """Data columns that each coefficient holds; empty where they are not known."""

    @property
    def coef(self) -> np.ndarray:
        """Fixed effects, (genes, p)."""

    @property
    def fisher_information(self) -> np.ndarray:
        """Expected information of θ, (genes, k, k)."""

    @property
    def status(self) -> np.ndarray:
        """One `Status` per gene."""

    @property
    def fitted(self) -> np.ndarray:
        """Genes that can be tested, (genes,) bool."""

    @property
    def estimable(self) -> np.ndarray:
        """Coefficients that were estimated for any gene, (p,) bool."""

    @property
    def options(self) -> FitOptions:
        """How it was fitted."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided for the user."""

    @property
    def stats(self) -> SummaryStatistics | None:
        """Statistics of cells that stand behind the fit, if any."""

    def test_blocks(self) -> Iterator[FittedBlock]:
        """Fitted genes in blocks of bounded memory and one design."""


@dataclass(frozen=True, eq=False)
class TestTable:
    """Tests of contrasts for every gene.

    Attributes
    ----------
    estimate, std_error : (genes, contrasts) arrays
        c'β̂ and its standard error (Kenward-Roger's where asked for); NaN for joint F tests.
    statistic : (genes, contrasts) array
        t, or F for joint tests; of the minimum effect where there is one.
    df : (genes, contrasts) array
        Denominator degrees of freedom.
    conf_low, conf_high : (genes, contrasts) arrays
        Confidence limits of the estimate at `level`, from the same standard error and df; one of
        them infinite for a one-sided alternative, NaN for joint F tests.
    df_num : (contrasts,) array
        Numerator degrees of freedom; one for single contrasts.
    p_value, log10_p, adj_p_value : (genes, contrasts) arrays
        `log10_p` is finite where p underflows; adjusted per contrast by Benjamini-Hochberg.
    status : (genes, contrasts) array of str
        The gene's `Status`, or "not_estimable".
    genes : pandas.Index
        Names of the genes.
    contrasts : tuple of Contrast
        What was tested.
    ddf, alternative : str
        How it was tested.
    notes : tuple of str
        What was decided for the user.
    level : float
        Coverage of the confidence intervals.
    lfc : float
        The minimum effect that was tested; zero is the usual test.
    between_df : (contrasts,) array
        Degrees of freedom between subjects; NaN for contrasts that vary within subjects, and where
        subjects are not known.
    prior_df, prior_variance : (contrasts,) arrays
        Prior of moderated variances, d₀ and s₀²; NaN without moderation.
    """

    __test__ = False  # the name begins with "Test": pytest must not collect it

    estimate: np.ndarray
    std_error: np.ndarray
    statistic: np.ndarray
    df: np.ndarray
    df_num: np.ndarray
    conf_low: np.ndarray
    conf_high: np.ndarray
    p_value: np.ndarray
    log10_p: np.ndarray
    adj_p_value: np.ndarray
    status: np.ndarray
    genes: pd.Index
    contrasts: tuple[Contrast, ...]
    ddf: str
    alternative: str
    between_df: np.ndarray
    prior_df: np.ndarray
    prior_variance: np.ndarray
    notes: tuple[str, ...] = ()
    level: float = 0.95
    lfc: float = 0.0

    @property
    def contrast_names(self) -> tuple[str, ...]:
        """Names of the contrasts."""
        return tuple(contrast.name for contrast in self.contrasts)

    def to_frame(self, names: str = "flashmm") -> pd.DataFrame:
        """One row per contrast and gene.

        Parameters
        ----------
        names : {"flashmm", "pertpy"}
            Column names: the package's own, or those of pertpy's linear models.

        Returns
        -------
        pandas.DataFrame
            Columns gene, contrast, estimate, std_error, conf_low, conf_high, statistic, df,
            (df_num, if any test is joint,) p_value, log10_p, adj_p_value, status; contrasts one
            after another, genes in their order.
        """
        if names not in ("flashmm", "pertpy"):
            raise InputError(f"names must be 'flashmm' or 'pertpy'; found {names!r}.")
        G, C = self.p_value.shape
        columns: dict[str, Any] = {
            "gene": np.tile(np.asarray(self.genes, dtype=object), C),
            "contrast": np.repeat(np.array(self.contrast_names, dtype=object), G),
        }
        for name in ("estimate", "std_error", "conf_low", "conf_high", "statistic", "df"):
            columns[name] = getattr(self, name).T.ravel()
        if (self.df_num > 1).any():
            columns["df_num"] = np.repeat(self.df_num, G)
        for name in ("p_value", "log10_p", "adj_p_value", "status"):
            columns[name] = getattr(self, name).T.ravel()
        frame = pd.DataFrame(columns)
        return frame if names == "flashmm" else frame.rename(columns=PERTPY_NAMES)

    def __repr__(self) -> str:
        hits = int((self.adj_p_value < 0.05).sum())
        return (
            f"TestTable({len(self.genes)} genes × {len(self.contrasts)} contrasts, {self.ddf}, "
            f"{self.alternative}: {hits} with adjusted p < 0.05)"
        )


def contrast_tests(
    fit: ModelFit,
    contrasts: Any = None,
    ddf: str | None = None,
    alternative: str = "two-sided",
    *,
    level: float = 0.95,
    lfc: float = 0.0,
    moderate: bool = False,
) -> TestTable:
    """Test coefficients and contrasts of every gene.

    Parameters
    ----------
    fit : LMMFit or KinshipFit
        The fitted models.
    contrasts : optional
        None tests every coefficient. A string is a column name (every coefficient whose term holds
        the column) or an expression in coefficient names; a list holds several; a dictionary maps
        names to expressions, to ``{coefficient: weight}``, or to lists of them for a joint F test;
        a matrix has R's shape, coefficients × contrasts.
    ddf : {"kenward-roger", "kenward-roger-floor", "between-within", ...}, optional
        Denominator degrees of freedom, or "satterthwaite", "residual", "jackknife"; default
        "kenward-roger" for REML, "satterthwaite" for ML.
        "kenward-roger-floor" raises Kenward-Roger's to the degrees of freedom between subjects
        where they are lower, "between-within" takes these; both leave contrasts that vary within
        subjects to Kenward-Roger. "residual" is n - rank(X) as in FLASHMM: with few subjects it
        rejects too often for effects between subjects. "jackknife" takes the variance from leaving
        out one subject at a time, components held (see `flashmm.jackknife`); "jackknife-refit"
        estimates them anew.
    alternative : {"two-sided", "less", "greater"}
        Direction of the alternative of single contrasts.
    level : float
        Coverage of the confidence intervals.
    lfc : float
        Test |effect| > lfc (effect > lfc, effect < -lfc) instead of an effect other than zero; in
        units of the estimate, log₂ for the transform log2p1.
    moderate : bool
        Shrink the variances of a contrast across genes by empirical Bayes.

    Returns
    -------
    TestTable
        Estimates, intervals, statistics, df, p-values and a status, genes × contrasts.

    Raises
    ------
    InputError
        An unknown option, Kenward-Roger for an ML fit, degrees of freedom between subjects for a
        fit without groups, or a joint test that is one-sided, moderated or of a minimum effect.
    FormulaError
        A contrast that cannot be read.
    DesignError
        A contrast over a column with a level that only one subject has.

    Notes
    -----
    Kenward & Roger 1997 (as pbkrtest), Satterthwaite as lmerTest (Kuznetsova 2017). Kenward-Roger
    keeps components at zero in the information, so that a singular fit does not return to
    cell-level df. Minimum effects as McCarthy & Smyth 2009, moderation after Smyth 2004.
    """
    plan = _Plan(_checked_ddf(fit, ddf), alternative, float(level), float(lfc), moderate)
    resolved = resolve_contrasts(contrasts, fit.coefficients, fit.coefficient_columns)
    plan.check_joint(resolved)
    everything = contrasts is None
    unreplicated = _unreplicated_columns(fit)
    _check_replication(fit, resolved, unreplicated, refuse=not everything)
    estimable = np.array(
        [_is_estimable(fit, c, unreplicated if everything else {}) for c in resolved]
    )

    table = _empty_table(fit, resolved)
    table["between_df"] = _between_df(fit, resolved, estimable, plan.ddf)
    if plan.ddf == "between-within":
        estimable &= ~(table["between_df"] < 1)
    status = np.where(estimable, fit.status[:, None], str(Status.NOT_ESTIMABLE))
    table["status"] = status.astype(f"<U{max(map(len, Status))}")
    notes = fit.notes
    if plan.ddf in JACKKNIFE:
        notes += _jackknife_tests(table, fit, resolved, estimable, plan.ddf == "jackknife-refit")
    else:
        for block in fit.test_blocks():
            _test_block(table, fit, resolved, estimable, _State.of(fit, block, plan.ddf))
    notes += note_cell_df(fit, table["df"], plan.ddf)
    if moderate:
        notes += _moderate(table, resolved)
    _fill_intervals(table, plan)
    _fill_p_values(table, plan)
    notes += advise_fit(fit)
    if not everything:
        notes += advise_contrasts(fit, resolved, table["between_df"], plan.ddf in JACKKNIFE)
    return TestTable(
        **table,
        genes=fit.genes,
        contrasts=resolved,
        ddf=plan.ddf,
        alternative=alternative,
        notes=notes,
        level=plan.level,
        lfc=plan.lfc,
    )


@dataclass(frozen=True)
class _Plan:
    """How to test, as asked for."""

    ddf: str
    alternative: str
    level: float
    lfc: float
    moderate: bool

    def __post_init__(self) -> None:
        if self.alternative not in ALTERNATIVES:
            raise InputError(
                f"alternative must be one of {', '.join(ALTERNATIVES)}; found {self.alternative!r}."
            )
        if not 0 < self.level < 1:
            raise InputError(f"level is a coverage between 0 and 1; found {self.level}.")
        if not (self.lfc >= 0 and np.isfinite(self.lfc)):
            raise InputError(f"lfc is a minimum effect, zero or above; found {self.lfc}.")

    def check_joint(self, contrasts: tuple[Contrast, ...]) -> None:
        """Joint F tests have no direction, no minimum and no single variance."""
        asked = {
            f"alternative={self.alternative!r}": self.alternative != "two-sided",
            f"lfc={self.lfc:g}": self.lfc > 0,
            "moderate=True": self.moderate,
        }
        joint = [c.name for c in contrasts if len(c.matrix) > 1]
        for option, is_asked in asked.items():
            if joint and is_asked:
                raise InputError(
                    f"Joint F tests have no direction, minimum effect or moderation; {option} was "
                    f"asked for, and {joint[0]!r} is one. Test its rows as contrasts of their own."
                )


def _checked_ddf(fit: ModelFit, ddf: str | None) -> str:
    reml = fit.options.method == "REML"
    ddf = ddf or ("kenward-roger" if reml else "satterthwaite")
    if ddf not in DDF:
        raise InputError(f"ddf must be one of {', '.join(DDF)}; found {ddf!r}.")
    if ddf in KENWARD_ROGER and not reml:
        raise InputError(
            f"ddf={ddf!r} is defined for REML fits and this one is ML: fit with "
            "method='REML', or use ddf='satterthwaite'."
        )
    return ddf


def _between_df(
    fit: ModelFit, contrasts: tuple[Contrast, ...], estimable: np.ndarray, ddf: str
) -> np.ndarray:
    """Degrees of freedom between subjects of every contrast, (contrasts,)."""
    design = SubjectDesign.of(fit)
    if design is None:
        if ddf in BY_SUBJECTS:
            raise InputError(
                f"ddf={ddf!r} counts the subjects of groups of cells, and this fit has no groups "
                "(matrices or a kinship): use 'kenward-roger', or fit from groups."
            )
        return np.full(len(contrasts), np.nan)
    return np.array(
        [
            design.between_df(c.matrix) if fine else np.nan
            for c, fine in zip(contrasts, estimable, strict=True)
        ]
    )


def _unreplicated_columns(fit: ModelFit) -> dict[str, str]:
    """Columns between subjects with a level that one subject has -> that, in words."""
    stats = fit.stats
    if stats is None or stats.design is None or stats.groups is None:
        return {}
    design, groups = stats.design, stats.groups
    subject = design.random[0].columns[0]
    found = {}
    for column in sorted(set().union(*fit.coefficient_columns) & set(groups.obs.columns)):
        values = groups.obs[column]
        if column == subject or pd.api.types.is_numeric_dtype(values):
            continue
        pairs = groups.obs[[subject, column]].astype(str).drop_duplicates()
        if pairs[subject].duplicated().any():
            continue  # varies within subjects
        counts = pairs[column].value_counts(sort=False)
        if (counts == 1).any():
            levels = ", ".join(repr(level) for level in counts.index[counts == 1])
            found[column] = f"level {levels} of {column!r} has one {subject}"
    return found


def _check_replication(
    fit: ModelFit, contrasts: tuple[Contrast, ...], unreplicated: dict[str, str], refuse: bool
) -> None:
    """Refuse (or, when every coefficient is tested, note) contrasts without replicate subjects."""
    for column, said in unreplicated.items():
        touched = [c.name for c in contrasts if column in columns_of(fit, c)]
        if not touched:
            continue
        text = (
            f"{said}, and an effect between subjects needs at least two per level: "
            f"{', '.join(map(repr, touched[:3]))} cannot be tested. Leave that level's cells out, "
            "or test something else."
        )
        if refuse:
            raise DesignError(text)
        note(text)


def _is_estimable(fit: ModelFit, contrast: Contrast, unreplicated: dict[str, str]) -> bool:
    """Whether a contrast avoids aliased coefficients and unreplicated columns."""
    aliased = bool((contrast.matrix[:, ~fit.estimable] != 0).any())
    return not aliased and not (columns_of(fit, contrast) & set(unreplicated))


def _empty_table(fit: ModelFit, contrasts: tuple[Contrast, ...]) -> dict[str, Any]:
    shape = (len(fit.genes), len(contrasts))
    t_test = ("estimate", "std_error", "conf_low", "conf_high", "statistic", "df")
    names = (*t_test, "p_value", "log10_p", "adj_p_value")
    table: dict[str, Any] = {name: np.full(shape, np.nan) for name in names}
    for name in ("between_df", "prior_df", "prior_variance"):
        table[name] = np.full(len(contrasts), np.nan)
    table["df_num"] = np.array([np.linalg.matrix_rank(c.matrix) for c in contrasts], dtype=float)
    return table


@dataclass(frozen=True, eq=False)
class _State:
    """A block of genes with the covariance of θ̂ that the degrees of freedom are made of."""

    block: FittedBlock
    coef: np.ndarray
    theta_cov: np.ndarray
    ddf: str

    @classmethod
    def of(cls, fit: ModelFit, block: FittedBlock, ddf: str) -> _State:
        """Satterthwaite needs the observed information, so the data once more."""
        if ddf == "satterthwaite":
            theta_cov = kernels.free_theta_cov(block.observed_information(), block.theta)
        else:
            theta_cov = kernels.invert_information(fit.fisher_information[block.index])
        return cls(block, fit.coef[block.index], theta_cov, ddf)

    def estimate(self, rows: np.ndarray) -> np.ndarray:
        """Rows (C, p) times β̂, (block, C)."""
        kept = self.block.kept
        # gene by gene, so that a result does not depend on its block
        return (self.coef[:, None, kept] @ rows[:, kept].T)[:, 0]


def _test_block(
    table: dict[str, Any],
    fit: ModelFit,
    contrasts: tuple[Contrast, ...],
    estimable: np.ndarray,
    state: _State,
) -> None:
    """Fill estimate, std_error, statistic and df of one block of genes."""
    index, aliased = state.block.index, ~state.block.kept
    here = np.array([not (c.matrix[:, aliased] != 0).any() for c in contrasts])
    table["status"][np.ix_(index, ~here)] = Status.NOT_ESTIMABLE
    joint, estimable = table["df_num"] > 1, estimable & here
    columns = np.flatnonzero(estimable & ~joint)
    if len(columns):
        rows = np.stack([_one_row(contrasts[j].matrix) for j in columns])
        results, none = _t_tests(rows, state, table["between_df"][columns])
        for name, values in results.items():
            table[name][np.ix_(index, columns)] = values
        gene, contrast = np.nonzero(none)
        table["status"][index[gene], columns[contrast]] = Status.ZERO_VARIANCE
    for j in np.flatnonzero(estimable & joint):
        test, none = _f_test(_independent_rows(contrasts[j].matrix), state, table["between_df"][j])
        table["statistic"][index, j], table["df"][index, j] = test
        table["status"][index[none], j] = Status.ZERO_VARIANCE


def _jackknife_tests(
    table: dict[str, Any],
    fit: ModelFit,
    contrasts: tuple[Contrast, ...],
    estimable: np.ndarray,
    refits: bool,
) -> tuple[str, ...]:
    """Fill the table from the estimates without each subject; say which cannot be left out."""
    if not isinstance(fit, LMMFit):
        raise InputError(
            f"The jackknife leaves out subjects of a fit of fit_lmm; this is a "
            f"{type(fit).__name__}. Use ddf='kenward-roger'."
        )
    subjects = independent_subjects(fit.stats)
    df = between_df(fit.stats, fit.model.kept, subjects)
    columns = np.flatnonzero(estimable)
    blocks = [_jackknife_rows(contrasts[j].matrix) for j in columns]
    # an empty block first, so that there may be no contrast
    rows = np.vstack([np.zeros((0, len(fit.coefficients))), *blocks])
    ends = np.cumsum([len(block) for block in blocks])
    kept = fit.model.kept
    centre = fit.coef[:, kept] @ rows[:, kept].T
    spread = [np.zeros((fit.n_genes, len(block), len(block))) for block in blocks]
    lost: list[list[str]] = [[] for _ in blocks]
    without = estimates_without(fit, subjects, rows, refits)
    for name, (estimate, possible) in zip(subjects.names, without, strict=True):
        for at, (end, block) in enumerate(zip(ends, blocks, strict=True)):
            own = slice(end - len(block), end)
            change = estimate[:, own] - centre[:, own]
            spread[at] += change[:, :, None] * change[:, None, :]
            lost[at] += [] if possible[own].all() else [str(name)]
    m = len(subjects)
    for at, (j, end, block) in enumerate(zip(columns, ends, blocks, strict=True)):
        few = bool(lost[at]) or df < len(block)
        value = centre[:, end - len(block) : end]
        _fill_jackknife(table, int(j), value, (m - 1) / m * spread[at], df, few)
    said = {contrasts[j].name: who for j, who in zip(columns, lost, strict=True) if who}
    return _note_lost(said, subjects.column, df)


def _jackknife_rows(matrix: np.ndarray) -> np.ndarray:
    rows = _independent_rows(matrix)
    return rows if len(rows) > 1 else _one_row(matrix)[None]


def _fill_jackknife(
    table: dict[str, Any], j: int, centre: np.ndarray, spread: np.ndarray, df: int, few: bool
) -> None:
    """Fill one contrast: estimates (genes, r) and the jackknife covariance (genes, r, r)."""
    r, status = centre.shape[1], table["status"][:, j]
    fitted = np.isin(status, (Status.OK, Status.BOUNDARY))
    if r == 1:
        table["estimate"][:, j] = np.where(fitted, centre[:, 0], np.nan)
    if few:
        status[fitted] = Status.TOO_FEW_SUBJECTS
        return
    status[fitted & ~np.isfinite(spread).all((1, 2))] = Status.NOT_CONVERGED
    fine = fitted & np.isfinite(spread).all((1, 2))
    smallest = np.linalg.eigvalsh(spread[fine])[:, 0]
    none = smallest <= NO_VARIANCE * np.einsum("gaa->g", spread[fine])
    status[np.flatnonzero(fine)[none]] = Status.ZERO_VARIANCE
    fine[np.flatnonzero(fine)[none]] = False
    table["df"][fine, j] = df - r + 1
    if r == 1:
        table["std_error"][fine, j] = np.sqrt(spread[fine, 0, 0])
        table["statistic"][fine, j] = centre[fine, 0] / table["std_error"][fine, j]
        return
    # Hotelling: with V ~ Wishart on df, (df - r + 1)/(df r) b'V⁻¹b ~ F(r, df - r + 1)
    wald = np.linalg.solve(spread[fine], centre[fine][..., None])[..., 0]
    T2 = np.einsum("ga,ga->g", wald, centre[fine])
    table["statistic"][fine, j] = (df - r + 1) / (df * r) * T2


def _note_lost(lost: dict[str, list[str]], column: str, df: int) -> tuple[str, ...]:
    """Say which subjects a contrast cannot do without, or that there are too few of them."""
    if df < 1:
        text = f"There are as many fixed effects between {column}s as {column}s: no jackknife."
        return (note(text),)
    if not lost:
        return ()
    name, who = next(iter(lost.items()))
    return (
        note(
            f"{len(lost)} contrasts have no jackknife, because they cannot be estimated when one "
            f"{column} is left out: {name!r} not without {', '.join(map(repr, who[:3]))}."
        ),
    )


def row_tests(fit: ModelFit, rows: np.ndarray, ddf: str) -> dict[str, np.ndarray]:
    """T tests of the rows (C, p) of a contrast matrix, without names and without words.

    Parameters
    ----------
    fit : ModelFit
        The fitted models.
    rows : (C, p) array
        Contrasts, zero where a coefficient is aliased.
    ddf : {"kenward-roger", "satterthwaite", "residual"}
        Degrees of freedom.

    Returns
    -------
    dict of str to (genes, C) arrays
        estimate, std_error, statistic and df; NaN for genes without a fit.
    """
    shape = (len(fit.genes), len(rows))
    names = ("estimate", "std_error", "statistic", "df")
    result = {name: np.full(shape, np.nan) for name in names}
    for block in fit.test_blocks():
        values, _ = _t_tests(rows, _State.of(fit, block, ddf))
        for name in names:
            result[name][block.index] = values[name]
    return result


def _one_row(matrix: np.ndarray) -> np.ndarray:
    """The single row of a contrast, or the row that spans a joint one of rank one."""
    return matrix[np.abs(matrix).sum(1).argmax()]


def _independent_rows(matrix: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the rows: an F test depends on their span only."""
    _, values, vectors = np.linalg.svd(matrix, full_matrices=False)
    return vectors[values > values[0] * 1e-10]


def _scale(gradient: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Variance that contrasts would have if every component were the sum of all."""
    return np.abs(gradient).sum(-1) * np.abs(theta).sum(1)[:, None]


def _t_tests(
    rows: np.ndarray, state: _State, between: np.ndarray | float = np.nan
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """T tests of the rows (C, p) of a contrast matrix, and where they have no variance."""
    estimate = state.estimate(rows)
    forms = state.block.variance_forms(rows, rows)
    variance = forms.value
    if state.ddf in KENWARD_ROGER:
        variance = kernels.kenward_roger_variance(forms.value, forms.hessian, state.theta_cov)
    if state.ddf == "residual":
        df = np.full(estimate.shape, float(state.block.df_residual))
    else:
        df = kernels.satterthwaite_df(forms.value, forms.gradient, state.theta_cov)
    if state.ddf == "kenward-roger-floor":
        df = np.where(df < between, between, df)
    elif state.ddf == "between-within":
        df = np.where(between > 0, between, df)
    none = forms.value <= NO_VARIANCE * _scale(forms.gradient, state.block.theta)
    std_error = np.sqrt(np.where(none, np.nan, variance))
    results = {
        "estimate": estimate,
        "std_error": std_error,
        "statistic": estimate / std_error,
        "df": np.where(none, np.nan, df),
    }
    return results, none


def _f_test(rows: np.ndarray, state: _State, between: float) -> tuple[kernels.FTest, np.ndarray]:
    """Joint F test of the rows (n, p) of one contrast, and where a row has no variance."""
    n = len(rows)
    left, right = np.tril_indices(n)
    forms = state.block.variance_forms(rows[left], rows[right])
    square = np.empty((n, n), dtype=int)
    square[left, right] = square[right, left] = np.arange(len(left))
    smallest = np.linalg.eigvalsh(forms.value[:, square])[:, 0]
    fine = smallest > NO_VARIANCE * _scale(forms.gradient, state.block.theta).max(1)
    result = np.full((2, len(fine)), np.nan)
    if fine.any():
        result[:, fine] = _f_of(
            state.estimate(rows)[fine],
            VarianceForms(*(part[fine][:, square] for part in forms)),
            state.theta_cov[fine],
            state,
            between,
        )
    return kernels.FTest(*result), ~fine


def _f_of(
    estimate: np.ndarray,
    forms: VarianceForms,
    theta_cov: np.ndarray,
    state: _State,
    between: float,
) -> kernels.FTest:
    """F test from the covariance (genes, n, n) of n estimates, and its derivatives."""
    covariance, gradient = forms.value, np.moveaxis(forms.gradient, 3, 1)
    if state.ddf in KENWARD_ROGER:
        adjusted = kernels.kenward_roger_variance(covariance, forms.hessian, theta_cov)
        test = kernels.kenward_roger_f(estimate, covariance, gradient, adjusted, theta_cov)
        if state.ddf not in BY_SUBJECTS or not between > 0:
            return test
        # the scale of F belongs to its df: where they are replaced it is one
        replaced = ~(test.df >= between) | (state.ddf == "between-within")
        return kernels.FTest(
            np.where(replaced, kernels.wald_f(estimate, adjusted), test.statistic),
            np.where(replaced, between, test.df),
        )
    if state.ddf == "satterthwaite":
        return kernels.satterthwaite_f(estimate, covariance, gradient, theta_cov)
    df = np.full(len(estimate), float(state.block.df_residual))
    return kernels.FTest(kernels.wald_f(estimate, covariance), df)


def _moderate(table: dict[str, Any], contrasts: tuple[Contrast, ...]) -> tuple[str, ...]:
    """Shrink the variances of each contrast across genes; df, statistic and std_error follow."""
    few = []
    for j, contrast in enumerate(contrasts):
        variance, df = table["std_error"][:, j] ** 2, table["df"][:, j]
        prior = moderation.fit_prior(variance, df)
        if prior is None:
            few.append(contrast.name)
            continue
        table["prior_variance"][j], table["prior_df"][j] = prior
        variance, table["df"][:, j] = moderation.posterior(variance, df, prior)
        table["std_error"][:, j] = np.sqrt(variance)
        table["statistic"][:, j] = table["estimate"][:, j] / table["std_error"][:, j]
    if not few:
        return ()
    return (
        note(
            f"Fewer than {moderation.MIN_GENES} genes have a test of "
            f"{', '.join(map(repr, few[:3]))}: too few to moderate variances, which are left as "
            "they are."
        ),
    )


def _fill_intervals(table: dict[str, Any], plan: _Plan) -> None:
    single = table["df_num"] <= 1
    estimate, std_error, df = (table[name][:, single] for name in ("estimate", "std_error", "df"))
    table["conf_low"][:, single], table["conf_high"][:, single] = student.confidence_limits(
        estimate, std_error, df, plan.level, plan.alternative
    )


def _fill_p_values(table: dict[str, Any], plan: _Plan) -> None:
    joint = table["df_num"] > 1
    single = np.flatnonzero(~joint)
    estimate, std_error, statistic, df = (
        table[name][:, single] for name in ("estimate", "std_error", "statistic", "df")
    )
    if plan.lfc > 0:
        statistic, p, log10_p = student.minimum_effect_test(
            estimate, std_error, df, plan.lfc, plan.alternative
        )
        table["statistic"][:, single] = statistic
    else:
        p, log10_p = kernels.t_tail(statistic, df, plan.alternative)
    table["p_value"][:, single], table["log10_p"][:, single] = p, log10_p
    table["p_value"][:, joint], table["log10_p"][:, joint] = kernels.f_tail(
        table["statistic"][:, joint], table["df_num"][joint], table["df"][:, joint]
    )
    table["adj_p_value"] = np.column_stack([adjust_p_values(p) for p in table["p_value"].T])


def adjust_p_values(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg adjusted p-values.

    Parameters
    ----------
    p : (tests,) array
        p-values; NaN are left out of the number of tests and stay NaN.

    Returns
    -------
    (tests,) array
        Adjusted p-values.
    """
    adjusted = np.full(len(p), np.nan)
    fine = np.isfinite(p)
    if fine.any():
        adjusted[fine] = multipletests(p[fine], method="fdr_bh")[1]
    return adjusted
