"""JSON schemas in YAML files: each is read once, and fills in its defaults while it checks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError, validators
from jsonschema.exceptions import best_match

_CHECK_PROPERTIES = Draft202012Validator.VALIDATORS["properties"]


@cache
def read_schema(path: str) -> dict[str, Any]:
    """The content of a schema file; nobody changes it."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return dict(yaml.load(Path(path).read_text("utf-8"), loader))


def first_error(record: dict[str, Any], path: str) -> ValidationError | None:
    """Write the defaults of a schema into a record, and check it.

    Parameters
    ----------
    record : dict
        What is checked; properties that it lacks take the schema's defaults.
    path : str
        The schema file, of draft 2020-12.

    Returns
    -------
    jsonschema.ValidationError or None
        The error that says most; None where the record is valid.
    """
    error = best_match(_validator(path).iter_errors(record))
    return error if isinstance(error, ValidationError) else None


@cache
def _validator(path: str) -> Any:
    filling = validators.extend(Draft202012Validator, {"properties": _fill_and_check})
    return filling(read_schema(path))


def _fill_and_check(
    validator: Any, properties: dict[str, Any], instance: Any, schema: dict[str, Any]
) -> Iterator[ValidationError]:
    """Set the properties that are missing and have a default, then check all of them."""
    if isinstance(instance, dict):
        for name, described in properties.items():
            if "default" in described:
                instance.setdefault(name, copy.deepcopy(described["default"]))
    yield from _CHECK_PROPERTIES(validator, properties, instance, schema)
