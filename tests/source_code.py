"""What the package's modules import and call, read from their text, for the tests that guard it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter

# Modules for which the only use is a file.
FILE_MODULES = {
    *("bz2", "dbm", "deflate", "fileinput", "glob", "gzip", "h5py", "isal", "joblib", "lzma"),
    *("mmap", "pickle", "pyarrow", "shelve", "shutil", "sqlite3", "tables", "tarfile", "tempfile"),
    *("zarr", "zipfile", "scipy.io", "flashmm.io", "flashmm.storage.chunks"),
}
# Functions that open, read, write or move files, of modules with other uses too.
FILE_FUNCTIONS = {
    *("io.open", "io.FileIO", "io.open_code", "builtins.open", "codecs.open"),
    *(f"json.{name}" for name in ("load", "dump")),
    *(f"yaml.{name}" for name in ("load", "safe_load", "dump", "safe_dump")),
    *(f"marshal.{name}" for name in ("load", "dump")),
    *(
        f"os.{name}"
        for name in (
            *("link", "listdir", "makedirs", "mkdir", "mkfifo", "open", "remove", "removedirs"),
            *("rename", "renames", "replace", "rmdir", "scandir", "symlink", "truncate"),
            *("unlink", "walk", "write"),
        )
    ),
    *(
        f"numpy.{name}"
        for name in (
            *("fromfile", "genfromtxt", "load", "loadtxt", "memmap", "save", "savetxt"),
            *("savez", "savez_compressed"),
        )
    ),
    *(f"scipy.sparse.{name}" for name in ("load_npz", "save_npz")),
    *(
        f"flashmm.storage.files.{name}"
        for name in (
            *("atomic_path", "file_digest", "file_identity", "file_state", "range_digest"),
            *("reading", "unchanged"),
        )
    ),
}
# Readers of a module, by the beginning of their names.
FILE_PREFIXES = ("pandas.read_", "anndata.read", "anndata.io.read", "anndata.io.write")
# Methods that do so, whatever they are called on.
FILE_METHODS = {
    *("hardlink_to", "iterdir", "mkdir", "open", "read_bytes", "read_text", "rglob", "rmdir"),
    *("print_png", "print_svg", "savefig", "symlink_to", "to_csv", "to_excel", "to_feather"),
    *("to_hdf", "to_orc", "to_parquet", "to_pickle", "to_sql", "to_stata", "tofile", "touch"),
    *("unlink", "write_bytes", "write_csvs", "write_h5ad", "write_loom", "write_text"),
    *("write_zarr",),
}


@cache
def nodes(text: str) -> tuple[ast.AST, ...]:
    """All nodes of a module's syntax tree; a text is parsed once, whatever is asked of it."""
    return tuple(ast.walk(ast.parse(text)))


@cache
def imports(text: str, module: str, is_package: bool = False) -> tuple[tuple[str, str], ...]:
    """Dotted names that a module imports, at its top or anywhere else in it, with their aliases.

    Parameters
    ----------
    text : str
        The module's source.
    module : str
        Its dotted name, from which relative imports start.
    is_package : bool
        Whether it is the `__init__` of a folder.

    Returns
    -------
    tuple of (str, str)
        (dotted name, the name that it has in the module).
    """
    return tuple(_imports(text, module, is_package))


def _imports(text: str, module: str, is_package: bool) -> Iterator[tuple[str, str]]:
    for node in nodes(text):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield alias.name, alias.asname or alias.name.partition(".")[0]
            case ast.ImportFrom(names=names, level=level):
                base = ".".join(filter(None, (_parent(module, level, is_package), node.module)))
                for alias in names:
                    yield f"{base}.{alias.name}", alias.asname or alias.name
            case ast.Call(args=[ast.Constant(value=str(name)), *_], func=function):
                if _last(function) in ("import_module", "__import__"):
                    yield name, ""


def _parent(module: str, level: int, is_package: bool) -> str:
    """The folder that the dots of a relative import mean; "" for an absolute one."""
    if not level:
        return ""
    parts = module.split(".")
    return ".".join(parts[: len(parts) - level + is_package])


def _last(node: ast.expr) -> str:
    return getattr(node, "attr", getattr(node, "id", ""))


def imported_modules(
    text: str, module: str, is_module: Callable[[str], bool], is_package: bool = False
) -> set[str]:
    """Modules of the package that a module imports; a name is taken from the module that has it."""
    top = module.partition(".")[0]
    found = {name for name, _ in imports(text, module, is_package) if _within(name, {top})}
    return {name if is_module(name) else name.rpartition(".")[0] for name in found}


def cycle(graph: Mapping[str, set[str]]) -> tuple[str, ...]:
    """A cycle of a graph, empty if there is none; a node may point at itself."""
    try:
        TopologicalSorter({a: bs - {a} for a, bs in graph.items()}).prepare()
    except CycleError as error:
        return tuple(error.args[1])
    return ()


@cache
def file_access(text: str, module: str = "module", is_package: bool = False) -> set[str]:
    """What a module has that opens, reads, writes or moves files: imports, functions, methods.

    Names are followed through their imports (``from os import replace as move``), and a function
    counts where it is named, not only where it is called.
    """
    known = imports(text, module, is_package)
    aliases = {alias: name for name, alias in known}
    # `import a.b` gives the name a, `import a.b as c` the name c
    aliases |= {alias: alias for name, alias in known if name.partition(".")[0] == alias}
    found = {name for name, _ in known if _is_file_name(name)}
    for node in nodes(text):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            # a name that is not imported is a builtin function or a value
            name = aliases.get(node.id, f"builtins.{node.id}")
            found |= {name} if _is_file_name(name) else set()
        elif isinstance(node, ast.Attribute):
            found |= _attribute(_dotted(node, aliases), node.attr)
        elif isinstance(node, ast.Call) and _last(node.func) == "getattr" and len(node.args) > 1:
            found |= _attribute(None, getattr(node.args[1], "value", ""))
    return found


def _attribute(dotted: str | None, name: str) -> set[str]:
    """What an attribute is: a function of a module (by its full name), or a method."""
    if dotted is not None:
        return {dotted} if _is_file_name(dotted) else set()
    return {f".{name}"} & {f".{method}" for method in FILE_METHODS}


def _dotted(node: ast.expr, aliases: Mapping[str, str]) -> str | None:
    """Full name of an attribute of an imported module; None for that of a value."""
    if isinstance(node, ast.Name):
        return aliases.get(node.id)
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value, aliases)
        return None if base is None else f"{base}.{node.attr}"
    return None


@cache
def _is_file_name(name: str) -> bool:
    own = name in FILE_FUNCTIONS or name.startswith(FILE_PREFIXES)
    return own or _within(name, FILE_MODULES)


def _within(name: str, modules: set[str]) -> bool:
    """Whether a dotted name is one of the modules or inside one of them."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)
