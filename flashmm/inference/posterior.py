"""What an empirical-Bayes test knows about the variance ratios of one gene."""

from __future__ import annotations

import numpy as np
import pandas as pd

from flashmm.inference.empirical_bayes import VarianceRatioPrior
from flashmm.inference.model_fit import ModelFit
from flashmm.inference.table import TestTable
from flashmm.kernels import empirical_bayes as kernels
from flashmm.kernels.engine import take
from flashmm.names import did_you_mean, listed
from flashmm.options import InputError, checked
from flashmm.within import FitsWithin

#: How columns of variance ratios begin; the name of the component follows.
RATIO = "ratio:"


def priors_of(table: TestTable) -> dict[str, VarianceRatioPrior]:
    """Priors of a table by level; the one of a table without levels has the name "".

    Parameters
    ----------
    table : TestTable
        Of ``contrast_tests(..., ddf="empirical-bayes")``.

    Returns
    -------
    dict of str to VarianceRatioPrior

    Raises
    ------
    InputError
        The table has no prior.
    """
    found = table.prior
    if isinstance(found, VarianceRatioPrior):
        return {"": found}
    if not isinstance(found, dict) or not found:
        raise InputError(
            f"table: its tests are those of ddf={table.ddf!r} and have no prior; "
            "contrast_tests(..., ddf='empirical-bayes') of 50 genes or more has one."
        )
    return found


@checked
def posterior_of(
    fit: ModelFit | FitsWithin, table: TestTable, gene: str, level: str | None = None
) -> pd.DataFrame:
    """Prior and posterior of the variance ratios of a gene, over the grid.

    Parameters
    ----------
    fit : LMMFit, KinshipFit or FitsWithin
        What was tested.
    table : TestTable
        The empirical-Bayes tests of this fit.
    gene : str
        A gene that has a fit.
    level : str, optional
        Which of several models (the cell type, say).

    Returns
    -------
    DataFrame
        One row per point of the grid: `gene`, `level` where there are several, `stratum` (from 0),
        ``ratio:`` and each component, `prior` (of the stratum), `loglik` (restricted, relative to
        its largest over the grid) and `posterior`, both of `prior` and `posterior` summing to one.

    Raises
    ------
    InputError
        No prior, level or gene of that name, or a gene without a fit.
    """
    one, prior, labels = _of_level(fit, priors_of(table), level)
    names = prior.genes.astype(str)
    if str(gene) not in names:
        raise InputError(f"gene: there is none named {gene!r}{did_you_mean(str(gene), names)}")
    place = list(names).index(str(gene))
    stratum = int(prior.stratum[place])
    loglik = _log_likelihood(one, prior.points, place)
    if stratum < 0 or loglik is None or not np.isfinite(loglik).all():
        raise InputError(f"gene: {gene!r} has no fit ({one.status[place]}), so no posterior.")
    weights = prior.weights[stratum]
    posterior, _ = kernels.posterior(loglik[None], weights)
    ratios = {RATIO + name: prior.points[:, k] for k, name in enumerate(prior.components)}
    values = {"prior": weights, "loglik": loglik - loglik.max(), "posterior": posterior[0]}
    return pd.DataFrame({"gene": str(gene), **labels, "stratum": stratum, **ratios, **values})


def _of_level(
    fit: ModelFit | FitsWithin, priors: dict[str, VarianceRatioPrior], level: str | None
) -> tuple[ModelFit, VarianceRatioPrior, dict[str, str]]:
    """The model and prior of a level, and the column that names it."""
    if not isinstance(fit, FitsWithin):
        if level is not None or "" not in priors:
            raise InputError("level: this is one fit, and table and level are of several.")
        return fit, priors[""], {}
    known = [name for name in fit.fits if name in priors]
    if level is None or str(level) not in known:
        raise InputError(
            f"level: one of {listed(known)} expected, found {level!r}"
            f"{did_you_mean(str(level), known)}"
        )
    return fit.fits[str(level)], priors[str(level)], {"level": str(level)}


def _log_likelihood(fit: ModelFit, points: np.ndarray, place: int) -> np.ndarray | None:
    """Restricted log-likelihood of a gene at every point, (points,); None without a fit."""
    for block in fit.test_blocks():
        row = np.flatnonzero(block.index == place)
        if len(row):
            return block.shared_points().log_likelihood(points, take(block.data, row))[0]
    return None
