"""Say which code made a result.

A result depends on the modules that its script names, and on those that they name in turn. Their
digest is of the syntax tree: a comment or a docstring changes nothing.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


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
    files = _closure(Path(script)) if script is not None else set(PACKAGE.rglob("*.py"))
    files |= {path for file in files for path in file.parent.glob("templates/*.j2")}
    digest = hashlib.sha256()
    for path in sorted(files, key=_name):
        digest.update(_name(path).encode() + b"\0" + _content(path))
    return digest.hexdigest()[:12]


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
    names = [name for node in ast.walk(_tree(path)) for name in _names(node)]
    return tuple(file for name in names for file in _files(name, path.parent))


def _names(node: ast.AST) -> Iterator[str]:
    """Dotted names that a statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        # the module itself, unless all that is taken from it are modules
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files(name: str, folder: Path) -> Iterator[Path]:
    """The file of a module, or of the module that holds a name."""
    parts = name.split(".")
    root = PACKAGE.parent if parts[0] == PACKAGE.name else folder
    for length in (len(parts), len(parts) - 1):
        place = root.joinpath(*parts[:length]) if length else root
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if length and path.is_file():
                yield path
                return


@cache
def _content(path: Path) -> bytes:
    """What counts of a file: the syntax tree of a module without its docstrings."""
    if path.suffix != ".py":
        return path.read_bytes()
    tree = _tree(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node, clean=False) is not None
            node.body = node.body[1:] or [ast.Pass()] if documented else node.body
    return ast.dump(tree).encode()


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))
