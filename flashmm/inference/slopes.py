"""Advice on columns of numbers that may be levels: cell types as 0, 1, 2 from a converter."""

from __future__ import annotations

import ast

import numpy as np
import pandas as pd

from flashmm.design.differences import is_factor
from flashmm.formulas import read_model
from flashmm.inference.model_fit import ModelFit
from flashmm.inference.subjects import Subjects, subjects_of
from flashmm.names import first_of
from flashmm.options import note

# Distinct whole numbers up to which they may be levels, unless they are 0, 1, 2, ... without gaps.
FEW_NUMBERS = 12


def numbers_as_slopes(fit: ModelFit) -> tuple[str, ...]:
    """Ask about few whole numbers that several subjects share and the model takes as numbers.

    Columns with a random slope are meant as numbers.
    """
    subjects = subjects_of(fit.stats)
    if subjects is None or fit.stats is None or fit.stats.model is None:
        return ()
    groups, _ = fit.stats.require_source()
    doubtful = [column for column in groups.by if _like_levels(groups.obs[column], subjects)]
    if not doubtful:
        return ()
    terms, random = read_model(fit.stats.model.fixed, fit.stats.model.random)
    plain = {c for t in terms for f in t if isinstance(f.node, ast.Name) for c in f.columns}
    meant = {c for r in random for slope in r.slopes for f in slope for c in f.columns}
    return tuple(
        note(_asked(column, groups.obs[column])) for column in doubtful if column in plain - meant
    )


def _like_levels(values: pd.Series, subjects: Subjects) -> bool:
    """Whether numbers are few, whole and more than two, each of about two subjects or more."""
    if is_factor(values) or not (values % 1 == 0).all():
        return False
    code, numbers = pd.factorize(values, sort=True)
    pairs = len(np.unique(subjects.codes * len(numbers) + code))
    without_gaps = numbers[0] in (0, 1) and numbers[-1] - numbers[0] == len(numbers) - 1
    return (
        len(numbers) > 2
        and pairs >= 2 * len(numbers)
        and (len(numbers) <= FEW_NUMBERS or bool(without_gaps))
    )


def _asked(column: str, values: pd.Series) -> str:
    numbers = first_of((f"{value:g}" for value in np.unique(values)), 6)
    return (
        f"{column!r} holds the numbers {numbers} and is taken as a slope; write C({column}) in the "
        "formula if they stand for levels."
    )
