"""Scenarios and methods of a calibration study, where the config has one."""

from __future__ import annotations

from dataclasses import dataclass

from flashmm.benchmark.calibration import CalibrationMethod, scenario_table
from flashmm.options import FlashmmError
from flashmm.workflow.models import terms_of
from flashmm.workflow.scenarios import scenario_files
from flashmm.workflow.sheets import ConfigError, Record, Schemas, refuse


@dataclass(frozen=True)
class Study:
    """What a calibration study runs.

    Attributes
    ----------
    scenarios : dict
        Name to fields of the simulation.
    methods : list of dict
        Fields of the methods, in their order.
    replicates : int
        Data sets per scenario.
    fixed, fixed_counts : str or None
        Fixed effects, of Gaussian scenarios and of those of counts.
    """

    scenarios: dict[str, Record]
    methods: list[Record]
    replicates: int = 0
    fixed: str | None = None
    fixed_counts: str | None = None

    @property
    def gaussian(self) -> list[str]:
        """Scenarios of Gaussian groups."""
        return [n for n, spec in self.scenarios.items() if spec.get("distribution") == "gaussian"]

    @property
    def counted(self) -> list[str]:
        """Scenarios of counts."""
        return [name for name in self.scenarios if name not in self.gaussian]

    def runs(self) -> list[tuple[str, int]]:
        """Scenario and replicate of every data set."""
        return [(name, number + 1) for name in self.scenarios for number in range(self.replicates)]

    def fixed_effects(self, scenario: str) -> str | None:
        """The formula of the fixed effects for a scenario."""
        return self.fixed if scenario in self.gaussian else self.fixed_counts

    def matching(self, scenario: str) -> list[str]:
        """The random terms that were simulated."""
        return list(scenario_table({scenario: self.scenarios[scenario]})["matching"][0])


def read_study(config: Record, schemas: Schemas) -> Study:
    """Read the section `calibration`; without it the study is empty."""
    section = config.get("calibration")
    if section is None:
        return Study({}, [])
    return Study(
        _scenarios(section, schemas),
        _methods(section, schemas),
        section["replicates"],
        section["fixed"],
        section["fixed_counts"],
    )


def _scenarios(section: Record, schemas: Schemas) -> dict[str, Record]:
    where = "calibration: scenarios"
    scenarios = schemas.records(section["scenarios"], "scenarios", where)
    for name, spec in scenarios.items():
        for key in scenario_files(spec):
            raise ConfigError(f"{where}: {name}: {key!r} belongs to scenarios of a benchmark")
    try:
        scenario_table(scenarios)
    except FlashmmError as error:
        refuse(where, error)
    return scenarios


def _methods(section: Record, schemas: Schemas) -> list[Record]:
    where = "calibration: methods"
    found = schemas.records(section["methods"], "calibration_methods", where)
    methods = [
        {"name": name, **fields, "random": terms_of(fields.get("random", []))}
        for name, fields in found.items()
    ]
    try:
        for method in methods:
            CalibrationMethod.of(method)
    except FlashmmError as error:
        refuse(where, error)
    return methods
