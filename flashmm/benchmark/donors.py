"""Data sets with a known truth from real donors: labels dealt at random, and counts thinned.

Labels that are permuted over subjects who do not differ make every null hypothesis true. Counts of
one side that are thinned binomially have a true fold change on top of real noise. Both are judged
in `flashmm.benchmark.donor_metrics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from flashmm.cells.counts import open_counts
from flashmm.names import listed
from flashmm.options import DesignError, InputError
from flashmm.storage.files import PathLike

KINDS = ("permuted", "thinned")
SIDES = ("A", "B")
# Places of the random streams of a set; a number that is given stays.
_LABELS, _EFFECTS, _COUNTS = range(3)


class SetName(NamedTuple):
    """Which set of a study: subjects per side, kind and number from 1."""

    per_side: int
    kind: str
    replicate: int


@dataclass(frozen=True)
class DonorSpec:
    """A study on real donors.

    Attributes
    ----------
    per_side : tuple of int
        Numbers of subjects that get each label; two or more.
    permuted, thinned : int
        Sets of each kind for each of these.
    share : float
        Share of the genes of a cell type that are thinned, above 0 and below 1.
    fold_change : tuple of float
        The least and the largest fold change, above 1; uniform on the log scale.
    subject, cell_type : str
        Columns of obs.
    layer : str or None
        Layer of the counts; None for `X`.
    min_counts : float
        Counts in the cells of a type that a gene must have in a set to be judged there.
    seed : int
        A set follows from it and from the set's name alone.

    Raises
    ------
    InputError
        A field has no sense; it is named.
    """

    per_side: tuple[int, ...] = (5, 10)
    permuted: int = 20
    thinned: int = 10
    share: float = 0.1
    fold_change: tuple[float, float] = (1.5, 3.0)
    subject: str = "subject"
    cell_type: str = "cell_type"
    layer: str | None = None
    min_counts: float = 20
    seed: int = 1

    def __post_init__(self) -> None:
        """Check the fields."""
        few = [n for n in self.per_side if n < 2]
        if few or not self.per_side:
            raise InputError(f"per_side: two or more subjects per side; found {self.per_side}.")
        if min(self.permuted, self.thinned) < 0 or self.permuted + self.thinned < 1:
            raise InputError("permuted, thinned: numbers of sets from 0 on, not both 0.")
        if not 0 < self.share < 1:
            raise InputError(f"share: a number between 0 and 1; found {self.share}.")
        low, high = self.fold_change
        if not 1 < low <= high:
            raise InputError(f"fold_change: 1 < least <= largest; found {self.fold_change}.")
        if self.seed < 0:
            raise InputError(f"seed: a whole number from 0 on; found {self.seed}.")

    def sets(self) -> list[SetName]:
        """The sets of the study, in their order."""
        numbers = zip(KINDS, (self.permuted, self.thinned), strict=True)
        return [
            SetName(n, kind, number + 1)
            for kind, count in list(numbers)
            for n in self.per_side
            for number in range(count)
        ]


@dataclass(frozen=True, eq=False)
class DonorSet:
    """One set with its truth.

    Attributes
    ----------
    name : SetName
        Which one.
    cells : AnnData (cells, genes)
        Sparse counts; obs has `subject, cell_type, condition` ("A", "B") and `libsize`, the total
        of the counts as they are here (1 for a cell without any).
    truth : DataFrame
        `gene, cell_type, log_fc`: natural log fold changes of B over A.
    """

    name: SetName
    cells: ad.AnnData
    truth: pd.DataFrame


def donor_set(data: ad.AnnData | PathLike, spec: DonorSpec, name: SetName) -> DonorSet:
    """Make a set of either kind.

    Parameters
    ----------
    data : AnnData (cells, genes) or path of an .h5ad file
        Raw counts of subjects; nothing of it changes.
    spec : DonorSpec
        The study.
    name : SetName
        Which set of it.

    Returns
    -------
    DonorSet

    Raises
    ------
    InputError
        There is no such column or file, or the values are not counts.
    DesignError
        There are fewer subjects than both sides need.

    Notes
    -----
    Thinning a Poisson or negative binomial count y to Binomial(y, 1 / f) divides its mean by f and
    leaves real noise (Gerard 2020, BMC Bioinformatics 21:206).
    """
    if name.kind not in KINDS:
        raise InputError(f"kind: one of {listed(KINDS)} expected, found {name.kind!r}.")
    random = [_generator(spec, name, purpose) for purpose in (_LABELS, _EFFECTS, _COUNTS)]
    counts, obs, genes = _labelled(data, spec, name.per_side, random[0])
    truth = pd.DataFrame({"gene": [], "cell_type": [], "log_fc": []}, dtype=object)
    if name.kind == "thinned":
        effects = _effects(obs["cell_type"].cat.categories.size, len(genes), spec, random[1])
        counts, truth = _thinned(counts, obs, effects, random[2]), _truth(effects, obs, genes)
    obs["libsize"] = np.maximum(np.asarray(counts.sum(1), dtype=float).ravel(), 1.0)
    cells = ad.AnnData(counts.astype(np.float32), obs=obs, var=pd.DataFrame(index=genes))
    return DonorSet(name, cells, truth.astype({"log_fc": float}))


def permuted_set(
    data: ad.AnnData | PathLike, spec: DonorSpec, per_side: int, replicate: int = 1
) -> DonorSet:
    """Deal labels at random to subjects, as `donor_set`: every null hypothesis is true."""
    return donor_set(data, spec, SetName(per_side, "permuted", replicate))


def thinned_set(
    data: ad.AnnData | PathLike, spec: DonorSpec, per_side: int, replicate: int = 1
) -> DonorSet:
    """Deal labels and thin counts of one side, as `donor_set`: some effects are true."""
    return donor_set(data, spec, SetName(per_side, "thinned", replicate))


def seed_of(entropy: Sequence[int]) -> int:
    """The seed of a `DonorSpec` that several numbers make, such as a scenario's and its name's."""
    return int(np.random.SeedSequence(list(entropy)).generate_state(1, np.uint64)[0])


def _generator(spec: DonorSpec, name: SetName, purpose: int) -> np.random.Generator:
    entropy = [spec.seed, name.per_side, KINDS.index(name.kind), name.replicate, purpose]
    return np.random.default_rng(np.random.SeedSequence(entropy))


def _labelled(
    data: ad.AnnData | PathLike, spec: DonorSpec, per_side: int, random: np.random.Generator
) -> tuple[sparse.csr_matrix, pd.DataFrame, pd.Index]:
    """Counts and columns of the cells of chosen subjects, with their labels."""
    with open_counts(data, spec.layer) as source:
        source.check_names()
        obs = source.columns([spec.subject, spec.cell_type]).set_axis(
            ["subject", "cell_type"], axis=1
        )
        if obs.isna().any(axis=None):
            raise InputError(
                f"{source.name}: {spec.subject} or {spec.cell_type} is missing in some cells."
            )
        side = _sides(obs["subject"].astype(str), per_side, random, source.name)
        chosen = side.notna().to_numpy()
        place = np.cumsum(chosen) - 1
        cells, columns, values = [], [], []
        for block in source.blocks():
            source.require_counts(block, "log2p1")
            kept = chosen[block.cells] & (block.values != 0)
            cells.append(place[block.cells[kept]])
            columns.append(np.asarray(block.genes)[kept])
            values.append(np.asarray(block.values)[kept].astype(np.int64))
        shape = (int(chosen.sum()), len(source.genes))
        entries = np.concatenate(values), (np.concatenate(cells), np.concatenate(columns))
        counts = sparse.coo_matrix(entries, shape).tocsr()
        genes = pd.Index(np.asarray(source.genes, dtype=object).astype(str))
    counts.sort_indices()
    obs = obs[chosen].astype(str).astype("category")
    obs["condition"] = pd.Categorical(side[chosen], SIDES)
    return counts, obs.set_axis([f"c{i}" for i in range(len(obs))], axis=0), genes


def _sides(subject: pd.Series, per_side: int, random: np.random.Generator, name: str) -> pd.Series:
    """Label of every cell, NaN for those of subjects that are left out."""
    subjects = np.array(sorted(subject.unique()))
    if len(subjects) < 2 * per_side:
        raise DesignError(
            f"{name} has {len(subjects)} subjects, and {per_side} per side need {2 * per_side}."
        )
    picked = random.permutation(subjects)[: 2 * per_side]
    return subject.map(dict(zip(picked, np.repeat(SIDES, per_side), strict=True)))


def _effects(
    n_types: int, n_genes: int, spec: DonorSpec, random: np.random.Generator
) -> np.ndarray:
    """Log fold changes of B over A, (types, genes); zero for most."""
    low, high = np.log(spec.fold_change)
    n = max(int(spec.share * n_genes), 1)
    effects = np.zeros((n_types, n_genes))
    for row in effects:
        chosen = random.choice(n_genes, n, replace=False)
        row[chosen] = random.uniform(low, high, n) * random.choice([-1, 1], n)
    return effects


def _thinned(
    counts: sparse.csr_matrix, obs: pd.DataFrame, effects: np.ndarray, random: np.random.Generator
) -> sparse.csr_matrix:
    """Thin the counts of the side that is lower, entry by entry of the sparse array."""
    cell = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    log_fc = effects[obs["cell_type"].cat.codes.to_numpy()[cell], counts.indices]
    # B over A is up where A is thinned
    lower = obs["condition"].cat.codes.to_numpy()[cell] == (log_fc < 0)
    touched = (log_fc != 0) & lower
    thinned = counts.copy()
    # y' ~ Binomial(y, exp(−|log f|))
    kept = np.exp(-np.abs(log_fc[touched]))
    thinned.data[touched] = random.binomial(counts.data[touched], kept)
    thinned.eliminate_zeros()
    return thinned


def _truth(effects: np.ndarray, obs: pd.DataFrame, genes: pd.Index) -> pd.DataFrame:
    kind, gene = np.nonzero(effects)
    types = obs["cell_type"].cat.categories.to_numpy(dtype=object)
    return pd.DataFrame(
        {"gene": genes.to_numpy()[gene], "cell_type": types[kind], "log_fc": effects[kind, gene]}
    )
