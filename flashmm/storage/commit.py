"""The commit of the sources that a package was taken from."""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from flashmm.storage.provenance import PACKAGE

# Folders whose changes change what a run does.
_COUNT = ("flashmm", "workflow")
_WITHIN = 10.0  # seconds for git, on a slow file system


def code_commit(package: Path = PACKAGE) -> dict[str, Any] | None:
    """Find the commit of the package that is imported.

    Parameters
    ----------
    package : pathlib.Path
        The folder of the package.

    Returns
    -------
    dict or None
        `commit`, and of a checkout `changed`, whether files of the package or the workflow differ
        from it; of a package that pip took from a git address, its `address`. None where neither is
        known.
    """
    return _of_checkout(package) or _of_installation(package)


def _of_checkout(package: Path) -> dict[str, Any] | None:
    # a package installed somewhere below a repository of somebody else is no part of it
    if _git(package.parent, "ls-files", "--error-unmatch", f"{package.name}/__init__.py") is None:
        return None
    commit = _git(package.parent, "rev-parse", "HEAD")
    folders = [name for name in _COUNT if (package.parent / name).is_dir()]
    changes = _git(package.parent, "status", "--porcelain", "--", *folders)
    return {"commit": commit, "changed": bool(changes)} if commit else None


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; None where there is no git, no repository, or no answer."""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=_WITHIN,
            check=True,
        )
        return done.stdout.strip()
    return None


def _of_installation(package: Path) -> dict[str, Any] | None:
    """What pip wrote down of a package that it took from a git address (PEP 610)."""
    with suppress(metadata.PackageNotFoundError, ValueError, TypeError, KeyError):
        text = metadata.distribution(package.name).read_text("direct_url.json")
        said = json.loads(text or "{}")
        return {"commit": said["vcs_info"]["commit_id"], "address": said["url"]}
    return None
