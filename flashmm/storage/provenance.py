"""Say which code made a result.

A result depends on the modules that its script names, and on those that they name in turn. Their
digest is of the syntax tree: a comment or a docstring changes nothing. The trees of a whole package
take seconds, and every process of a workflow asks, so what was found of a source is kept beside the
compiled modules, by the digest of its bytes.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parents[1]
# Sources that are kept; more are those of many versions, and begin anew.
MOST_KEPT = 2000


class _Source(NamedTuple):
    """What counts of a module: the digest of its tree without docstrings, and what it imports."""

    tree: str
    imports: list[str]


def source_digest(script: str | Path | None = None) -> str:
    """Digest of the code that a result depends on.

    Parameters
    ----------
    script : path, optional
        The script that makes the result: what it imports of this package, of the folder that it
        lies in, and templates in the folders of these modules count. Without it the whole package
        counts.

    Returns
    -------
    str
        Twelve hexadecimal digits; they change when the code does, comments and docstrings aside.
    """
    already = len(_kept())
    files = _closure(Path(script)) if script is not None else set(PACKAGE.rglob("*.py"))
    files |= {path for file in files for path in file.parent.glob("templates/*.j2")}
    digest = hashlib.sha256()
    for path in sorted(files, key=_name):
        digest.update(_name(path).encode() + b"\0" + _content(path))
    if len(_kept()) > already:
        _keep()
    return digest.hexdigest()[:12]


@cache
def _name(path: Path) -> str:
    return (path.relative_to(PACKAGE) if PACKAGE in path.parents else Path(path.name)).as_posix()


def _closure(script: Path) -> set[Path]:
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imported(path)
    return found


@cache
def _imported(path: Path) -> tuple[Path, ...]:
    """Files that a module imports, at the top or in a function."""
    found = (_file(name, path.parent) for name in dict.fromkeys(_source(path).imports))
    return tuple(file for file in found if file is not None)


def _names(node: ast.AST) -> Iterator[str]:
    """Dotted names that a statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        # the module itself, unless all that is taken from it are modules
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _file(name: str, folder: Path) -> Path | None:
    """The file of a module, or of the module that holds a name; None for other packages."""
    parts = name.split(".")
    root = PACKAGE.parent if parts[0] == PACKAGE.name else folder
    return _module(root, tuple(parts)) or _module(root, tuple(parts[:-1]))


@cache
def _module(root: Path, parts: tuple[str, ...]) -> Path | None:
    """The file of a module in a folder, if there is one."""
    place = os.path.join(root, *parts)
    found = (path for path in (f"{place}.py", f"{place}/__init__.py") if os.path.isfile(path))
    first = next(found, None) if parts else None
    return None if first is None else Path(first)


def _content(path: Path) -> bytes:
    """What counts of a file: the syntax tree of a module, all of any other file."""
    return _source(path).tree.encode() if path.suffix == ".py" else path.read_bytes()


@cache
def _source(path: Path) -> _Source:
    """Look up what counts of a module by its bytes, or find it in its syntax tree and keep it."""
    content, known = path.read_bytes(), _kept()
    key = hashlib.sha256(content).hexdigest()
    if key not in known:
        known[key] = _found(content)
    return known[key]


def _found(content: bytes) -> _Source:
    tree = ast.parse(content)
    imports = [name for node in ast.walk(tree) for name in _names(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node, clean=False) is not None
            node.body = node.body[1:] or [ast.Pass()] if documented else node.body
    return _Source(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports)


def _place() -> Path:
    """Where it is kept; the trees of another version of Python have other digests."""
    return PACKAGE / "__pycache__" / f"sources-{sys.implementation.cache_tag}.json"


@cache
def _kept() -> dict[str, _Source]:
    """Digest of the bytes of a source to what counts of it; empty where nothing is kept."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        known = {key: _Source(*found) for key, found in json.loads(_place().read_bytes()).items()}
        if len(known) <= MOST_KEPT:
            return known
    return {}


def _keep() -> None:
    """Write what is known, whole or not at all; a package that is read only keeps nothing."""
    unfinished = _place().with_suffix(f".{uuid.uuid4().hex[:12]}")
    with suppress(OSError):
        unfinished.parent.mkdir(exist_ok=True)
        unfinished.write_text(json.dumps(_kept()))
        os.replace(unfinished, _place())
