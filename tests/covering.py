"""Fewer combinations of the values of several factors, in which all of two factors still occur."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any


def pairwise(*factors: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Rows of the product of factors in which any two values of two factors meet.

    Greedy: the next row is the first of those that have most of the pairs that are still to come.
    A fault that needs three values at once may be missed; one of a value, or of two, is found.

    Examples
    --------
    >>> len(pairwise("ab", "cd", "ef"))
    4
    """
    values = [list(factor) for factor in factors]
    rows = list(product(*(range(len(v)) for v in values)))
    pairs = {row: set(combinations(enumerate(row), 2)) for row in rows}
    left, chosen = set().union(*pairs.values()), []
    while left:
        chosen.append(max(rows, key=lambda row: len(pairs[row] & left)))
        left -= pairs[chosen[-1]]
    return [tuple(v[i] for v, i in zip(values, row, strict=True)) for row in sorted(chosen)]
