"""The plan of a run: what there is to do, and the files that each rule leaves."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flashmm.workflow.datasets import DatasetReader
from flashmm.workflow.donor_study import DonorStudy, read_donor_study
from flashmm.workflow.other_rows import OtherMethods
from flashmm.workflow.scenarios import donor_spec, is_of_donors, read_scenarios, scenario_files
from flashmm.workflow.sheets import ConfigError, Record, Schemas, one_of
from flashmm.workflow.sources import Sources
from flashmm.workflow.study import Study, read_study
from flashmm.workflow.subject_sections import SECTIONS, SubjectSection

Run = tuple[str, str]

EVALUATED = ("metrics", "qq", "p_histogram", "roc", "fdp_tpr")
COMPARED = ("agreement", "pairs", "attempts")
RECORDED = ("status", "costs")
# Tables that are written as text too.
FOR_PEOPLE = ("metrics", "agreement", "status")

SUBJECT_TABLES = {
    "kinship": ("heritability", "tests", "profiles"),
    "multitrait": ("fits", "effects", "covariances"),
}
HERITABILITY_TABLES = ("estimates", "summary", "dense", "profiles")


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes
    ----------
    config : dict
        The validated config.
    scenarios : dict
        Name of a scenario of the benchmark to its fields.
    datasets : dict
        Name to data set: counts, settings, methods, truth, scenario.
    subject_models : dict
        "kinship" and "multitrait" to their settings; None where the config has no such section.
    study : Study
        The calibration study; empty where there is none.
    donors : DonorStudy
        The study on real donors; empty where there is none.
    sources : Sources
        Where inputs lie.
    """

    config: Record
    scenarios: dict[str, Record]
    datasets: dict[str, Record]
    subject_models: dict[str, Record | None]
    study: Study
    donors: DonorStudy
    sources: Sources

    @property
    def runs(self) -> list[Run]:
        """Data set and method of every run."""
        return [(name, method) for name in self.datasets for method in self.methods_of(name)]

    def methods_of(self, dataset: str) -> Record:
        """Name to model, of the methods of a data set."""
        return dict(self.datasets[dataset]["methods"])

    @property
    def others(self) -> OtherMethods:
        """The methods that are commands or functions."""
        return OtherMethods(self.datasets, self.config)

    def cells_for(self, dataset: str, method: str) -> list[Any]:
        """The files of counts, for a command or function that reads the cells."""
        wanted = self.others.model(dataset, method)["cells"]
        return self.counts_of(dataset) if wanted else []

    def counts_of(self, dataset: str) -> list[Any]:
        """The files of counts of a data set: given ones, or those of a simulation."""
        data = self.datasets[dataset]
        made = data["truth"] is not None
        return [path if made else self.sources.input(path) for path in data["counts"]]

    def sheet_of(self, dataset: str, file: int) -> Any:
        """The table of the cells of a file of counts, where there is one."""
        sheets = self.datasets[dataset]["obs"]
        return self.sources.input(sheets[file]) if sheets else []

    @property
    def split(self) -> list[str]:
        """Data sets whose cells are summarised by several jobs; the others need no merge."""
        shards = self.config["shards"]["cells"]
        return [name for name, data in self.datasets.items() if len(data["counts"]) * shards > 1]

    @property
    def whole(self) -> list[str]:
        """Data sets that one job summarises."""
        return [name for name in self.datasets if name not in self.split]

    def targets(self) -> list[str]:
        """The last files of the run."""
        main = bool(self.runs) or "heritability" in self.config
        study = bool(self.study.scenarios)
        donors = bool(self.donors.counts)
        return (
            [f"{self.report_folder}/report.html"] * main
            + ["results/calibration/report.html"] * study
            + ["results/donors/report.html"] * donors
        )

    def kept_tables(self) -> list[str]:
        """Tables that a run leaves beside its report; one that was deleted is made again."""
        tests = [
            f"results/tests/{dataset}/{method}.{ending}"
            for dataset, method in self.runs
            for ending in ("parquet", "tsv")
        ]
        return [*tests, *self.tables().values(), *self.tables_for_people()]

    @property
    def simulated(self) -> list[str]:
        """Scenarios of the benchmark that are simulated."""
        return [name for name, spec in self.scenarios.items() if not is_of_donors(spec)]

    @property
    def of_donors(self) -> list[str]:
        """Scenarios of the benchmark that are made from real donors."""
        return [name for name in self.scenarios if name not in self.simulated]

    def donor_set(self, scenario: str) -> Record:
        """What a set of real donors is: its kind, subjects per side, and fields of `DonorSpec`."""
        spec = self.scenarios[scenario]
        return {"kind": spec["kind"], "per_side": spec["per_side"], "spec": donor_spec(spec)}

    def seed(self, scenario: str, replicate: int) -> list[int]:
        """Seeds depend neither on which other scenarios there are, nor on their order."""
        return [self.config["seed"], zlib.crc32(scenario.encode()), replicate]

    def scenario_inputs(self, scenario: str) -> dict[str, Any]:
        """The files that a scenario is drawn from, by what they are."""
        files = scenario_files(self.scenarios[scenario])
        return {key: self.sources.input(path) for key, path in files.items()}

    def groups_of(self, dataset: str, method: str) -> str:
        """Methods share the groups of a data set; another transform has groups of its own."""
        return f"results/groups/{dataset}{self._variant(dataset, method)}.h5ad"

    def _variant(self, dataset: str, method: str) -> str:
        """What the names of files of groups of another transform have behind the data set's."""
        data = self.datasets[dataset]
        transform = data["methods"][method]["transform"]
        return "" if transform == data["transform"] else f".{transform}"

    # Tables, each collected over its data sets; those of `RECORDED` over runs, from JSON

    def datasets_with(self, table: str) -> list[str]:
        """The data sets that have such a table: all, or those that MixedLM was fitted to."""
        if table in EVALUATED:
            return [name for name, data in self.datasets.items() if data["methods"]]
        return [name for name, data in self.datasets.items() if data["compared"]]

    def tables(self) -> dict[str, str]:
        """The tables of this config and their files."""
        found = [table for table in EVALUATED + COMPARED if self.datasets_with(table)]
        found += RECORDED if self.runs else ()
        return {table: f"results/evaluation/{table}.parquet" for table in found}

    def tables_for_people(self) -> list[str]:
        """The files of the tables that are written as text too."""
        return [f"results/evaluation/{table}.tsv" for table in self.tables() if table in FOR_PEOPLE]

    def parts(self) -> dict[str, list[str]]:
        """Table to its parts: one per data set, with all its methods; of `RECORDED` one per job."""
        made = {
            table: [
                f"results/evaluation/{dataset}/{table}.parquet"
                for dataset in self.datasets_with(table)
            ]
            for table in EVALUATED + COMPARED
        }
        return {table: files for table, files in made.items() if files} | self._recorded("files")

    def collected(self) -> dict[str, list[Record]]:
        """Table to the names of its data sets or jobs, in the order of its parts."""
        made = {
            table: [self.names_of(dataset) for dataset in self.datasets_with(table)]
            for table in EVALUATED + COMPARED
        }
        return {table: names for table, names in made.items() if names} | self._recorded("names")

    def _recorded(self, what: str) -> dict[str, Any]:
        """Files of JSON, or the names of their runs, of how methods ended and what they took."""
        if not self.runs:
            return {}
        status = [f"results/status/{dataset}/{method}.json" for dataset, method in self.runs]
        costs = list(self._steps())
        if what == "files":
            return {"status": status, "costs": [path for _, path in costs]}
        return {
            "status": [
                self.names_of(dataset) | {"method": method} for dataset, method in self.runs
            ],
            "costs": [names for names, _ in costs],
        }

    def _steps(self) -> Iterator[tuple[Record, str]]:
        """Yield names and file of what each job of each step of each method took."""
        for dataset, method in self.runs:
            for step, paths in self.others.steps(dataset, method, self._variant(dataset, method)):
                for path in paths:
                    yield self.names_of(dataset) | {"method": method, "step": step}, path

    def names_of(self, dataset: str) -> Record:
        """The columns that tell data sets apart in a collected table; its methods follow them."""
        data = self.datasets[dataset]
        return {
            "dataset": dataset,
            "scenario": data["scenario"],
            "replicate": data.get("replicate", 1),
        }

    # Models between subjects

    def fitted_to(self, section: str) -> list[str]:
        """The data sets that a model between subjects is fitted to."""
        model = self.subject_models[section]
        return model["datasets"] if model else []

    def relatedness(self, section: str) -> Any:
        """The file that says how subjects are related, where there is one."""
        model = self.subject_models[section]
        return self.sources.input(model["file"]) if model and model["file"] else []

    def settings_of(self, section: str) -> Record:
        """Settings of a model between subjects."""
        model = self.subject_models[section]
        return model["settings"] if model else {}

    def significant_tests(self, dataset: str) -> Any:
        """The tests that genes are chosen by, where they are chosen so."""
        model = self.subject_models["multitrait"]
        method = model["significant_in"] if model else None
        return f"results/tests/{dataset}/{method}.parquet" if method else []

    # The report

    @property
    def report_folder(self) -> str:
        """Where the report lies: a named one has a folder of its own, so that none is replaced."""
        name = self.config["report"]["name"]
        return f"results/reports/{name}" if name else "results"

    def report_runs(self) -> list[Record]:
        """What the report shows of each run: its names, its model and its files."""
        return [self._report_run(*run) for run in self.runs]

    def _report_run(self, dataset: str, method: str) -> Record:
        data, place = self.datasets[dataset], f"{dataset}/{method}"
        is_model = data["methods"][method]["kind"] == "model"
        compared = method in data["compared"]
        return {
            "dataset": dataset,
            "scenario": data["scenario"],
            "replicate": data.get("replicate"),
            "counts": data["counts"],
            "method": method,
            "model": data["methods"][method],
            "groups": self.groups_of(dataset, method),
            "fit": f"results/fit/{place}.h5ad" if is_model else None,
            "tests": f"results/tests/{place}.parquet",
            "notes": f"results/tests/{place}.notes.txt",
            "measured": f"results/benchmarks/{'fit' if is_model else 'method'}/{place}.json",
            "reference": f"results/benchmarks/reference/{place}.json" if compared else None,
        }

    def related_results(self) -> Record:
        """What the optional models left: section -> data set -> what -> file."""
        found = {
            section: {
                dataset: {name: f"results/{section}/{dataset}/{name}.parquet" for name in tables}
                | {"notes": f"results/{section}/{dataset}/notes.txt"}
                for dataset in self.fitted_to(section)
            }
            for section, tables in SUBJECT_TABLES.items()
        }
        if "heritability" in self.config:
            files = {name: f"results/heritability/{name}.parquet" for name in HERITABILITY_TABLES}
            files["notes"] = "results/heritability/notes.txt"
            found["heritability"] = {"simulated traits": files}
        return {section: results for section, results in found.items() if results}

    def report_files(self) -> list[str]:
        """The files of a run that the report opens: results, collected tables, simulations."""
        related = [
            path
            for results in self.related_results().values()
            for files in results.values()
            for path in files.values()
        ]
        kept = ("groups", "fit", "tests", "notes", "measured", "reference")
        left = {run[key] for run in self.report_runs() for key in kept if run[key]}
        simulated = {p for data in self.datasets.values() if data["truth"] for p in data["counts"]}
        return [*sorted(left), *self.tables().values(), *sorted(simulated), *related]


