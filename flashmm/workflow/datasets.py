"""Data sets of a run, simulated or given, each with its methods."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashmm.workflow.models import model_of
from flashmm.workflow.sheets import ConfigError, Record, Schemas, check_names, one_of
from flashmm.workflow.sources import Sources

# Settings that a data set may have of its own.
SETTINGS = (
    *("by", "covariates", "transform", "libsize", "layer", "missing"),
    *("test", "alternative", "reference", "gene_names", "duplicate_genes"),
)
# How cells are read, as the steps that read them are told.
READING = ("layer", "gene_names", "duplicate_genes")
# What a simulation, whose cells have their columns and names, has none of.
_AS_MADE: Record = {"obs": None, "gene_names": None, "duplicate_genes": None}


@dataclass(frozen=True)
class DatasetReader:
    """Reads the data sets of a config.

    Attributes
    ----------
    config : dict
        The validated config.
    schemas : Schemas
        For methods that a data set has of its own.
    sources : Sources
        Where the files lie.
    methods, scenarios : dict
        Name to validated record, of the config.
    """

    config: Record
    schemas: Schemas
    sources: Sources
    methods: dict[str, Record]
    scenarios: dict[str, Record]

    def all(self) -> dict[str, Record]:
        """Name -> data set; refused where there is nothing to do, or a name is there twice."""
        found = [*self._simulated(), *self._analysed()]
        if not found and not self.config.keys() & {"heritability", "calibration", "donors"}:
            raise ConfigError(
                "config: nothing to do; give counts (make report COUNTS=path/to/counts.h5ad), "
                "datasets or a benchmark section"
            )
        names = [name for name, _ in found]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(
                    f"datasets: {name!r} is also the name of a simulation; choose another one"
                )
        return dict(found)

    def _simulated(self) -> Iterator[tuple[str, Record]]:
        """Yield a data set per scenario and replicate."""
        section = self.config.get("benchmark", {})
        for scenario in self.scenarios:
            for replicate in range(1, section["replicates"] + 1):
                name = f"{scenario}-{replicate}"
                compared = replicate <= section["reference"]["replicates"]
                yield (
                    name,
                    self._dataset(
                        [f"results/simulations/{name}.h5ad"],
                        _AS_MADE,
                        "benchmark",
                        truth=f"results/simulations/{name}.truth.tsv",
                        scenario=scenario,
                        replicate=replicate,
                        compared=section["reference"]["methods"] if compared else [],
                    ),
                )

    def _analysed(self) -> Iterator[tuple[str, Record]]:
        """Yield a data set per entry of `datasets`, or one for `counts`."""
        for name, given in named_datasets(self.config):
            counts = [given["counts"]] if isinstance(given["counts"], str) else given["counts"]
            counts = [path if "://" in path else os.path.expanduser(path) for path in counts]
            for path in counts:
                self.sources.require(path, f"datasets: {name}")
            where = f"datasets: {name}"
            yield name, self._dataset(counts, given, where, truth=None, scenario=name, compared=[])

    def _dataset(self, counts: list[str], given: Record, where: str, **more: Any) -> Record:
        """A data set with the settings of its own and, where it has none, those of the config."""
        settings: Record = {key: given.get(key, self.config[key]) for key in SETTINGS}
        place = f"{where}: reference" if "reference" in given else "reference"
        for column in settings["reference"]:
            one_of(column, settings["by"], f"{place}: the columns of `by`", "column")
        methods = self._methods_of(given, where)
        own = f"{where}: methods" if isinstance(given.get("methods"), dict) else "methods"
        models = {
            name: model_of(method, settings, f"{own}: {name}") for name, method in methods.items()
        }
        sheets = self._sheets(counts, given, where)
        if sheets or settings["gene_names"] or settings["duplicate_genes"]:
            _refuse_readers(models, where)
        return {"counts": counts, "obs": sheets, **settings, "methods": models, **more}

    def _sheets(self, counts: list[str], given: Record, where: str) -> list[str]:
        """Tables of the cells, one for each file of counts, or none."""
        obs = given.get("obs", self.config["obs"])
        sheets = [] if obs is None else [obs] * len(counts) if isinstance(obs, str) else list(obs)
        if sheets and len(sheets) != len(counts):
            raise ConfigError(
                f"{where}: obs: a list of {len(sheets)} tables for {len(counts)} files of counts; "
                "give one for each, in their order"
            )
        sheets = [path if "://" in path else os.path.expanduser(path) for path in sheets]
        for path in sheets:
            self.sources.require(path, f"{where}: obs")
        return sheets

    def _methods_of(self, given: Mapping[str, Any], where: str) -> dict[str, Record]:
        """The methods of a data set: all, some of them by name, or its own."""
        chosen = given.get("methods")
        if isinstance(chosen, dict):
            return self.schemas.records(chosen, "methods", f"{where}: methods")
        for name in chosen or []:
            one_of(name, self.methods, f"{where}: methods")
        return {name: self.methods[name] for name in chosen or self.methods}


def _refuse_readers(models: Mapping[str, Record], where: str) -> None:
    """Refuse methods that read the files themselves, where these do not have it all."""
    for name, model in models.items():
        if model.get("cells"):
            raise ConfigError(
                f"{where}: {name!r} reads the files of counts itself, which knows nothing of obs, "
                "gene_names and duplicate_genes; write one file by flashmm convert, or leave this "
                "method out with `methods`"
            )


def named_datasets(config: Record) -> list[tuple[str, Record]]:
    """Entries of `datasets`, or one for `counts`, named by its first file."""
    if "counts" not in config:
        check_names(config["datasets"], "datasets")
        return list(config["datasets"].items())
    first = config["counts"] if isinstance(config["counts"], str) else config["counts"][0]
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(first).stem).lstrip("_-") or "counts"
    return [(name, {"counts": config["counts"]})]
