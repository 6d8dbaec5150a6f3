"""The versions that an environment holds, as constraints for pip: `make lock` writes them.

Only what the package and its extras need is named, whatever else is installed beside it.
"""

from __future__ import annotations

import platform
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("workflow", "docs", "dev")


def locked(project: Mapping[str, Any], extras: Iterable[str] = EXTRAS) -> dict[str, str]:
    """Installed versions of all that a project needs, by name, in the order of the names.

    Parameters
    ----------
    project : mapping
        The table `project` of its pyproject.toml.
    extras : iterable of str
        Its optional dependencies that count.

    Returns
    -------
    dict
        Name to version; the project itself is not among them.

    Raises
    ------
    importlib.metadata.PackageNotFoundError
        Something that is needed is not installed.
    """
    asked = [*project["dependencies"]]
    for extra in extras:
        asked += project["optional-dependencies"][extra]
    needs = [need for text in asked for need in _needed(text) if need[0] != project["name"]]
    found: dict[str, str] = {}
    done: set[tuple[str, str]] = set()
    while needs:
        name, extra = need = needs.pop()
        if need not in done:
            done.add(need)
            found[canonicalize_name(name)] = metadata.version(name)
            needs += [
                more for text in metadata.requires(name) or [] for more in _needed(text, extra)
            ]
    return dict(sorted(found.items()))


def _needed(text: str, extra: str = "") -> Iterator[tuple[str, str]]:
    """Yield the package of a requirement, without and with its extras, if it applies here."""
    needed = Requirement(text)
    if needed.marker is None or needed.marker.evaluate({"extra": extra}):
        yield from ((needed.name, wanted) for wanted in ("", *needed.extras))


def main() -> int:
    """Print the constraints of the project in this folder."""
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    print(
        f"# Versions that the tests ran with: Python {platform.python_version()}, {sys.platform}."
    )
    print("# make lock writes this file; pip install --constraint constraints.txt reads it.")
    for name, version in locked(project).items():
        print(f"{name}=={version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
