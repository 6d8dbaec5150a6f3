"""Scenarios of a benchmark: rows of a sheet or mapping, and cross products of a grid.

A scenario is simulated, or made from real donors (it names `counts`): their labels are permuted, or
their counts thinned. All of them leave counts and a truth in the same place.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flashmm.names import listed
from flashmm.options import FlashmmError
from flashmm.storage.files import atomic_path
from flashmm.workflow.sheets import ConfigError, Record, Schemas, check_names, one_of, refuse
from flashmm.workflow.sources import Sources

SIMULATED, DONORS = "scenarios", "donor_scenarios"  # their schemas
# More data sets than this are taken for a mistake.
MOST = 10_000
# Keys of a grid that are no fields of a scenario.
_BASE, _NAME = "base", "name"
_FILES = ("reference", "metadata")


def scenario_files(spec: Record) -> dict[str, str]:
    """The files that a scenario is drawn from, by what they are."""
    return {key: spec[key] for key in (*_FILES, "counts") if key in spec}


def is_of_donors(spec: Mapping[str, Any]) -> bool:
    """Whether a scenario is made from the counts of real donors."""
    return "counts" in spec or "kind" in spec


def read_scenarios(section: Record, schemas: Schemas, sources: Sources) -> dict[str, Record]:
    """Scenarios of a benchmark by name: those of the sheet, then those of the grid.

    Parameters
    ----------
    section : dict
        The section `benchmark` of a config.
    schemas : Schemas
        Of both kinds of scenarios.
    sources : Sources
        Where their files lie.

    Returns
    -------
    dict
        Name to the fields that were given, and the defaults of real donors.

    Raises
    ------
    ConfigError
        There are none or too many, a name is used twice, or a field has no sense; it is named.
    """
    rows = [*_listed_rows(section, schemas), *_grid_rows(section, schemas)]
    if not rows:
        raise ConfigError("benchmark: what is to be simulated? Give `scenarios`, `grid` or both")
    if len(rows) * section["replicates"] > MOST:
        raise ConfigError(
            f"benchmark: {len(rows)} scenarios x {section['replicates']} replicates are more than "
            f"{MOST} data sets; leave values of the grid out"
        )
    found: dict[str, Record] = {}
    for row, where in rows:
        name = row.get("name") or "a row without a name"
        if name in found:
            raise ConfigError(f"{where}: the name {name!r} is used twice")
        found[name] = _checked(row, f"{where}: {name}", schemas, sources)
    return found


def donor_spec(spec: Record) -> Record:
    """Fields of `DonorSpec` of a scenario of real donors; its fold changes are natural logs."""
    low, high = (math.exp(spec[key]) for key in ("min_log_fc", "max_log_fc"))
    kept = ("subject", "cell_type", "layer", "share", "min_counts")
    return {key: spec[key] for key in kept if key in spec} | {"fold_change": (low, high)}


# ----------------------------------------------------------------------------------------------
# Rows of a sheet or mapping, and checks


def _listed_rows(section: Record, schemas: Schemas) -> list[tuple[Record, str]]:
    given = section.get("scenarios")
    if given is None:
        return []
    rows, where = schemas.rows(given, (SIMULATED, DONORS), "benchmark: scenarios")
    return [(row, where) for row in rows]


def _checked(row: Record, where: str, schemas: Schemas, sources: Sources) -> Record:
    """A row with the defaults of its kind; its files are there, and its fields go together."""
    schema = DONORS if is_of_donors(row) else SIMULATED
    spec = {k: v for k, v in schemas.validated(row, schema, where).items() if k != "name"}
    if spec.get("distribution") == "gaussian":
        raise ConfigError(f"{where}: 'gaussian' has no cells; put it into calibration")
    for key, path in scenario_files(spec).items():
        spec[key] = path if "://" in path else os.path.expanduser(path)
        sources.require(spec[key], where)
    try:
        _check_fields(spec)
    except FlashmmError as error:
        refuse(where, error)
    return spec


def _check_fields(spec: Record) -> None:
    """Make the specification, which refuses fields that have no sense together."""
    if is_of_donors(spec):
        from flashmm.benchmark.donors import DonorSpec

        DonorSpec(**donor_spec(spec))
    elif not scenario_files(spec):
        from flashmm.simulate.spec import SimulationSpec

        SimulationSpec(**spec)


# ----------------------------------------------------------------------------------------------
# Grids


class Point(NamedTuple):
    """A value on an axis of a grid: its part of the name, and the fields that it sets."""

    name: str
    fields: Record


def _grid_rows(section: Record, schemas: Schemas) -> Iterator[tuple[Record, str]]:
    grids = section.get("grid", [])
    fields = {**schemas.columns(SIMULATED), **schemas.columns(DONORS)}
    for grid in [grids] if isinstance(grids, Mapping) else grids:
        for row in expand(grid, fields):
            yield row, "benchmark: grid"


def expand(grid: Mapping[str, Any], fields: Mapping[str, Any]) -> Iterator[Record]:
    """Yield the scenarios of a grid, the last axis running fastest.

    Parameters
    ----------
    grid : mapping
        An axis per key: a field of scenarios to a list of values, or to a mapping from names to
        values; or a name of one's own to a mapping from names to fields. `base` has the fields that
        all share, `name` the beginning of all names.
    fields : mapping
        The known fields of scenarios.

    Yields
    ------
    dict
        `name` and fields. The name joins one part per axis: `subjects8-libsize_ratio2`.

    Raises
    ------
    ConfigError
        An axis that is no field, holds nothing, or sets what another one sets.
    """
    axes = {axis: values for axis, values in grid.items() if axis not in (_BASE, _NAME)}
    if not axes:
        raise ConfigError(f"benchmark: grid: no fields to cross; found {listed(grid)}")
    points = [_points(axis, values, fields) for axis, values in axes.items()]
    n_points = math.prod(map(len, points))
    if n_points > MOST:
        raise ConfigError(f"benchmark: grid: {n_points} scenarios, more than {MOST}")
    _check_apart(dict(zip(axes, points, strict=True)))
    base = grid.get(_BASE) or {}
    if not isinstance(base, Mapping):
        raise ConfigError(f"benchmark: grid: base: {base!r} is no mapping from fields to values")
    start = [str(grid[_NAME])] if _NAME in grid else []
    for chosen in itertools.product(*points):
        row = {"name": "-".join([*start, *(point.name for point in chosen)]), **base}
        for point in chosen:
            row |= point.fields
        yield row


def _points(axis: str, values: Any, fields: Mapping[str, Any]) -> list[Point]:
    """The points of an axis."""
    where = f"benchmark: grid: {axis}"
    check_names([axis], "benchmark: grid")
    if not isinstance(values, list | Mapping) or not values:
        raise ConfigError(
            f"{where}: {values!r} is no list of values and no mapping from names to them; a field "
            "that all scenarios share stands in `base`"
        )
    if isinstance(values, list):
        one_of(axis, fields, "benchmark: grid", "field of scenarios")
        return [Point(_name_of(axis, value, where), {axis: value}) for value in values]
    check_names(values, where)
    if axis in fields:
        return [Point(name, {axis: value}) for name, value in values.items()]
    for name, value in values.items():
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{where}: {name}: {value!r} is no mapping from fields to values; {axis!r} is no "
                "field itself"
            )
    return [Point(name, dict(value)) for name, value in values.items()]


def _name_of(axis: str, value: Any, where: str) -> str:
    """Part of a name that says a value: `subjects8`, `not_nested`, `permuted`."""
    field = axis.removeprefix("n_")
    if isinstance(value, bool):
        return field if value else f"not_{field}"
    if isinstance(value, int | float):
        return f"{field}{value:g}".replace(".", "_").replace("+", "")
    if isinstance(value, str):
        return re.sub(r"[^A-Za-z0-9]+", "_", Path(value).stem).strip("_") or field
    raise ConfigError(
        f"{where}: {value!r} makes no name; give the values names, as a mapping: "
        f"{axis}: {{one: {json.dumps(value)}}}"
    )


def _check_apart(axes: Mapping[str, Sequence[Point]]) -> None:
    """Refuse two axes that set the same field, and an axis with a name twice."""
    owner: dict[str, str] = {}
    for axis, points in axes.items():
        names = [point.name for point in points]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"benchmark: grid: {axis}: {name!r} is there twice")
        for key in {key for point in points for key in point.fields}:
            if owner.setdefault(key, axis) != axis:
                raise ConfigError(f"benchmark: grid: {owner[key]!r} and {axis!r} both set {key!r}")


# ----------------------------------------------------------------------------------------------
# The expanded sheet


def scenario_sheet(scenarios: Mapping[str, Record]) -> str:
    """Scenarios as a tab-separated sheet, which `scenarios:` of a config can name.

    Parameters
    ----------
    scenarios : mapping
        Name to fields.

    Returns
    -------
    str
        A row per scenario; a field that a scenario does not set is an empty cell.
    """
    columns = list(dict.fromkeys(key for spec in scenarios.values() for key in spec))
    lines = [["name", *columns]]
    for name, spec in scenarios.items():
        lines.append([name, *(_cell(spec[key]) if key in spec else "" for key in columns)])
    return "".join("\t".join(line) + "\n" for line in lines)


def write_scenarios(scenarios: Mapping[str, Record], path: str = "results/scenarios.tsv") -> None:
    """Write the sheet of all scenarios of a run."""
    with atomic_path(path) as unfinished:
        unfinished.write_text(scenario_sheet(scenarios), "utf-8")


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def main(paths: Sequence[str]) -> int:
    """Print the scenarios of a config: ``python -m flashmm.workflow.scenarios CONFIG``."""
    import yaml

    schemas = Schemas.in_folder(Path(__file__).resolve().parents[2] / "workflow" / "schemas")
    for path in paths:
        try:
            config = yaml.safe_load(Path(path).read_text("utf-8"))
            schemas.validated(config, "config", path)
            if "benchmark" not in config:
                raise ConfigError(f"{path}: there is no section `benchmark`")
            print(scenario_sheet(read_scenarios(config["benchmark"], schemas, Sources())), end="")
        except (ConfigError, OSError, yaml.YAMLError) as error:
            print(f"flashmm: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
