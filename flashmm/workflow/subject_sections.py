"""Sections of a config on models with subjects as rows: kinship and multitrait."""

from __future__ import annotations

import os
from dataclasses import dataclass

from flashmm.design.columns import formula_columns
from flashmm.options import FlashmmError
from flashmm.workflow.sheets import ConfigError, Record, one_of, refuse
from flashmm.workflow.sources import Sources

SECTIONS = ("kinship", "multitrait")
MEANS = ("subject", "trait", "traits", "keep", "min_cells")
MODEL = ("rank", "scale")


@dataclass(frozen=True)
class SubjectSection:
    """One section, checked against the data sets.

    Attributes
    ----------
    name : str
        "kinship" or "multitrait".
    given : dict
        What the config says.
    datasets : dict
        Name to data set, of the run.
    sources : Sources
        Where files lie.
    """

    name: str
    given: Record
    datasets: dict[str, Record]
    sources: Sources

    def model(self) -> Record:
        """Settings of the model, sorted by what they matter to."""
        file = self._file()
        names = self._datasets()
        for name in names:
            self._check_columns(name)
        given = self.given
        return {
            "datasets": names,
            "file": file,
            "settings": {
                "kind": given["kind"],
                "column": given.get("column"),
                "genes": given.get("genes"),
                "contrasts": given.get("test"),
                "means": {key: given[key] for key in MEANS if key in given},
                "model": {"formula": given["covariates"], "method": given["method"]}
                | {key: given[key] for key in MODEL if key in given},
            },
            "significant_in": given.get("significant_in"),
        }

    def _file(self) -> str | None:
        """The kinship; None where a column makes subjects alike."""
        if ("file" in self.given) == ("column" in self.given):
            raise ConfigError(
                f"{self.name}: what makes subjects alike? Give one of `file` (a kinship) and "
                "`column` (subjects of one family, batch or site)"
            )
        if "file" not in self.given:
            return None
        file = os.path.expanduser(self.given["file"])
        self.sources.require(file, self.name)
        return file

    def _datasets(self) -> list[str]:
        for name in self.given.get("datasets", []):
            one_of(name, self.datasets, f"{self.name}: datasets", "data set")
        names = self.given.get("datasets", list(self.datasets))
        if not names:
            raise ConfigError(f"{self.name}: there is no data set to fit it to")
        return list(names)

    def _check_columns(self, name: str) -> None:
        """Refuse columns and methods that the data set lacks."""
        given = self.given
        try:
            used = sorted(formula_columns(given["covariates"]))
        except FlashmmError as error:
            refuse(f"{self.name}: covariates", error)
        used += [given["column"]] if "column" in given else []
        self._check_roles(used)
        for column in [given["subject"], given["trait"], *given["keep"], *used]:
            where = f"{self.name}: `by` of {name}"
            one_of(column, self.datasets[name]["by"], where, "column")
        if "significant_in" in given:
            methods = self.datasets[name]["methods"]
            one_of(given["significant_in"], methods, f"{self.name}: significant_in")

    def _check_roles(self, used: list[str]) -> None:
        """Refuse one column that is to do two things, and genes that are chosen in two ways."""
        given = self.given
        if given["subject"] == given["trait"]:
            raise ConfigError(
                f"{self.name}: subject and trait are both {given['trait']!r}; they need a column "
                "each"
            )
        roles = {given["subject"]: "tells the subjects apart", given["trait"]: "makes the traits"}
        for column in roles.keys() & set(used):
            raise ConfigError(
                f"{self.name}: the column {column!r} {roles[column]}, so it can be neither a "
                "covariate nor what makes subjects alike"
            )
        if "significant_in" in given and isinstance(given["genes"], list):
            raise ConfigError(
                f"{self.name}: genes are named, so significant_in has nothing to choose; leave it "
                "out"
            )
