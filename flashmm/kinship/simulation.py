"""Simulated genotypes, their kinship, and traits of a given heritability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from flashmm.kinship.data import as_numbers, kinship_factor
from flashmm.options import InputError, check_seed, checked
from flashmm.shown import Shown


@dataclass(frozen=True, eq=False, repr=False)
class KinshipSimulation(Shown):
    """Individuals in families, with traits whose heritability is known.

    Attributes
    ----------
    genotypes : pandas.DataFrame
        (individuals, markers) allele counts 0, 1, 2.
    K : pandas.DataFrame
        (individuals, individuals) realised kinship, mean diagonal one.
    Y : pandas.DataFrame
        (individuals, traits).
    X : pandas.DataFrame
        (individuals, 2) Intercept and sex.
    h2 : pandas.Series
        Heritability of every trait.
    """

    genotypes: pd.DataFrame
    K: pd.DataFrame
    Y: pd.DataFrame
    X: pd.DataFrame
    h2: pd.Series


@checked
def simulate_kinship_traits(
    n: int = 500,
    n_traits: int = 100,
    h2: float | Sequence[float] = (0.0, 0.3, 0.7, 1.0),
    n_markers: int = 1000,
    seed: int = 0,
    *,
    family_size: int = 5,
    sex_effect: float = 0.5,
) -> KinshipSimulation:
    """Draw genotypes of families, and traits y = 5 + sex_effect·sex + g + ε of total variance one.

    Parameters
    ----------
    n, n_traits, n_markers : int
        Individuals, traits, markers (unlinked, allele frequencies uniform on .1 to .5; those that
        do not vary are left out).
    h2 : float or sequence of float
        Heritabilities, taken in turn by the traits: Cov(g) = h²K, Cov(ε) = (1 - h²)I.
    seed : int
        Of the random numbers.
    family_size : int
        Siblings per family (the last may be smaller); without relatives a heritability needs
        many more individuals.
    sex_effect : float
        Difference between the sexes.

    Returns
    -------
    KinshipSimulation
        Genotypes, kinship, traits, covariates and the truth.

    Raises
    ------
    InputError
        Numbers that are too small, or heritabilities outside [0, 1].
    """
    values = np.atleast_1d(as_numbers(h2, "h2"))
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise InputError(f"h2 must hold values from 0 to 1; found {h2!r}.")
    if n < 4 or min(n_traits, n_markers, family_size) < 1:
        raise InputError(
            "n must be at least 4 and n_traits, n_markers and family_size at least 1; found "
            f"n={n}, n_traits={n_traits}, n_markers={n_markers}, family_size={family_size}."
        )
    check_seed(seed)
    rng = np.random.default_rng(seed)
    individuals = pd.Index([f"I{i + 1:0{len(str(n))}d}" for i in range(n)], dtype=object)
    traits = pd.Index([f"T{i + 1:0{len(str(n_traits))}d}" for i in range(n_traits)], dtype=object)
    counts = _siblings(rng, n, n_markers, family_size)
    markers = [f"M{j + 1}" for j in range(counts.shape[1])]
    genotypes = pd.DataFrame(counts, index=individuals, columns=markers)
    G = kinship_factor(genotypes).G
    share = np.resize(values, n_traits)
    sex = rng.integers(0, 2, n).astype(float)
    g = G @ rng.normal(size=(G.shape[1], n_traits))
    noise = rng.normal(size=(n, n_traits))
    Y = 5.0 + sex_effect * sex[:, None] + np.sqrt(share) * g + np.sqrt(1.0 - share) * noise
    return KinshipSimulation(
        genotypes=genotypes,
        K=pd.DataFrame(G @ G.T, index=individuals, columns=individuals),
        Y=pd.DataFrame(Y, index=individuals, columns=traits),
        X=pd.DataFrame({"Intercept": 1.0, "sex": sex}, index=individuals),
        h2=pd.Series(share, index=traits, name="h2"),
    )


def _siblings(rng: np.random.Generator, n: int, markers: int, family_size: int) -> np.ndarray:
    """Allele counts of full siblings: one allele of each parent, drawn by a coin."""
    family = np.arange(n) // family_size
    frequency = rng.uniform(0.1, 0.5, markers)
    parents = rng.random((2, 2, family[-1] + 1, markers)) < frequency
    counts = np.zeros((n, markers), dtype=np.int8)
    for parent in parents:
        coin = rng.random((n, markers)) < 0.5
        counts += np.where(coin, parent[0][family], parent[1][family])
    return counts[:, np.ptp(counts, axis=0) > 0]
