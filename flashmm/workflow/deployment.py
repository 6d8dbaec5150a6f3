"""The package for jobs that run in an environment of their own."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from flashmm.storage.provenance import PACKAGE

_LINKED = Path(".snakemake/flashmm-package")


def serve_package(elsewhere: bool) -> None:
    """Let jobs import the very package that has made the plan.

    Parameters
    ----------
    elsewhere : bool
        Whether jobs run in environments of their own (``--software-deployment-method``). These hold
        what the package depends on; it is a folder of Python files itself, which serves any of them
        through the variable PYTHONPATH.
    """
    package = PACKAGE
    if (package.parent / "pyproject.toml").is_file():
        _put_first(package.parent)
    elif elsewhere:  # beside an installed package lie others, for this Python alone
        _put_first(_linked(package))


def _linked(package: Path) -> Path:
    """A folder of this run that holds nothing but the package."""
    link = _LINKED.absolute() / "flashmm"
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.resolve() != package.resolve():  # another version served an earlier run
        link.unlink(missing_ok=True)
        with suppress(FileExistsError):
            link.symlink_to(package)
    return link.parent


def _put_first(folder: Path) -> None:
    known = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if str(folder) not in known:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *known])
