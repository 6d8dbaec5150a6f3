"""Who was compared with whom: the comparison in words, subjects per arm, cells of every group."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from flashmm.report import page as blocks
from flashmm.report.inputs import Inputs, Run, said_by
from flashmm.report.page import Cell

# Subjects of the smallest group up to which a page begins with a caution (docs/methods.md).
FEW_SUBJECTS = 3
# A coefficient of treatment coding: the column and its level.
_LEVEL = re.compile(r"(?:C\()?(\w[\w .]*?)(?:,[^\[\]]*\))?\[(T\.)?(.+?)\](?=:|$)")


@dataclass(frozen=True, eq=False)
class Cohort:
    """The groups of a run, and which of their columns are what.

    Attributes
    ----------
    groups : DataFrame
        A row per group, with `n_cells`.
    subject, condition, cell_type : str or None
        Columns of the subjects, of what is compared, and of the cell types.
    """

    groups: pd.DataFrame
    subject: str
    condition: str | None
    cell_type: str | None

    def levels(self, column: str) -> list[str]:
        """Levels of a column, the reference first."""
        values = self.groups[column]
        known = values.cat.categories if hasattr(values, "cat") else pd.unique(values)
        there = set(values.astype(str))
        return [str(level) for level in known if str(level) in there]

    @property
    def arms(self) -> dict[str, int]:
        """Condition to its number of subjects."""
        if self.condition is None:
            return {"in all": self.groups[self.subject].nunique()}
        of = self.groups.groupby(self.groups[self.condition].astype(str), observed=True)
        counts = of[self.subject].nunique()
        return {level: int(counts[level]) for level in self.levels(self.condition)}

    @property
    def numbers(self) -> bool:
        """Whether what is compared is a number, which has no arms."""
        return self.condition is not None and pd.api.types.is_numeric_dtype(
            self.groups[self.condition]
        )


def cohort_of(inputs: Inputs, run: Run, contrasts: list[str]) -> Cohort:
    """Find out which column of the groups is what.

    Parameters
    ----------
    inputs : Inputs
        With the groups.
    run : Run
        One of its runs.
    contrasts : list of str
        Names of the contrasts that were tested.

    Returns
    -------
    Cohort
    """
    stored = inputs.groups[run.groups]
    by = [name for name in said_by(stored, "by") if name in stored.obs]
    formulas = run.model.get("formulas") or {}  # other programs have none
    random = " ".join(formulas.get("random") or [])
    subject = next((name for name in by if re.search(rf"\b{re.escape(name)}\b", random)), by[0])
    types = run.within or "cell_type"
    named = [match[1] for text in contrasts for match in _LEVEL.finditer(text)]
    asked = [inputs.config.get("test"), *named, *contrasts]
    tested = [name for name in asked if name in by and name not in (subject, types)]
    condition = tested[0] if tested else None
    return Cohort(stored.obs, subject, condition, types if types in by else None)


def in_words(contrast: str, cohort: Cohort) -> str:
    """Say a contrast in words where it is a level of the compared column against the reference.

    Parameters
    ----------
    contrast : str
        Its name.
    cohort : Cohort
        Whose levels are compared.

    Returns
    -------
    str
        "stim vs ctrl", "stim vs ctrl in B cells"; else the name.
    """
    levels = {column: level for column, _, level in _LEVEL.findall(contrast)}
    column = cohort.condition
    if column is None or column not in levels or cohort.numbers:
        return contrast
    known = cohort.levels(column)
    if levels[column] not in known or levels[column] == known[0]:
        return contrast
    place = levels.get(cohort.cell_type or "")
    return f"{levels[column]} vs {known[0]}" + (f" in {place}" if place else "")


def cohort_blocks(cohort: Cohort, contrasts: list[str], name: str) -> Iterator[dict[str, Any]]:
    """The comparison in words, and a table of the cells of every group.

    Parameters
    ----------
    cohort : Cohort
        Of the run.
    contrasts : list of str
        Names of the contrasts.
    name : str
        Of the data set.

    Yields
    ------
    dict
        Blocks.
    """
    words = list(dict.fromkeys(in_words(text, cohort).split(" in ")[0] for text in contrasts))
    arms = ", ".join(f"{n} {_plural('subject', n)} {arm}" for arm, n in _arms(cohort).items())
    direction = " Positive estimates mean more of the gene in the first named."
    total = cohort.groups[cohort.subject].nunique()
    paired = sum(_arms(cohort).values()) > total
    arms += f"; {total} in all, some of them in several" if paired else ""
    yield blocks.text(
        f"Compared: {'; '.join(words[:6])}{' …' if len(words) > 6 else ''} ({arms})."
        + (direction if any(" vs " in text for text in words) else "")
    )
    fewest = min(_arms(cohort).values(), default=0)
    if 0 < fewest <= FEW_SUBJECTS:
        yield blocks.caution(_few(fewest))
    yield blocks.table(
        _cell_table(cohort),
        f"Cells of {name}",
        "Cells of each subject, condition and cell type; groups without any are red. Subjects, not "
        "cells, are what tests count on.",
    )


def _few(fewest: int) -> str:
    return (
        f"Few subjects: {'the smallest group has ' if fewest > 1 else 'a group has '}"
        f"{fewest} {_plural('subject', fewest)}. Only effects much larger than the differences "
        "between subjects can be found, and lists hold more false genes than their nominal rate. A "
        "tiny p-value of an empirical-Bayes test says that genes of like expression vary little "
        "between subjects, not that many subjects showed the effect: take the genes as candidates "
        "in this order, and confirm them in other subjects."
    )


def _arms(cohort: Cohort) -> Mapping[str, int]:
    if cohort.numbers:
        return {"in all": cohort.groups[cohort.subject].nunique()}
    return cohort.arms


def _plural(word: str, n: int) -> str:
    return word if n == 1 else f"{word}s"


def _cell_table(cohort: Cohort) -> pd.DataFrame:
    """A row per subject and condition, a column per cell type."""
    rows = [name for name in (cohort.subject, cohort.condition) if name is not None]
    groups = cohort.groups.assign(**{name: cohort.groups[name].astype(str) for name in rows})
    types = cohort.cell_type
    label = groups[types].astype(str) if types else pd.Series("cells", groups.index)
    wide = groups.pivot_table(
        index=rows, columns=label, values="n_cells", aggfunc="sum", observed=True, sort=False
    )
    wide = wide.sort_index()
    table = wide.map(_cells_of_group)
    table.insert(0, "All", [Cell(f"{n:,.0f}", value=float(n)) for n in wide.sum(axis=1)])
    table = table.rename_axis(columns=None).reset_index()
    return table.rename(columns={name: name.replace("_", " ").capitalize() for name in rows})


def _cells_of_group(n: float) -> Cell:
    return Cell("0", "bad", 0.0) if pd.isna(n) else Cell(f"{n:,.0f}", value=float(n))
