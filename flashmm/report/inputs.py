"""What a report is made from: the runs, and the files that they left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from flashmm.benchmark.truth import adjust_per_contrast, keys_of_tests
from flashmm.inference.ddf import DEFAULT_DDF
from flashmm.inference.testing import DEFAULT_WITHIN
from flashmm.io.tables import read_table
from flashmm.storage.files import reading
from flashmm.storage.hdf5 import hdf5_file

UNITS = {
    "log2p1": "log₂(1 + count)",
    "log1p": "ln(1 + count)",
    "log1p_cp10k": "ln(1 + counts per 10,000)",
    "none": "unit of the input",
}

#: functions of the methods sheet that say what the best and the emptiest method would find
CONTROLS = ("truth", "permuted-labels")


@dataclass(frozen=True)
class Run:
    """One method on one data set, and the files that it left.

    Attributes
    ----------
    dataset, scenario, method : str
        Names; the scenario of real counts is the data set itself.
    replicate : int or None
        Number of the replicate of a simulation; None for real counts.
    counts : list of str
        Paths of the counts.
    model : dict
        `transform, formulas, options, ddf` of the method, and where they are used `within` and
        `size_factors`; of another `kind` than "model" what is `run`.
    groups, tests, notes, measured : str
        Paths of the groups, the tests, the notes, and the measured time and memory.
    fit : str or None
        Path of the fit; None of a command or function.
    reference : str or None
        Path of the time and memory of MixedLM, where it was fitted.
    """

    dataset: str
    scenario: str
    replicate: int | None
    counts: list[str]
    method: str
    model: dict[str, Any]
    groups: str
    fit: str | None
    tests: str
    notes: str
    measured: str
    reference: str | None = None

    @property
    def simulated(self) -> bool:
        """Whether the truth is known."""
        return self.replicate is not None

    @property
    def is_model(self) -> bool:
        """Whether it is a model of this package, not a command or a function."""
        return self.fit is not None

    @property
    def ddf(self) -> str:
        """Degrees of freedom asked for, or the default of the criterion and the kind of model."""
        if not self.is_model:
            return "its own"
        criterion = self.model["options"]["method"]
        within = self.within is not None and criterion == "REML"
        return str(self.model["ddf"] or (DEFAULT_WITHIN if within else DEFAULT_DDF[criterion]))

    @property
    def within(self) -> str | None:
        """The column whose levels have models of their own."""
        within = self.model.get("within")
        return None if within is None else str(within)

    @property
    def unit(self) -> str:
        """Unit of the estimates."""
        return UNITS[self.model["transform"]]


@dataclass(frozen=True)
class Inputs:
    """Everything that a report is made from.

    Attributes
    ----------
    runs : tuple of Run
        What was fitted and tested, in the order of the config.
    tables : mapping
        Name to path of the collected tables of the evaluation.
    scenarios : mapping
        Name to fields of the simulations.
    config : mapping
        The whole config, defaults filled in.
    figures : Path
        Folder for the figures.
    related : mapping
        "kinship", "multitrait" or "heritability" to data set to name to path of the tables of the
        models between subjects; empty where there are none.
    """

    runs: tuple[Run, ...]
    tables: Mapping[str, str]
    scenarios: Mapping[str, Mapping[str, Any]]
    config: Mapping[str, Any]
    figures: Path
    related: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)

    @classmethod
    def of(cls, figures: str | Path, *, runs: Iterable[Mapping[str, Any]], **more: Any) -> Inputs:
        """Make the record from `figures`, the fields of each `Run`, and its other attributes."""
        return cls(runs=tuple(Run(**run) for run in runs), figures=Path(figures), **more)

    @classmethod
    def from_job(cls, job: Any) -> Inputs:
        """Make the record from a job of the workflow.

        Parameters
        ----------
        job : object
            With `params` (the attributes above, and `files`, the paths that they name), `input`
            (`files`, where those lie for this job: a storage puts them into a folder of its own)
            and `output` (`figures`).

        Returns
        -------
        Inputs
        """
        place = dict(zip(job.params.files, map(str, job.input.files), strict=True))
        given = dict(job.params.items())
        named = {name: given[name] for name in ("runs", "tables", "related")}
        return cls.of(
            job.output.figures,
            scenarios=given["scenarios"],
            config=given["config"],
            **_relocated(named, place),
        )

    @property
    def simulations(self) -> tuple[Run, ...]:
        """Runs on simulated counts."""
        return tuple(run for run in self.runs if run.simulated)

    @property
    def analyses(self) -> tuple[Run, ...]:
        """Runs on real counts."""
        return tuple(run for run in self.runs if not run.simulated)

    @property
    def methods(self) -> list[str]:
        """Names of all methods, those that left nothing but a failure included, in their order."""
        named = [self.table("status"), self.table("metrics")]
        others = [name for table in named if len(table) for name in table["method"]]
        return list(dict.fromkeys([*(run.method for run in self.runs), *map(str, others)]))

    @property
    def controls(self) -> set[str]:
        """Methods that are no competitors: the truth itself, and labels without any meaning."""
        asked = {run.method: run.model.get("run") or {} for run in self.runs}
        function = {name: (run.get("function") or {}) for name, run in asked.items()}
        return {name for name, of in function.items() if of.get("function") in CONTROLS}

    def first_of(self, scenario: str) -> Run:
        """Return the first run of a scenario."""
        return next(run for run in self.runs if run.scenario == scenario)

    @cached_property
    def groups(self) -> dict[str, ad.AnnData]:
        """Groups by path, opened without their values."""
        return {path: self.stored(path) for path in dict.fromkeys(run.groups for run in self.runs)}

    @cached_property
    def _opened(self) -> dict[str, ad.AnnData]:
        return {}

    def stored(self, path: str) -> ad.AnnData:
        """A file of groups or counts, opened once without its values."""
        if path not in self._opened:
            with reading(path):
                self._opened[path] = ad.read_h5ad(path, backed="r")
        return self._opened[path]

    def close(self) -> None:
        """Forget the files that are open; what is asked for next opens them anew."""
        for name in ("_opened", "groups"):
            vars(self).pop(name, None)

    def tests(self, run: Run) -> pd.DataFrame:
        """Read the tests of a run, with columns that other programs leave out."""
        tests = read_table(run.tests)
        with np.errstate(divide="ignore"):
            made = {
                "log10_p": np.log10(tests["p_value"].to_numpy(dtype=float)),
                "estimate": np.nan,
                "df": np.nan,
                "status": "ok",
            }
        tests = tests.assign(**{name: v for name, v in made.items() if name not in tests})
        if "adj_p_value" not in tests:
            families = tests.groupby(keys_of_tests(tests, run.within or "cell_type"), sort=False)
            adjusted = adjust_per_contrast(tests["p_value"].to_numpy(), families.ngroup())
            tests["adj_p_value"] = adjusted
        return tests

    def table(self, name: str) -> pd.DataFrame:
        """Read a collected table; an empty frame where the run has none."""
        return read_table(self.tables[name]) if name in self.tables else pd.DataFrame()


def _relocated(value: Any, place: Mapping[str, str]) -> Any:
    """A value of lists and mappings, every path in it where it lies."""
    if isinstance(value, list | tuple):
        return [_relocated(item, place) for item in value]
    if isinstance(value, Mapping):
        return {key: _relocated(item, place) for key, item in value.items()}
    return place.get(value, value) if isinstance(value, str) else value


def genes_of_fit(path: str) -> pd.DataFrame:
    """What a fit says of each of its genes, without the rest of the file."""
    with hdf5_file(path) as file, reading(path):
        genes: pd.DataFrame = ad.io.read_elem(file["obs"])
        return genes


def said_by(data: ad.AnnData, key: str) -> list[str]:
    """Texts that a file of ours says about itself, one or several."""
    return [str(text) for text in np.atleast_1d(data.uns["flashmm"][key])]
