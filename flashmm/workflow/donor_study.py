"""Sets and methods of a study on real donors, where the config has one."""

from __future__ import annotations

from dataclasses import dataclass, fields

from flashmm.benchmark.donors import DonorSpec, SetName
from flashmm.benchmark.methods import Method
from flashmm.options import FlashmmError
from flashmm.workflow.sheets import ConfigError, Record, Schemas, refuse
from flashmm.workflow.sources import Sources


@dataclass(frozen=True)
class DonorStudy:
    """What a study on real donors runs.

    Attributes
    ----------
    counts : str or None
        The file of counts; None where there is no study.
    spec : dict
        Fields of `DonorSpec`.
    methods : list of dict
        Rows of the methods, in their order.
    """

    counts: str | None
    spec: Record
    methods: list[Record]

    def sets(self) -> list[SetName]:
        """The sets, in their order."""
        return DonorSpec(**self.spec).sets() if self.counts else []

    def set_spec(self) -> Record:
        """What a set follows from; the number of sets is not part of it."""
        return {k: v for k, v in self.spec.items() if k not in ("per_side", "permuted", "thinned")}

    def files(self, pattern: str) -> list[str]:
        """A file of each set."""
        return [pattern.format(*name) for name in self.sets()]


def read_donor_study(config: Record, schemas: Schemas, sources: Sources) -> DonorStudy:
    """Read the section `donors`; without it there is no study. Its counts may be `counts` above."""
    section = config.get("donors")
    if section is None:
        return DonorStudy(None, {}, [])
    counts = _counts(section, config)
    sources.require(counts, "donors: counts")
    known = {f.name for f in fields(DonorSpec)}
    spec = {key: value for key, value in section.items() if key in known}
    spec |= {"seed": config["seed"]}
    spec |= {key: tuple(spec[key]) for key in ("per_side", "fold_change")}
    where = "donors: methods"
    found = schemas.records(section["methods"], "donor_methods", where)
    methods = [{"name": name, **row} for name, row in found.items()]
    try:
        DonorSpec(**spec)
        for row in methods:
            Method.of(row)
    except FlashmmError as error:
        refuse("donors", error)
    return DonorStudy(counts, spec, methods)


def _counts(section: Record, config: Record) -> str:
    given = section.get("counts") or config.get("counts")
    files = [given] if isinstance(given, str) else list(given or [])
    if len(files) != 1:
        raise ConfigError(
            f"donors: counts: one .h5ad file is needed, found {len(files)}; give it as "
            "`make calibration COUNTS=...` or as the key counts"
        )
    return str(files[0])
