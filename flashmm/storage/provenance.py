"""Say which code made a result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
# What draws and writes the report changes no table.
PRESENTATION = ("plots", "report")


def source_digest(presentation: bool = False) -> str:
    """Digest of the package's source files.

    Parameters
    ----------
    presentation : bool
        Whether the files that only draw and write the report count too.

    Returns
    -------
    str
        Twelve hexadecimal digits; they change when any of the files does.
    """
    digest = hashlib.sha256()
    for path in _sources(presentation):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _sources(presentation: bool) -> Iterator[Path]:
    for path in sorted(PACKAGE.rglob("*")):
        shown = path.relative_to(PACKAGE).parts[0] in PRESENTATION
        if path.suffix in (".py", ".j2") and (presentation or not shown):
            yield path
