"""AnnData in files: `.h5ad` of any age, and zarr stores of both formats."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import zarr

from flashmm.cells.container import RAW, Container, check_layer, place, with_labels
from flashmm.names import listed, text, texts
from flashmm.options import InputError
from flashmm.storage.files import reading
from flashmm.storage.hdf5 import MOST_CHUNK, hdf5_file, require_bounded

# Where anndata keeps .raw, since 0.7 and before.
_RAW = (("raw/X", "raw/var"), ("raw.X", "raw.var"))
# Fields of the rows' names in tables of anndata before 0.7.
_OLD_INDEX = ("index", "_index")
# Groups of HDF5 files of other programs, and what to do with these.
_OTHERS = {
    "mod": "a MuData file; give one of its modalities: mudata.read(path)['rna']",
    "col_attrs": "a loom file; convert it: anndata.io.read_loom(path).write_h5ad(...)",
    "assays": "an h5Seurat file; convert it with SeuratDisk::Convert(path, dest = 'h5ad')",
}
# Endings of files that hold no HDF5, and what to do with these.
_ADVICE = {
    **dict.fromkeys(
        (".csv", ".tsv", ".txt", ".xlsx"),
        "it is a table; of samples (bulk), read it with flashmm.read_bulk, which `flashmm bulk` "
        "does",
    ),
    **dict.fromkeys(
        (".rds", ".rdata", ".rda", ".qs"),
        "it is a file of R; write an .h5ad there (zellkonverter::writeH5AD, or SeuratDisk)",
    ),
    ".h5mu": "it is no HDF5 file",
}


@dataclass(frozen=True, eq=False)
class _Store(Container):
    """Tables and matrices of an AnnData in a group of HDF5 or zarr; `obs` and `var` are its own."""

    root: Any = None

    @classmethod
    def _of(cls, root: Any, path: Path, layer: str | None, bounded: Callable[[Any], None]) -> Self:
        """Find a matrix and its tables, which are checked before they are read."""
        obs, var = root.get("obs"), root.get("var")
        if obs is None or var is None or not (_is_table(obs) and _is_table(var)):
            _refuse(root, path)
        others = {name: root[f"layers/{name}"] for name in root.get("layers", {})}
        raw = next((at for at in _RAW if all(item in root for item in at)), None)
        if raw is not None:
            others.setdefault(RAW, root[raw[0]])
        if layer is not None:
            layer = check_layer(layer, others, f"'{path}'")
            if raw is not None and layer == RAW and f"layers/{RAW}" not in root:
                var = root[raw[1]]
        values = root.get("X") if layer is None else others[layer]
        for item in (values, _names_of_rows(obs), _names_of_rows(var)):
            bounded(item)
        genes = pd.Index(texts(_row_names(var)))
        name = f"'{path}', {place(layer)}"
        cells = _names_of_rows(obs) if isinstance(obs, h5py.Group) else _row_names(obs)
        return cls(name, path, cells, genes, values, obs, var, others, root=root)

    def column_names(self) -> list[str]:
        """Names of the columns of obs."""
        return _column_names(self.obs)

    def columns(self, names: Sequence[str]) -> pd.DataFrame:
        """Read columns of obs."""
        stored = {name: self._stored(name) for name in names}
        table = {name: self._labelled(name, column) for name, column in stored.items()}
        found = {name: stored[name] if new is None else new for name, new in table.items()}
        return pd.DataFrame(found, index=range(len(self.cell_names)))

    def coded(self, names: Sequence[str]) -> list[str]:
        """Columns whose labels are in uns, of present-day tables; older ones keep them there."""
        if isinstance(self.obs, h5py.Dataset):
            return []
        doubtful = [name for name in names if _labels_of(name) in self.root]
        return [name for name in doubtful if self._labelled(name, self._stored(name)) is not None]

    def gene_columns(self) -> list[str]:
        """Names of the columns of var."""
        return _column_names(self.var)

    def gene_column(self, name: str) -> pd.Index:
        """Read a column of var."""
        return pd.Index(pd.Series(_read_column(self.var, name)).astype(str))

    def _stored(self, name: str) -> pd.Series:
        if not isinstance(self.obs, h5py.Dataset):
            self._bounded(self.obs.get(name))
        return pd.Series(_read_column(self.obs, name))

    def _bounded(self, item: Any) -> None:
        """Check what will be read of a file of a stranger."""

    def _labelled(self, name: str, column: pd.Series) -> pd.Series | None:
        key = _labels_of(name)
        if column.dtype.kind not in "iu" or key not in self.root:
            return None
        self._bounded(self.root[key])
        return with_labels(column, [text(label) for label in _plain(self.root[key])])


@dataclass(frozen=True, eq=False)
class H5adFile(_Store):
    """An `.h5ad` file; columns and values are read when they are asked for."""

    what: ClassVar[str] = "the path of an .h5ad file"

    @classmethod
    def takes(cls, data: Any) -> bool:
        """Whether it is a path."""
        return isinstance(data, str | Path) or hasattr(data, "__fspath__")

    @classmethod
    @contextmanager
    def opened(cls, data: Any, layer: str | None) -> Iterator[Self]:
        """Open the file and read the names of the genes."""
        path = Path(data)
        with _advised(path), hdf5_file(path) as file:
            with reading(path):
                found = cls._of(file, path, layer, lambda item: require_bounded(item, path))
            yield found

    def _bounded(self, item: Any) -> None:
        require_bounded(item, self.path or self.name)


@dataclass(frozen=True, eq=False)
class ZarrStore(_Store):
    """A zarr store, of format 2 or 3, as anndata writes it; chunks are read when asked for."""

    what: ClassVar[str] = "that of a zarr store"

    @classmethod
    def takes(cls, data: Any) -> bool:
        """Whether it is the path of a folder with the marks of zarr."""
        if not H5adFile.takes(data):
            return False
        marks = (".zgroup", "zarr.json", ".zattrs")
        return Path(data).is_dir() and any((Path(data) / mark).exists() for mark in marks)

    @classmethod
    @contextmanager
    def opened(cls, data: Any, layer: str | None) -> Iterator[Self]:
        """Open the store and read the names of the genes."""
        path = Path(data)
        with reading(path):
            root = zarr.open_group(str(path), mode="r")
            found = cls._of(root, path, layer, lambda item: _check_chunks(item, path))
        yield found

    def _bounded(self, item: Any) -> None:
        _check_chunks(item, self.path or Path(self.name))


def _check_chunks(item: Any, path: Path) -> None:
    """Refuse arrays of zarr whose chunks take more memory than is good for a block."""
    if isinstance(item, zarr.Group):
        for name in item:
            _check_chunks(item[name], path)
    elif isinstance(item, zarr.Array):
        size = math.prod(item.chunks) * item.dtype.itemsize
        if size > MOST_CHUNK:
            raise InputError(
                f"'{path}': '{item.name}' has chunks of {size / 1e6:.4g} MB, which are read as a "
                f"whole; {MOST_CHUNK / 1e6:.4g} MB are the most. Write it with smaller chunks."
            )


def _is_table(table: Any) -> bool:
    if isinstance(table, h5py.Dataset):
        return table.dtype.names is not None
    return not isinstance(table, zarr.Array) and "_index" in table.attrs


def _refuse(root: Any, path: Path) -> NoReturn:
    """Say what a file is that is no AnnData."""
    kind = next((words for group, words in _OTHERS.items() if group in root), None)
    if kind is not None:
        raise InputError(f"'{path}' is no .h5ad file but {kind}.")
    raise InputError(
        f"'{path}' is no .h5ad file: it has no tables 'obs' and 'var', but {listed(root)}."
    )


@contextmanager
def _advised(path: Path) -> Iterator[None]:
    """Say what to do with a file of another kind, where its ending tells it."""
    endings = [ending.lower() for ending in path.suffixes if ending != ".gz"]
    try:
        yield
    except InputError as error:
        advice = _ADVICE.get(endings[-1] if endings else "")
        if advice is None or not path.is_file() or h5py.is_hdf5(path):
            raise
        raise InputError(f"'{path}' holds no cells that can be read: {advice}.") from error


def _labels_of(name: str) -> str:
    """Where the labels of a column of numbers may stand."""
    return f"uns/{name}_categories"


def _names_of_rows(table: Any) -> Any:
    """Where the names of the rows are; newer files keep them with a mask of missing ones."""
    if isinstance(table, h5py.Dataset):
        return table
    names = table[table.attrs["_index"]]
    return names["values"] if isinstance(names, h5py.Group | zarr.Group) else names


def _row_names(table: Any) -> np.ndarray:
    """Read the names of the rows of a table."""
    if isinstance(table, h5py.Dataset):
        return np.asarray(table.fields(_old_index(table))[:])
    return np.asarray(_names_of_rows(table)[:])


def _old_index(table: h5py.Dataset) -> str:
    fields = table.dtype.names
    return next((name for name in _OLD_INDEX if name in fields), fields[0])


def _column_names(table: Any) -> list[str]:
    if isinstance(table, h5py.Dataset):
        return [name for name in table.dtype.names if name != _old_index(table)]
    if "column-order" in table.attrs:
        return [text(name) for name in table.attrs["column-order"]]
    skipped = {text(table.attrs["_index"]), "__categories"}
    return [name for name in table if name not in skipped]


def _read_column(table: Any, name: str) -> Any:
    """A column of a table of present-day files, of anndata 0.7 (`__categories`), or before."""
    if isinstance(table, h5py.Dataset):
        return _decoded(table.fields(name)[:])
    labels = f"__categories/{name}"
    if labels in table:
        return _from_codes(_plain(table[name]), _plain(table[labels]))
    column = table[name]
    encoding = text(column.attrs.get("encoding-type", "array"))
    if encoding == "categorical":  # without asking anndata for the codes, which takes longer
        labels, ordered = ad.io.read_elem(column["categories"]), bool(column.attrs["ordered"])
        return pd.Categorical.from_codes(column["codes"][:], labels, ordered)
    return _plain(column) if encoding == "array" else ad.io.read_elem(column)


def _plain(dataset: Any) -> np.ndarray:
    """An array of a file, text as text."""
    if isinstance(dataset, h5py.Dataset) and h5py.check_string_dtype(dataset.dtype):
        return np.asarray(dataset.asstr()[:])
    return _decoded(np.asarray(dataset[:]))


def _decoded(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "SO":
        return values
    return np.array(
        [text(value) if isinstance(value, bytes) else value for value in values], object
    )


def _from_codes(codes: np.ndarray, labels: np.ndarray) -> Any:
    return pd.Categorical.from_codes(codes, pd.Index([text(label) for label in labels]))
