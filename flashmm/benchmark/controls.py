"""Controls: tests that know the truth, tests that know nothing, and permuted labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from flashmm.benchmark.truth import (
    adjust_per_contrast,
    contrast_cell_types,
    refuse_unassigned,
    require_columns,
    true_pairs,
)
from flashmm.cells.groups import GroupStatistics
from flashmm.kernels.tails import normal_tail
from flashmm.options import InputError, Status


def control_table(
    truth: pd.DataFrame,
    genes: Iterable[str],
    contrasts: Sequence[str] | Mapping[str, str],
    kind: str = "truth",
    seed: int | np.random.SeedSequence = 0,
    *,
    cell_type: str = "cell_type",
) -> pd.DataFrame:
    """Make the tests of a method that knows the truth, or of one that knows nothing.

    They frame the scores of real methods: ``"truth"`` finds every differentially expressed pair and
    has uniform p-values elsewhere, the best that a valid test can do (AUC 1, TPR 1, FPR nominal);
    ``"random"`` has uniform p-values everywhere (AUC 0.5).

    Parameters
    ----------
    truth : DataFrame
        `gene, cell_type, log_fc` of the differentially expressed pairs.
    genes : iterable of str
        Genes to be tested.
    contrasts : sequence of str or mapping
        Names that say their cell type, or contrast to cell type.
    kind : {"truth", "random"}
        The positive or the negative control.
    seed : int or SeedSequence
        Seed of the uniform p-values.
    cell_type : str
        Name of the cell type column in coefficient names.

    Returns
    -------
    DataFrame
        Tidy tests, contrasts outermost.
    """
    if kind not in ("truth", "random"):
        raise InputError(f"kind: {kind!r} is no control; use 'truth' or 'random'.")
    require_columns(truth, ["gene", "cell_type", "log_fc"], "truth")
    given = contrasts if isinstance(contrasts, Mapping) else None
    known = truth["cell_type"].astype(str).unique()
    types = contrast_cell_types(contrasts, known, contrast_map=given, cell_type=cell_type)
    if len(truth):
        refuse_unassigned(types, cell_type)
    genes = pd.Index(genes).astype(str)
    grid = pd.MultiIndex.from_product([list(types), genes], names=["contrast", "gene"])
    frame = grid.to_frame(index=False)
    pairs = pd.MultiIndex.from_arrays([frame["gene"], frame["contrast"].map(types)])
    log_fc = pd.Series(truth["log_fc"].to_numpy(dtype=float), index=true_pairs(truth))
    effect = log_fc.reindex(pairs).to_numpy() if kind == "truth" else np.full(len(frame), np.nan)
    return _control_tests(frame, effect, np.random.default_rng(seed))


def _control_tests(
    frame: pd.DataFrame, effect: np.ndarray, rng: np.random.Generator
) -> pd.DataFrame:
    """Normal tests: |z| = 30 where there is an effect, standard normal z elsewhere."""
    noise = rng.standard_normal(len(frame))
    found = ~np.isnan(effect)
    z = np.where(found, 30 * np.sign(effect), noise)
    std_error = np.where(found, np.abs(effect) / 30, 0.1)
    p, log10_p = normal_tail(z)
    table = frame[["gene", "contrast"]].assign(
        estimate=z * std_error,
        std_error=std_error,
        statistic=z,
        df=np.inf,
        p_value=p,
        log10_p=log10_p,
    )
    adjusted = adjust_per_contrast(table["p_value"].to_numpy(), table["contrast"])
    return table.assign(adj_p_value=adjusted, status=str(Status.OK))


def permute_labels(
    groups: GroupStatistics,
    factor: str = "condition",
    subject: str = "subject",
    seed: int | np.random.SeedSequence = 0,
) -> GroupStatistics:
    """Permute the labels of a factor, so that no test of it has an effect.

    Parameters
    ----------
    groups : GroupStatistics
        A subject has one level of the factor or, where conditions are paired, several.
    factor, subject : str
        Columns of the groups.
    seed : int or SeedSequence
        Seed of the permutation.

    Returns
    -------
    GroupStatistics
        The same sums. The labels of subjects with one level are permuted over these subjects; those
        of a subject with several levels among its own samples, in all cell types alike.

    Raises
    ------
    InputError
        A column is missing.
    """
    require_columns(groups.obs, [factor, subject], "groups")
    samples = groups.obs[[subject, factor]].drop_duplicates().sort_values([subject, factor])
    new = samples[factor].to_numpy().copy()
    draw = np.random.default_rng(seed)
    for at in _exchangeable(samples[subject]):
        new[at] = new[at][draw.permutation(len(at))]
    relabelled = pd.Series(new, pd.MultiIndex.from_frame(samples))
    labels = relabelled.loc[pd.MultiIndex.from_frame(groups.obs[[subject, factor]])].to_numpy()
    kind = groups.obs[factor].dtype
    obs = groups.obs.assign(**{factor: pd.Series(labels, groups.obs.index, dtype=kind)})
    obs.index = pd.Index(["|".join(map(str, row)) for row in obs[list(groups.by)].to_numpy()])
    return replace(groups, obs=obs)


def _exchangeable(subjects: pd.Series) -> Iterator[np.ndarray]:
    """Yield places of samples that may exchange labels: those of a subject, or lone ones."""
    places = pd.Series(range(len(subjects)), subjects.to_numpy())
    counts = places.groupby(level=0, observed=True, sort=False)
    alone = counts.transform("size") == 1
    yield places[alone].to_numpy()
    for _, part in places[~alone].groupby(level=0, observed=True, sort=False):
        yield part.to_numpy()
