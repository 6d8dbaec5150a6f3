"""What a file of cells can answer, from its table of cells and a look at its values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import pandas as pd

from flashmm.cells.counts import CellMatrix, open_counts
from flashmm.cells.gene_names import GeneNames
from flashmm.cells.looks import COUNTED, Values
from flashmm.cells.sheet import Sheet
from flashmm.names import did_you_mean, listed
from flashmm.options import InputError, checked
from flashmm.shown import Shown
from flashmm.storage.files import PathLike

# Names that columns have in many files, the likeliest first, in lower case.
USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "subject": (
        *("subject", "subject_id", "donor", "donor_id", "patient", "patient_id", "individual"),
        *("ind", "participant", "sample", "sample_id", "replicate", "orig.ident"),
    ),
    "condition": (
        *("condition", "stim", "treatment", "disease", "status", "group", "diagnosis", "label"),
        *("phenotype", "genotype", "timepoint", "time"),
    ),
    "within": (
        *("cell_type", "celltype", "cell.type", "cell", "cell_ontology_class", "cell_class"),
        *("annotation", "cluster", "seurat_clusters", "leiden", "louvain"),
    ),
}
# Degrees of freedom below which only large effects can be found, as in `inference.replication`.
FEW_DF = 4
# A column with more levels than this is no condition.
MOST_LEVELS = 30
CAN, LARGE_ONLY, CANNOT = "yes", "large effects only", "no"


@dataclass(frozen=True, eq=False)
class DataCheck(Shown):
    """What cells can be asked, before anything is computed.

    Attributes
    ----------
    name : str
        The input and its matrix.
    n_cells, n_genes : int
        Its size.
    matrices : dict of str to str
        What X, the layers and .raw hold, by the name that `layer` takes ("X" is the main one).
    layer : str or None
        The matrix that an analysis would read: the one asked for, else the first with counts.
    columns : pandas.DataFrame
        `column`, `kind`, `levels`, `examples` and `of` ("subject" or "cell": what it is of).
    roles : dict of str to (str or None)
        The columns taken as `subject`, `condition` and `within`.
    paired : bool
        Whether subjects have cells of several conditions.
    design : pandas.DataFrame
        One row per (level of `within` and) comparison: the numbers of cells and of subjects in
        either arm, pairs, degrees of freedom to expect, and whether it can be asked.
    findings : tuple of str
        What was found, in sentences.
    problems : tuple of str
        What stands in the way of an analysis, and what to do.
    reading : dict of str to str
        `obs` (a path), `gene_names` and `duplicate_genes`, of those that were given.
    """

    name: str
    path: str | None
    n_cells: int
    n_genes: int
    matrices: dict[str, str]
    layer: str | None
    columns: pd.DataFrame
    roles: dict[str, str | None]
    reference: str | None
    paired: bool
    design: pd.DataFrame
    findings: tuple[str, ...]
    problems: tuple[str, ...]
    reading: dict[str, str]

    @property
    def askable(self) -> bool:
        """Whether a comparison of the design can be asked, of counts that are there."""
        some = len(self.design) > 0 and bool((self.design["can_be_asked"] != CANNOT).any())
        return some and not self.problems

    def problems_for(self, transform: str) -> list[str]:
        """What stands in the way of an analysis by a transform; "none" takes all values."""
        read = self.layer or next(iter(self.matrices))
        of_values = _no_counts(read, self.matrices[read])
        return [text for text in self.problems if transform != "none" or text != of_values]

    @property
    def has_counts(self) -> bool:
        """Whether the matrix that an analysis would read holds counts, whole or fractional."""
        return self.matrices[self.layer or next(iter(self.matrices))] in COUNTED

    def config(self) -> dict[str, Any]:
        """A configuration of the workflow that analyses these cells.

        Raises
        ------
        InputError
            Subject or condition are not known, or the cells are not in a file.
        """
        subject, condition, within = (self.roles[r] for r in ("subject", "condition", "within"))
        if subject is None or condition is None or self.path is None:
            raise InputError(
                "A configuration needs a file and the columns of subject and condition; found "
                f"subject={subject!r}, condition={condition!r}."
            )
        of_levels = self.paired and self.reference is not None
        random = [subject, f"{subject}:{condition}"] if of_levels else [subject]
        model = {"fixed": f"~ log(libsize) + {condition}", "random": random}
        return {
            "seed": 1,
            "by": [name for name in (subject, within, condition) if name is not None],
            "covariates": ["log(libsize)"],
            "transform": "log2p1",
            "layer": self.layer,
            **self.reading,
            "test": condition,
            "reference": {} if self.reference is None else {condition: self.reference},
            "methods": {"within": {**model, "within": within}} if within else {"mixed": model},
            "datasets": {_plain_name(self.path): {"counts": self.path}},
            "report": {"title": f"Differential expression by {condition}"},
        }

    def config_text(self) -> str:
        """The configuration as YAML, with what was found as comments."""
        head = [f"# {' '.join(line.split())}" for line in (*self.findings, *self.problems)]
        head.append("# Run it with  make report CONFIG=<this file>; keys are in config/README.md.")
        return "\n".join([*head, *_yaml(self.config())]) + "\n"

    def facts(self) -> dict[str, str]:
        """What was found, and what stands in the way."""
        found = {f"found {i}": text for i, text in enumerate(self.findings, start=1)}
        return found | {f"problem {i}": text for i, text in enumerate(self.problems, start=1)}

    def preview(self) -> pd.DataFrame:
        """Who can be compared."""
        return self.design

    def __repr__(self) -> str:
        asked = (self.design["can_be_asked"] != CANNOT).sum() if len(self.design) else 0
        return (
            f"DataCheck({self.name}: {self.n_cells} cells, {self.n_genes} genes; {asked} of "
            f"{len(self.design)} comparisons can be asked)"
        )


@checked
def check(
    data: ad.AnnData | PathLike,
    *,
    condition: str | None = None,
    subject: str | None = None,
    within: str | None = None,
    reference: str | None = None,
    layer: str | None = None,
    obs: Sheet | None = None,
    gene_names: str | None = None,
    duplicate_genes: str | None = None,
) -> DataCheck:
    """Say what cells hold and what they can and cannot be asked, before any run.

    Parameters
    ----------
    data : AnnData or path
        The cells, as for `summarise`; of their values a first block is looked at.
    condition, subject, within : str, optional
        Columns of obs; those that are not given are found by their usual names, which is said.
    reference : str, optional
        Reference level of the condition; by default the first of its order. A number that is no
        label has none, and its slope is asked.
    layer : str, optional
        The matrix to read; by default the first that holds counts, X before others.
    obs, gene_names, duplicate_genes
        As in `summarise`.

    Returns
    -------
    DataCheck
        Subjects per arm and type, whether they are paired, what is confounded with the condition,
        and the degrees of freedom to expect.

    Raises
    ------
    InputError
        A file, layer, column or level that there is not.
    """
    named = GeneNames(gene_names, duplicate_genes)
    with open_counts(data, layer, obs=obs, genes=named) as source:
        matrices, chosen = _matrices(source, layer)
        table = source.table()
        said = source.said(source.column_names())
        size, name, genes = (source.n_cells, len(source.genes)), source.name, source.genes
    asked = {"subject": subject, "condition": condition, "within": within}
    roles = {role: _column(table, role, given) for role, given in asked.items()}
    guessed = [f"{role}={roles[role]!r}" for role in asked if roles[role] and not asked[role]]
    findings = [
        f"{size[0]} cells x {size[1]} genes in {name}.",
        _said_of_matrices(matrices, chosen),
        *said,
    ]
    findings += [f"Taken by their names: {', '.join(guessed)}."] if guessed else []
    findings += [*_numbered_labels(table, roles), *_gaps(table, roles)]
    problems = list(_problems(roles, matrices, chosen, genes, len(table.columns)))
    design, paired = pd.DataFrame(), False
    if roles["subject"] is not None and roles["condition"] is not None:
        slope = _is_slope(table[roles["condition"]])
        reference = None if slope else _reference(table[roles["condition"]], reference)
        paired = _paired(table, roles["subject"], roles["condition"])
        design = _slopes(table, roles) if reference is None else _design(table, roles, reference)
        findings += _said_of(design, roles, paired, slope)
        findings += _coarser(table, roles["subject"])
        findings += _confounded(table, roles) if not paired and not slope else []
    return DataCheck(
        name,
        None if isinstance(data, ad.AnnData) else str(data),
        *size,
        matrices,
        chosen,
        _columns(table, roles["subject"]),
        roles,
        reference,
        paired,
        design,
        tuple(findings),
        tuple(problems),
        _reading(obs, gene_names, duplicate_genes),
    )


def _reading(
    obs: Sheet | None, gene_names: str | None, duplicate_genes: str | None
) -> dict[str, str]:
    """How the cells were read beside their layer, in the keys of a configuration."""
    path = None if obs is None or isinstance(obs, pd.DataFrame) else str(obs)
    given = {"obs": path, "gene_names": gene_names, "duplicate_genes": duplicate_genes}
    return {key: value for key, value in given.items() if value is not None}


# ---- matrices and columns ----------------------------------------------------------------------


def _matrices(source: CellMatrix, layer: str | None) -> tuple[dict[str, str], str | None]:
    """What every matrix holds, and the one to read."""
    looks = {layer or "X": source.looks_like()}
    looks |= {name: source.looks_like(name) for name in source.container.others if name != layer}
    chosen = layer
    if layer is None and looks["X"] not in COUNTED:
        chosen = next((name for name, look in looks.items() if look is Values.COUNTS), None)
    return {name: str(look) for name, look in looks.items()}, chosen


def _said_of_matrices(matrices: Mapping[str, str], chosen: str | None) -> str:
    held = "; ".join(f"{name} holds {look}" for name, look in matrices.items())
    main = next(iter(matrices))
    return (
        f"{held}."
        if chosen in (None, main)
        else f"{held}. The counts of layer={chosen!r} are taken."
    )


def _column(obs: pd.DataFrame, role: str, given: str | None) -> str | None:
    """The column of a role: the one that was given, or one with a usual name and several levels."""
    if given is not None:
        if given not in obs:
            raise InputError(
                f"{role}={given!r} is not a column of obs{did_you_mean(given, obs.columns)} It has "
                f"{listed(obs.columns, 40)}."
            )
        return given
    names = {str(column).lower(): str(column) for column in obs}
    found = [names[name] for name in USUAL_NAMES[role] if name in names]
    if role == "condition":
        found = [name for name in found if 2 <= obs[name].nunique() <= MOST_LEVELS]
    return next((name for name in found if obs[name].nunique() > 1), None)


def _columns(obs: pd.DataFrame, subject: str | None) -> pd.DataFrame:
    """A row per column of the cells."""
    rows = []
    for column in obs:
        values = obs[column]
        levels = values.dropna().unique()
        number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        of = "cell"
        if subject is not None and not _varies(obs, subject, column):
            of = "subject"
        rows.append(
            {
                "column": str(column),
                "kind": "number" if number else "labels",
                "levels": len(levels),
                "missing": int(values.isna().sum()),
                "of": of,
                "examples": ", ".join(_example(value) for value in levels[:4]),
            }
        )
    return pd.DataFrame(rows, columns=["column", "kind", "levels", "missing", "of", "examples"])


def _no_counts(name: str, held: str) -> str:
    return (
        f"{name} holds {held}, and no matrix of this input holds raw counts: take the file from "
        "before normalisation, or use transform='none' without log(libsize)."
    )


def _numbered_labels(obs: pd.DataFrame, roles: Mapping[str, str | None]) -> Iterator[str]:
    """Columns of a role that hold whole numbers, as labels do that a converter numbered."""
    for column in filter(None, roles.values()):
        values = obs[column].dropna()
        if values.dtype.kind in "iu" and values.nunique() > 1:
            yield (
                f"{column!r} holds the numbers {listed(sorted(values.unique()), 4)}, as labels do "
                "that a converter turned into their numbers. In a formula it is a slope, unless it "
                f"is written C({column}); make it a category in obs to have it as labels."
            )


def _gaps(obs: pd.DataFrame, roles: Mapping[str, str | None]) -> Iterator[str]:
    """Columns of a role in which cells have no value."""
    for column in dict.fromkeys(filter(None, roles.values())):
        if n := int(obs[column].isna().sum()):
            yield (
                f"{n} of {len(obs)} cells have no value of {column!r}, which stops an analysis: "
                "fill them in, or leave these cells out with missing='drop'."
            )


def _example(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _problems(
    roles: Mapping[str, str | None],
    matrices: Mapping[str, str],
    chosen: str | None,
    genes: pd.Index,
    n_columns: int,
) -> Iterator[str]:
    """What stands in the way of an analysis."""
    main = next(iter(matrices))
    read = main if chosen is None else chosen
    if matrices[read] not in COUNTED:
        yield _no_counts(read, matrices[read])
    if not n_columns:
        yield (
            "The cells have no columns, which say whose they are and what is compared: give a "
            "table of them, a row per barcode, with obs=."
        )
    for role in ("subject", "condition") if n_columns else ():
        if roles[role] is None:
            yield f"No column is known to be the {role}: name it with {role}=."
    yield from _of_names(roles)
    if not genes.is_unique:
        twice = genes[genes.duplicated()].unique()
        yield (
            f"{len(twice)} gene names are given to several genes ({listed(twice, 3)}): "
            "add them up (duplicate_genes='sum'), number them (duplicate_genes='unique'), or name "
            "genes by a column of identifiers (gene_names=)."
        )


def _of_names(roles: Mapping[str, str | None]) -> Iterator[str]:
    """Columns that cannot stand in a formula, or that have two roles."""
    held: dict[str, str] = {}
    for role, column in roles.items():
        if column is None:
            continue
        if not column.isidentifier():
            plain = "".join(c if c.isalnum() else "_" for c in column)
            yield (
                f"{column!r} cannot stand in a formula: rename it to letters, digits and _, such "
                f"as {plain!r}, in the file or in a table of obs=."
            )
        if column in held:
            yield (
                f"{column!r} is given as {held[column]}= and as {role}=, which are two columns: "
                "subjects are the people, several in each condition and cell type."
            )
        held[column] = role


# ---- the design --------------------------------------------------------------------------------


def _levels(values: pd.Series) -> list[Any]:
    return list(pd.Categorical(values).remove_unused_categories().categories)


def _reference(values: pd.Series, given: str | None) -> str:
    levels = list(map(str, _levels(values)))
    if given is not None and given not in levels:
        raise InputError(
            f"reference={given!r} is not a level of {values.name!r}{did_you_mean(given, levels)} "
            f"It has {listed(levels)}."
        )
    return levels[0] if given is None else given


def _varies(obs: pd.DataFrame, subject: str, column: Any) -> bool:
    return bool((obs.groupby(subject, observed=True)[column].nunique() > 1).any())


def _paired(obs: pd.DataFrame, subject: str, condition: str) -> bool:
    return condition != subject and _varies(obs, subject, condition)


def _design(obs: pd.DataFrame, roles: Mapping[str, str | None], reference: str) -> pd.DataFrame:
    """A row for every level of `within` and of the condition, against the reference."""
    subject, condition, within = (roles[role] for role in ("subject", "condition", "within"))
    assert subject is not None and condition is not None
    parts: Sequence[tuple[Any, pd.DataFrame]] = [("", obs)]
    if within is not None:
        parts = list(obs.groupby(within, observed=True))
    others = [str(level) for level in _levels(obs[condition]) if str(level) != reference]
    rows = []
    for label, cells in parts:
        arm = cells[condition].astype(str)
        for level in others:
            ours = cells[arm == level]
            theirs = cells[arm == reference]
            have, lack = set(ours[subject].dropna()), set(theirs[subject].dropna())
            pairs = len(have & lack)
            df = pairs - 1 if pairs > 1 else len(have) + len(lack) - 2
            if not have or not lack:
                df = 0
            label_of = {} if within is None else {within: str(label)}
            rows.append(
                {
                    **label_of,
                    "comparison": f"{level} vs {reference}",
                    "cells": len(ours) + len(theirs),
                    f"subjects[{level}]" if len(others) == 1 else "subjects": len(have),
                    f"subjects[{reference}]": len(lack),
                    "pairs": pairs,
                    "df": max(df, 0),
                    "can_be_asked": _verdict(df),
                }
            )
    return pd.DataFrame(rows)


def _is_slope(values: pd.Series) -> bool:
    """Whether a condition is a number with more values than two labels have."""
    number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return number and values.nunique() > 2


def _slopes(obs: pd.DataFrame, roles: Mapping[str, str | None]) -> pd.DataFrame:
    """A row for every level of `within`: who tells the slope of a numeric condition."""
    subject, condition, within = (roles[role] for role in ("subject", "condition", "within"))
    assert subject is not None and condition is not None
    parts = [("", obs)] if within is None else list(obs.groupby(within, observed=True))
    rows = []
    for label, cells in parts:
        n = cells[subject].nunique()
        several = n > 0 and cells[condition].nunique() > 1
        df = n - (1 if several and _varies(cells, subject, condition) else 2)
        rows.append(
            {
                **({} if within is None else {within: str(label)}),
                "comparison": f"slope of {condition}",
                "cells": len(cells),
                "subjects": n,
                "df": max(df, 0) if several else 0,
                "can_be_asked": _verdict(df if several else 0),
            }
        )
    return pd.DataFrame(rows)


def _verdict(df: int) -> str:
    return CANNOT if df < 1 else LARGE_ONLY if df < FEW_DF else CAN


def _coarser(obs: pd.DataFrame, subject: str | None) -> Iterator[str]:
    """A column of people of which the subjects are only samples."""
    named = {str(column).lower(): str(column) for column in obs}
    n = obs[subject].nunique()
    for name in USUAL_NAMES["subject"]:
        column = named.get(name)
        if column is None or column == subject or not 1 < obs[column].nunique() < n:
            continue
        if not _varies(obs, str(subject), column):
            yield (
                f"Each {subject} has one {column!r}, of which there are {obs[column].nunique()} "
                f"for {n} {subject}s: samples of the same {column} are not independent, and "
                f"subject={column!r} counts them once."
            )
            return


def _said_of(
    design: pd.DataFrame, roles: Mapping[str, str | None], paired: bool, slope: bool
) -> Iterator[str]:
    """Sentences on a design."""
    subject, condition, within = (roles[role] for role in ("subject", "condition", "within"))
    if slope:
        yield f"{condition!r} is a number: its slope over {subject}s is asked."
    elif paired:
        yield (
            f"{subject}s have cells of several levels of {condition!r}: their differences are "
            f"compared (paired), and {subject}:{condition} is a random term."
        )
    else:
        yield f"Each {subject} has one {condition}: groups of {subject}s are compared."
    for verdict, words in (
        (CAN, "can be asked"),
        (
            LARGE_ONLY,
            f"rest on few {subject}s (less than {FEW_DF} degrees of freedom): only large "
            f"effects can be found, as candidates to confirm in other {subject}s",
        ),
        (CANNOT, f"cannot be asked: too few {subject}s"),
    ):
        rows = design[design["can_be_asked"] == verdict]
        if len(rows):
            named = (
                rows["comparison"] if within is None else rows[within] + ": " + rows["comparison"]
            )
            yield f"{len(rows)} of {len(design)} comparisons {words} ({listed(named, 4)})."


def _confounded(obs: pd.DataFrame, roles: Mapping[str, str | None]) -> Iterator[str]:
    """Columns of subjects whose every level has one condition only."""
    subject, condition = roles["subject"], roles["condition"]
    table = obs.groupby(subject, observed=True).first()
    for column in table:
        values = table[column]
        if column in roles.values() or _varies(obs, str(subject), column):
            continue
        if not 2 <= values.nunique() < values.notna().sum():
            continue
        seen = table[condition].astype(str).groupby(values.astype(str)).nunique()
        if (seen == 1).all():
            yield (
                f"{column!r} is confounded with {condition!r}: each of its {values.nunique()} "
                f"levels has one {condition} only, so their effects cannot be told apart."
            )


# ---- the configuration -------------------------------------------------------------------------


def _plain_name(path: str) -> str:
    stem = "".join(c if c.isalnum() or c in "_-" else "_" for c in Path(path).stem)
    return stem.strip("_-") or "counts"


def _yaml(value: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Lines of YAML; texts, numbers and lists as JSON, which is YAML too."""
    for key, item in value.items():
        key = key if key.isidentifier() else json.dumps(key, ensure_ascii=False)
        if isinstance(item, Mapping):
            yield f"{indent}{key}:"
            yield from _yaml(item, indent + "  ")
        else:
            yield f"{indent}{key}: {json.dumps(item, ensure_ascii=False)}"
