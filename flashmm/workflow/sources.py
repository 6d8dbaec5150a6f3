"""Where inputs of the workflow lie: on this machine or in a storage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake.exceptions import WorkflowError

from flashmm.workflow.sheets import ConfigError


@dataclass(frozen=True)
class Sources:
    """Files that a config names.

    Attributes
    ----------
    in_storage : bool
        Whether inputs and outputs lie in a storage instead of the working folder.
    storage : callable or None
        An address such as s3://... to what the rules take; None where there is no plugin.
    made : bool
        Whether rules of another workflow, which uses this one, may make the files first.
    given : callable
        A path of the config to what the rules take.
    """

    in_storage: bool = False
    storage: Callable[[str], Any] | None = None
    made: bool = False
    given: Callable[[str], Any] = str

    def require(self, path: str, where: str) -> None:
        """Refuse a local file that is missing and that no rule will make.

        A storage is looked up by its plugin; what rules make is looked up by Snakemake.
        """
        if "://" in path:
            self.input(path, where)
        elif not (self.in_storage or self.made or Path(path).exists()):
            raise ConfigError(f"{where}: {path}: no such file")

    def input(self, path: str, where: str = "input") -> Any:
        """The path as an input of a rule: an address belongs to a storage plugin."""
        if "://" not in path:
            return self.given(path)
        if self.storage is None:
            raise ConfigError(f"{where}: {path}: there is no storage plugin")
        try:
            return self.storage(path)
        except WorkflowError as error:
            raise ConfigError(f"{where}: {path}: {error}") from None
