"""Rows of the sheet of methods that are no model of this package: commands and functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flashmm.benchmark.external import OF_CELLS, parse_command, placeholders_of
from flashmm.benchmark.functions import OF_CELLS as FUNCTIONS_OF_CELLS
from flashmm.benchmark.functions import OF_TRUTH, function_method
from flashmm.cells.size_factors import CELL_TYPE
from flashmm.options import FlashmmError
from flashmm.storage.programs import located
from flashmm.workflow.sheets import ConfigError, Record, one_of, refuse

# What such a row may hold beside its command, or its function with the settings of that.
SHARED = (
    *("fixed", "subject", "within", "transform"),
    *("timeout", "memory", "genes", "conda"),
)
# Columns that a model of this package has no use for.
ONLY_OTHERS = ("subject", "timeout", "memory", "genes", "conda", "n_permutations")
DEFAULT_TIMEOUT, DEFAULT_MEMORY, OWN_MEMORY = 60.0, 4000, 1000
# Endings of scripts, which must be there before anything runs.
SCRIPTS = {".R", ".r", ".py", ".jl", ".sh", ".pl"}
SUBJECT = "subject"


def kind_of(method: Record, where: str) -> str:
    """Say what a row is: "model", "command" or "function".

    Parameters
    ----------
    method : dict
        A validated row of the sheet of methods.
    where : str
        Its place, for messages.

    Raises
    ------
    ConfigError
        It is two of these, or none, or has a column that belongs to another kind.
    """
    if "command" in method and "function" in method:
        raise ConfigError(f"{where}: `command` and `function` are both given; a method has one")
    if "command" in method or "function" in method:
        return "command" if "command" in method else "function"
    if "fixed" not in method:
        raise ConfigError(
            f"{where}: 'fixed' missing; a method has a formula (`fixed`), a `function` or a "
            "`command`"
        )
    for column in ONLY_OTHERS:
        if column in method:
            raise ConfigError(
                f"{where}: {column!r} belongs to a `command` or `function`; leave it empty for a "
                "model"
            )
    return "model"


def other_model(method: Record, settings: Record, where: str) -> Record:
    """What a command or function does to a data set.

    Parameters
    ----------
    method : dict
        A validated row of the sheet of methods.
    settings : dict
        Settings of the data set: `by`, `transform`, `test`, `alternative`.
    where : str
        The place of the method in the config, for messages.

    Returns
    -------
    dict
        As `flashmm.workflow.models.model_of`, and `run` (what `other_methods.Job` takes), `files`
        and `conda` (paths), `cells` and `truth` (whether they are read).

    Raises
    ------
    ConfigError
        What cannot be run is said in the words of the sheet.
    """
    # defaults of the schema that are those of models
    given = {key: value for key, value in method.items() if (key, value) not in _MODEL_DEFAULTS}
    asked = _asked(given, settings, where)
    own = _command(given, where) if "command" in given else _function(given, settings, where)
    timeout, memory = given.get("timeout", DEFAULT_TIMEOUT), given.get("memory")
    run = {**asked, **own.pop("run"), "timeout": timeout, "memory": memory}
    return {
        "kind": "command" if "command" in given else "function",
        "transform": given.get("transform", settings["transform"]),
        "formulas": {"fixed": given.get("fixed"), "random": [asked["subject"]]},
        "within": asked["cell_type"],
        "size_factors": None,
        "min_counts": None,
        "options": {},
        "ddf": None,
        "run": run,
        "conda": _conda(given.get("conda"), where),
        **own,
    }


_MODEL_DEFAULTS = (("method", "REML"), ("nonnegative", True), ("engine", "auto"))


def _asked(given: Record, settings: Record, where: str) -> Record:
    """What is compared, between whom and where."""
    by, factor = settings["by"], settings["test"]
    kind = "command" if "command" in given else "function"
    if not isinstance(factor, str) or factor not in by:
        raise ConfigError(
            f"{where}: a {kind} compares the levels of a column, and the test is {factor!r}; set "
            "`test` to a column of `by`, or give the data set other `methods`"
        )
    subject = given.get("subject", SUBJECT)
    one_of(subject, by, f"{where}: subject: the columns of `by`", "column")
    within = given.get("within", CELL_TYPE if CELL_TYPE in by else None)
    if within is not None:
        one_of(within, by, f"{where}: within: the columns of `by`", "column")
    for column, role in ((subject, "subject"), (within, "within")):
        if column == factor:
            raise ConfigError(f"{where}: {role}: {column!r} is the column that is tested")
    return {
        "factor": factor,
        "subject": subject,
        "cell_type": within,
        "fixed": given.get("fixed"),
        "alternative": settings["alternative"],
        "genes": given.get("genes"),
    }


def _command(given: Record, where: str) -> Record:
    try:
        arguments = parse_command(given["command"])
    except FlashmmError as error:
        refuse(where, error)
    for column in given:
        if column not in (*SHARED, "command"):
            raise ConfigError(f"{where}: a command has no use for {column!r}; leave it empty")
    used = placeholders_of(arguments)
    return {
        "run": {"command": list(arguments)},
        "files": list(_files_of(arguments, where)),
        "cells": bool(set(used) & set(OF_CELLS)),
        "groups": "groups" in used,
        "truth": False,
    }


def _function(given: Record, settings: Record, where: str) -> Record:
    if settings["alternative"] != "two-sided":
        raise ConfigError(
            f"{where}: functions are two-sided, and the alternative is {settings['alternative']!r}"
        )
    limits = ("subject", "timeout", "memory", "conda")
    row = {key: value for key, value in given.items() if key not in limits}
    row |= {"name": where.rpartition(": ")[2]}
    name = row["function"]
    try:
        function_method({key: value for key, value in row.items() if key != "within"})
        settings_of = _with_within(row)
    except FlashmmError as error:
        refuse(where, error)
    return {
        "run": {"function": settings_of},
        "files": [],
        "cells": name in FUNCTIONS_OF_CELLS,
        "groups": name not in FUNCTIONS_OF_CELLS,
        "truth": name in OF_TRUTH,
    }


def _with_within(row: Record) -> Record:
    """The row with `within` where the function has it; else it says where is compared."""
    try:
        function_method(row)
    except FlashmmError:
        return {key: value for key, value in row.items() if key != "within"}
    return row


def _files_of(arguments: Sequence[str], where: str) -> Iterator[str]:
    """Files among the arguments, and files called `common` beside them: a change runs again."""
    for argument in arguments:
        path = Path(located(argument))
        if path.is_file():
            yield str(path)
            yield from sorted(str(p) for p in path.parent.glob(f"common{path.suffix}") if p != path)
        elif path.suffix in SCRIPTS and "{" not in argument:
            raise ConfigError(f"{where}: command: {argument}: no such file")


def _conda(path: str | None, where: str) -> str | None:
    """The file of an environment, where it lies."""
    if path is None:
        return None
    found = Path(located(path))
    if not found.is_file():
        raise ConfigError(f"{where}: conda: {path}: no such file")
    return str(found.resolve())


# ----------------------------------------------------------------------------------------------
# What the rule asks


class OtherMethods:
    """The commands and functions of a run.

    Parameters
    ----------
    datasets : dict
        Name to data set, as in `Plan`.
    config : dict
        The validated config.
    """

    def __init__(self, datasets: dict[str, Record], config: Record) -> None:
        self._datasets, self._seed = datasets, config.get("seed", 0)
        self._shards = config["shards"]

    @property
    def names(self) -> list[str]:
        """Names of such methods of any data set."""
        found = self._kinds()
        return [name for name, kinds in found.items() if kinds != {"model"}]

    @property
    def models(self) -> list[str]:
        """Names of the models of any data set."""
        return [name for name, kinds in self._kinds().items() if kinds == {"model"}]

    def check(self) -> None:
        """Refuse a name that is a model of one data set and something else of another."""
        for name, kinds in self._kinds().items():
            if "model" in kinds and len(kinds) > 1:
                raise ConfigError(
                    f"methods: {name!r} is a model of one data set and a {sorted(kinds)[0]} of "
                    "another; give them two names"
                )

    def _kinds(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for data in self._datasets.values():
            for name, model in data["methods"].items():
                found.setdefault(name, set()).add(model["kind"])
        return found

    def model(self, dataset: str, method: str) -> Record:
        """What a method does to a data set."""
        return dict(self._datasets[dataset]["methods"][method])

    def job(self, dataset: str, method: str) -> dict[str, Any]:
        """What `other_methods.Job` takes beside the paths of its files."""
        data = self._datasets[dataset]
        return {
            "method": self.model(dataset, method)["run"],
            "reference": data["reference"],
            "layer": data["layer"],
            "libsize": data["libsize"],
            "seed": self._seed,
        }

    def truth(self, dataset: str, method: str) -> Any:
        """The true effects, for the control that knows them."""
        wanted = self.model(dataset, method)["truth"]
        return (self._datasets[dataset]["truth"] or []) if wanted else []

    def memory(self, dataset: str, method: str) -> int:
        """Megabytes that Snakemake sets aside: for the method and for the job that watches it."""
        return int(self.model(dataset, method)["run"]["memory"] or DEFAULT_MEMORY) + OWN_MEMORY

    def minutes(self, dataset: str, method: str) -> int:
        """Minutes after which Snakemake's executor may end the job: later than we do."""
        return int(self.model(dataset, method)["run"]["timeout"]) + 10

    def steps(self, dataset: str, method: str, variant: str) -> Iterator[tuple[str, list[str]]]:
        """Yield the steps of a method and the files in which their jobs say what they took."""
        data, model, place = (
            self._datasets[dataset],
            self.model(dataset, method),
            "results/benchmarks",
        )
        run, shards = f"{dataset}/{method}", self._shards
        if model["groups"]:
            summed = f"{place}/summarise/{dataset}{variant}"
            parts = _numbered(shards["cells"])
            files = range(1, len(data["counts"]) + 1)
            several = len(files) * len(parts) > 1
            jobs = [f"{summed}/{file}.{part}.json" for file in files for part in parts]
            yield "summarise", [*(jobs if several else []), f"{summed}.json"]
        if model["kind"] != "model":
            yield "method", [f"{place}/method/{run}.json"]
            return
        parts = _numbered(shards["genes"])
        jobs = [f"{place}/fit/{run}/{part}.json" for part in parts]
        several = len(parts) > 1
        yield "fit", [*(jobs if several else []), f"{place}/fit/{run}.json"]
        if several:  # else the job that fits tests too
            yield "test", [f"{place}/test/{run}.json"]
        if method in data["compared"]:
            yield "reference", [f"{place}/reference/{run}.json"]


def _numbered(n: int) -> list[str]:
    """Names that Snakemake gives to the parts of something."""
    return [f"{i}-of-{n}" for i in range(1, n + 1)]
