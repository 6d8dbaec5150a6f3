"""Models and contrasts of a config against the cells of its files, before any rule runs.

Only the columns of obs that the models need are read. A few cells of every group are summarised
with one made-up gene, so that what refuses a column, a level or a contrast here is what would
refuse it in a rule.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from flashmm.cells.counts import open_counts
from flashmm.cells.covariates import covariate_columns
from flashmm.cells.gene_names import GeneNames
from flashmm.cells.groups import GroupStatistics, merge
from flashmm.cells.reference import with_reference
from flashmm.cells.summary import summarise
from flashmm.design.differences import contrasts_of
from flashmm.design.from_groups import summary_statistics
from flashmm.names import did_you_mean, listed
from flashmm.options import DesignError, FlashmmError, FormulaError, InputError
from flashmm.workflow.plan import Plan
from flashmm.workflow.sheet_files import ConfigError
from flashmm.workflow.sheets import Record, refuse

# What the summary calls a table in memory; messages name the file.
_IN_MEMORY = "the AnnData, X"
# What a message of a function asks for, and the key of a config.
_OF_SHEETS = "Give the columns of the cells with obs=."
_WITH_KEY = "Give a table of the cells, by barcode: obs: cells.tsv."


def check_cells(plan: Plan) -> None:
    """Refuse columns, levels and contrasts that the files of a plan do not have.

    Parameters
    ----------
    plan : Plan
        Its data sets of real counts are looked at where all their files lie on this machine; what
        an earlier rule makes, or a storage holds, is left to the rules.

    Raises
    ------
    ConfigError
        A file cannot be read, a column or a level is not there or has missing values, or a model or
        contrast does not go with the levels; with the data set and the method.
    """
    for name, data in plan.datasets.items():
        if data["truth"] is None and all(Path(p).exists() for p in data["counts"] + data["obs"]):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the rules say the notes
                _check_dataset(plan, name, data)
    for name in plan.of_donors:
        spec = plan.scenarios[name]
        if Path(spec["counts"]).exists():
            _check_donors(spec, f"benchmark: {name}")


def _check_donors(spec: Record, where: str) -> None:
    """Refuse a file without the columns, or without as many donors as a scenario deals with."""
    try:
        donors = _donors(spec["counts"], spec.get("layer"), spec["subject"], spec["cell_type"])
    except FlashmmError as error:
        refuse(where, error)
    if donors < 2 * spec["per_side"]:
        raise ConfigError(
            f"{where}: {spec['counts']} has {donors} donors, and {spec['per_side']} per side need "
            f"{2 * spec['per_side']}"
        )


@cache
def _donors(path: str, layer: str | None, subject: str, cell_type: str) -> int:
    """The number of donors in a file that has both columns."""
    with open_counts(path, layer) as cells:
        return int(cells.columns([subject, cell_type])[subject].nunique())


def _check_dataset(plan: Plan, name: str, data: Record) -> None:
    where = f"datasets: {name}"
    groups = _groups(data, where)
    for method, model in data["methods"].items():
        if model.get("kind", "model") == "model":  # commands and functions have no design
            _check_model(groups, model, data, f"{where}: {method}")
    for section in plan.subject_models:
        if name in plan.fitted_to(section):
            _check_levels(groups, plan.settings_of(section)["means"], f"{section}: {name}")


# ----------------------------------------------------------------------------------------------
# Groups of a made-up gene


def _groups(data: Record, where: str) -> GroupStatistics:
    """Groups of all files, as the rules will make them, of one gene."""
    sheets = data["obs"] or [None] * len(data["counts"])
    parts = [_groups_of(*one, data, where) for one in zip(data["counts"], sheets, strict=True)]
    try:
        return with_reference(merge(parts) if len(parts) > 1 else parts[0], data["reference"])
    except FlashmmError as error:
        refuse(where, error)


def _groups_of(path: str, sheet: str | None, data: Record, where: str) -> GroupStatistics:
    settings = {key: data[key] for key in ("by", "covariates", "libsize", "missing")}
    try:
        obs = _table(path, sheet, data)
        ones = np.ones((len(obs), 1), dtype=np.float32)
        return summarise(ad.AnnData(ones, obs=obs), transform="none", progress=False, **settings)
    except FlashmmError as error:
        said = str(error).replace(_IN_MEMORY, f"'{path}'").replace(_OF_SHEETS, _WITH_KEY)
        refuse(where, type(error)(said))


def _table(path: str, sheet: str | None, data: Record) -> pd.DataFrame:
    """Columns that groups are made from, of a few cells; library sizes to count are made up."""
    libsize = data["libsize"]
    named = GeneNames(data["gene_names"], data["duplicate_genes"])
    with open_counts(path, data["layer"], obs=sheet, genes=named) as cells:
        cells.check_gene_names()
        known = cells.column_names()
        held = [name for text in data["covariates"] for name in covariate_columns(text, known)]
        wanted = dict.fromkeys([*data["by"], *held])
        counted = libsize in wanted and libsize not in known
        obs = cells.columns([column for column in wanted if not counted or column != libsize])
    if data["missing"] == "error":
        _refuse_missing(obs, path)
    few = _few_cells(obs, data["by"]).rename(index=str)
    return few.assign(**{libsize: 2.0}) if counted else few


def _refuse_missing(obs: pd.DataFrame, path: str) -> None:
    gaps = obs.isna().sum()
    for column, n in gaps[gaps > 0].items():
        raise InputError(
            f"'{path}': {n} of {len(obs)} cells have no value in the column {column!r}; fill them "
            "in, or leave these cells out with missing: drop."
        )


def _few_cells(obs: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Two complete cells of every group; what is missing has been allowed."""
    whole = obs.dropna()
    return whole[whole.groupby(by, observed=True, sort=False).cumcount() < 2]


# ----------------------------------------------------------------------------------------------
# Models


def _check_model(groups: GroupStatistics, model: Record, data: Record, where: str) -> None:
    """Refuse a model or contrast that no part of the groups can have."""
    faults: list[FlashmmError] = []
    for part in _parts(groups, model["within"]):
        try:
            stats = summary_statistics(
                part, model["formulas"]["fixed"], model["formulas"]["random"]
            )
            contrasts_of(data["test"], stats.coefficients, stats.coefficient_columns, stats)
            return
        except (DesignError, FormulaError) as error:
            faults.append(error)
        except FlashmmError as error:
            refuse(where, error)
    # what is wrong with a contrast is nearer to the config than what is wrong with a level
    refuse(where, next((f for f in faults if isinstance(f, FormulaError)), faults[0]))


def _parts(groups: GroupStatistics, within: str | None) -> Iterator[GroupStatistics]:
    """Yield the groups of each model: all, or those of every level."""
    if within is None:
        yield groups
        return
    values = groups.obs[within]
    for level in values.unique():
        yield groups.subset((values == level).to_numpy())


def _check_levels(groups: GroupStatistics, means: Record, where: str) -> None:
    """Refuse levels of a model between subjects that no cell has."""
    for column, levels in [*means["keep"].items(), (means["trait"], means.get("traits", []))]:
        known = list(map(str, groups.obs[column].unique()))
        for level in map(str, levels):
            if level not in known:
                raise ConfigError(
                    f"{where}: column {column!r} has no level {level!r}"
                    f"{did_you_mean(level, known)} The levels are {listed(known)}"
                )