def read_plan(config: Record, schemas: Schemas, sources: Sources | None = None) -> Plan:
    """Check a config with its sheets, and say what there is to do.

    Parameters
    ----------
    config : dict
        The config; defaults of the schema are written into it.
    schemas : Schemas
        Schemas of configs and sheets.
    sources : Sources, optional
        Where inputs lie; by default in the working folder.

    Returns
    -------
    Plan
        What the rules ask.

    Raises
    ------
    ConfigError
        What is wrong, and where, in one line.
    """
    sources = sources or Sources()
    schemas.validated(config, "config", "config")
    donors = read_donor_study(config, schemas, sources)
    if donors.counts:
        config.pop("counts", None)  # they are the study's
    has_data = "benchmark" in config or "counts" in config or bool(config["datasets"])
    methods = schemas.records(config["methods"], "methods", "methods") if has_data else {}
    scenarios = _scenarios(config, schemas, sources, methods)
    datasets = DatasetReader(config, schemas, sources, methods, scenarios).all()
    models = {
        section: SubjectSection(section, config[section], datasets, sources).model()
        if section in config
        else None
        for section in SECTIONS
    }
    study = read_study(config, schemas)
    plan = Plan(config, scenarios, datasets, models, study, donors, sources)
    plan.others.check()
    return plan


def _scenarios(
    config: Record, schemas: Schemas, sources: Sources, methods: dict[str, Record]
) -> dict[str, Record]:
    """Name -> fields of the scenario; the methods that MixedLM is compared with are known."""
    if "benchmark" not in config:
        return {}
    scenarios = read_scenarios(config["benchmark"], schemas, sources)
    for name in config["benchmark"]["reference"]["methods"]:
        where = "benchmark: reference: methods"
        one_of(name, methods, where)
        if "fixed" not in methods[name] or methods[name].keys() & {"command", "function"}:
            raise ConfigError(
                f"{where}: {name!r} is no model, so that MixedLM cannot fit it; leave it out"
            )
        if "within" in methods[name]:
            raise ConfigError(
                f"{where}: {name!r} has a model for each level of {methods[name]['within']!r}, "
                "which MixedLM is not compared with; leave it out"
            )
    return scenarios
