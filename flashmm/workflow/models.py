"""What a method does to a data set: its model, checked against the settings of the data set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from flashmm.benchmark.data import size_factors_of
from flashmm.cells.size_factors import CELL_TYPE, LIBSIZE, METHODS
from flashmm.formulas import read_covariate, read_model
from flashmm.kernels.expression_filter import MIN_TOTAL
from flashmm.names import listed
from flashmm.options import FlashmmError, FormulaError
from flashmm.workflow.other_rows import kind_of, other_model
from flashmm.workflow.sheets import ConfigError, Record, one_of, refuse

FIT_OPTIONS = ("method", "nonnegative", "engine", "max_iter", "tol", "block_size")


def model_of(method: Record, settings: Record, where: str) -> Record:
    """What a method does, sorted by the rule that it matters to.

    Parameters
    ----------
    method : dict
        A validated row of the sheet of methods.
    settings : dict
        Settings of the data set: `by`, `covariates`, `libsize`, `transform`, `test`, `alternative`.
    where : str
        The place of the method in the config, for messages.

    Returns
    -------
    dict
        `kind` ("model"; for others see `other_model`), `transform, formulas, within, size_factors,
        min_counts, options, ddf, alternative, lfc, moderate`.

    Raises
    ------
    ConfigError
        A formula cannot be read, a column is not stored, or settings do not go together.
    """
    if kind_of(method, where) != "model":
        return other_model(method, settings, where)
    random = terms_of(method.get("random"))
    try:
        used = _columns_of(method["fixed"], random)
    except FlashmmError as error:
        refuse(where, error)
    within = method.get("within")
    _check_columns(used, settings, where)
    if within is not None:
        _check_within(within, used, settings, where)
    elif "min_counts" in method:
        raise ConfigError(
            f"{where}: min_counts leaves out the genes that are rare in a cell type, so it needs "
            "`within`, the column of the cell types"
        )
    return {
        "kind": "model",
        "groups": True,
        "transform": method.get("transform", settings["transform"]),
        "formulas": {"fixed": method["fixed"], "random": random},
        "within": within,
        "size_factors": _size_factors(method, settings, where),
        "min_counts": None if within is None else method.get("min_counts", MIN_TOTAL),
        "options": {key: method[key] for key in FIT_OPTIONS if key in method},
        "ddf": method.get("ddf"),
        "alternative": method.get("alternative", settings["alternative"]),
        "lfc": method.get("lfc", 0.0),
        "moderate": _moderate(method, where),
    }


def _moderate(method: Record, where: str) -> bool:
    """Whether variances are moderated, which tests by an empirical prior are already."""
    moderate = method.get("moderate", False)
    shares = method.get("ddf", "empirical-bayes" if "within" in method else None)
    if moderate and shares == "empirical-bayes":
        raise ConfigError(
            f"{where}: `moderate: true` does not go with `ddf: empirical-bayes`, which shares what "
            "genes say about their variances already; give another `ddf`, or leave `moderate` empty"
        )
    return bool(moderate)


def terms_of(random: str | list[str] | None) -> list[str] | None:
    """Random terms of a record; in a sheet they are separated by semicolons."""
    if isinstance(random, str):
        return [term.strip() for term in random.split(";")]
    return random


def _columns_of(fixed: str, random: list[str] | None) -> set[str]:
    """Names of the columns in a model."""
    terms, random_terms = read_model(fixed, random)
    terms = terms + [slope for term in random_terms for slope in term.slopes]
    named = {column for term in terms for factor in term for column in factor.columns}
    return named | {column for term in random_terms for column in term.columns}


def _covariate_columns(settings: Record) -> set[str]:
    """Columns behind the stored covariates; one whose name is no expression is a column itself."""
    found: set[str] = set()
    for covariate in settings["covariates"]:
        try:
            found |= {column for f in read_covariate(covariate) for column in f.columns}
        except FormulaError:
            found.add(covariate)
    return found


def _check_columns(used: set[str], settings: Record, where: str) -> None:
    """Refuse a model with a column that the groups will not have."""
    known = [*settings["by"], *sorted(_covariate_columns(settings))]
    for column in sorted(used - set(known)):
        one_of(column, known, f"{where}: the columns of `by` and `covariates`", "column")


def _check_within(within: str, used: set[str], settings: Record, where: str) -> None:
    """Refuse a column that does not split the groups, or that the model or the tests name too."""
    one_of(within, settings["by"], f"{where}: within: the columns of `by`", "column")
    if within in used:
        raise ConfigError(
            f"{where}: within gives each level of {within!r} a model of its own, in which it is "
            "constant; take it out of the formulas"
        )
    name = re.compile(rf"(?<![\w.]){re.escape(within)}(\[|$)")
    for text in _texts(settings["test"]):
        if name.search(text):
            raise ConfigError(
                f"{where}: the test {text!r} names {within!r}, which is constant where each of its "
                "levels has a model; test another column, or give the data set other `methods`"
            )


def _texts(test: Any) -> Iterator[str]:
    """Yield the contrasts of a config that are text: alone, in a list, in a mapping."""
    if isinstance(test, str):
        yield test
    elif isinstance(test, dict):
        for value in test.values():
            yield from _texts(list(value) if isinstance(value, dict) else value)
    elif isinstance(test, list):
        for item in test:
            yield from _texts(item)


def _size_factors(method: Record, settings: Record, where: str) -> Record | None:
    """How size factors are made, and among which groups; None without them."""
    within = method.get("within")
    chosen = size_factors_of(method.get("size_factors"), within)
    if chosen is None:
        return None
    one_of(chosen, (*METHODS, *settings["by"]), f"{where}: size_factors", "method or column")
    sizes = {LIBSIZE, settings["libsize"]}
    if chosen != "total" and not _covariate_columns(settings) & sizes:
        raise ConfigError(
            f"{where}: size factors ({chosen}) correct the library size, and `covariates` holds "
            f"{listed(settings['covariates'])}; add log({settings['libsize']}), or set "
            "size_factors: none"
        )
    among = CELL_TYPE if CELL_TYPE in settings["by"] else None
    return {"method": chosen, "within": within or among}
