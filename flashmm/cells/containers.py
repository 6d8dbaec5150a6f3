"""Where cells are kept: each kind of container is a class, and `CONTAINERS` lists them.

A container gives the names of cells and genes, columns of the table of cells, and the values of one
matrix of cells x genes in a layout that `flashmm.cells.matrices` streams. A further format is one
class more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import anndata as ad
import h5py
import pandas as pd

from flashmm.names import listed, text
from flashmm.options import InputError
from flashmm.storage.files import reading
from flashmm.storage.hdf5 import hdf5_file, require_bounded


@dataclass(frozen=True, eq=False)
class Container(ABC):
    """Cells x genes, with their names and the table of cells.

    Attributes
    ----------
    what : str
        The kind of container, for messages.
    name : str
        What messages call this one and its matrix.
    path : pathlib.Path or None
        The file; None in memory.
    cell_names, genes : sequence of str
        (cells,) and (genes,) names.
    values : array_like
        The matrix, as `flashmm.cells.matrices.wrap_matrix` takes it; nothing of it has been read.
    obs : pandas.DataFrame or h5py.Group
        The table of cells.
    """

    what: ClassVar[str]

    name: str
    path: Path | None
    cell_names: Any
    genes: pd.Index
    values: Any
    obs: Any

    @classmethod
    @abstractmethod
    def takes(cls, data: Any) -> bool:
        """Whether `data` is of this kind."""

    @classmethod
    @abstractmethod
    def opened(cls, data: Any, layer: str | None) -> AbstractContextManager[Self]:
        """Open `data` for reading a layer; None is the main matrix."""

    @abstractmethod
    def column_names(self) -> list[str]:
        """Names of the columns of the table of cells."""

    @abstractmethod
    def columns(self, names: Sequence[str]) -> pd.DataFrame:
        """Read some columns of the table of all cells: (cells, names)."""

    def reading(self) -> AbstractContextManager[Any]:
        """Context in which faults of reading a file are said in words, with its path."""
        return nullcontext() if self.path is None else reading(self.path)


@dataclass(frozen=True, eq=False)
class InMemory(Container):
    """An AnnData, in memory or backed."""

    what: ClassVar[str] = "an AnnData"

    @classmethod
    def takes(cls, data: Any) -> bool:
        """Whether it is an AnnData."""
        return isinstance(data, ad.AnnData)

    @classmethod
    @contextmanager
    def opened(cls, data: ad.AnnData, layer: str | None) -> Iterator[Self]:
        """Find the layer; nothing is copied."""
        name = "the AnnData"
        if layer is not None:
            _check_layer(layer, data.layers, name)
        if data.isbacked and layer is None:
            if data.is_view:
                raise InputError("A view of a backed AnnData cannot be streamed; use .to_memory().")
            values = data.file["X"]
        else:
            values = data.X if layer is None else data.layers[layer]
        tables = (data.obs_names, data.var_names, values, data.obs)
        yield cls(f"{name}, {_place(layer)}", None, *tables)

    def column_names(self) -> list[str]:
        """Names of the columns of obs."""
        return list(map(str, self.obs.columns))

    def columns(self, names: Sequence[str]) -> pd.DataFrame:
        """Columns of obs."""
        return self.obs[list(names)]


@dataclass(frozen=True, eq=False)
class H5adFile(Container):
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
        with hdf5_file(path) as file:
            with reading(path):
                found = cls._of(file, path, layer)
            yield found

    @classmethod
    def _of(cls, file: h5py.File, path: Path, layer: str | None) -> Self:
        tables = [file.get("obs"), file.get("var")]
        if not all(isinstance(t, h5py.Group) and "_index" in t.attrs for t in tables):
            raise InputError(
                f"'{path}' is no .h5ad file of a present-day format: it has no tables 'obs' and "
                "'var'."
            )
        if layer is not None:
            _check_layer(layer, file.get("layers", ()), f"'{path}'")
        values = file.get("X") if layer is None else file["layers"][layer]
        cell_names, stored = map(_stored_names, tables)
        for item in (values, cell_names, stored):
            require_bounded(item, path)
        genes = pd.Index([text(gene) for gene in stored[:]])
        return cls(f"'{path}', {_place(layer)}", path, cell_names, genes, values, tables[0])

    def column_names(self) -> list[str]:
        """Names of the columns of obs."""
        return [text(name) for name in self.obs.attrs["column-order"]]

    def columns(self, names: Sequence[str]) -> pd.DataFrame:
        """Read columns of obs."""
        for name in names:
            require_bounded(self.obs.get(name), self.path or self.name)
        return pd.DataFrame(_read_columns(self.obs, names), index=range(len(self.cell_names)))


CONTAINERS: tuple[type[Container], ...] = (InMemory, H5adFile)


def _stored_names(table: h5py.Group) -> h5py.Dataset:
    """Find the names of the rows of a table; newer files keep them with a mask of missing ones."""
    names = table[table.attrs["_index"]]
    return names["values"] if isinstance(names, h5py.Group) else names


def _read_columns(table: h5py.Group, names: Sequence[str]) -> dict[str, Any]:
    if text(table.attrs.get("encoding-version", "")) == "0.1.0":
        # columns of this older form do not hold their categories themselves
        whole = ad.io.read_elem(table)
        return {name: whole[name].array for name in names}
    return {name: ad.io.read_elem(table[name]) for name in names}


def _check_layer(layer: str, layers: Iterable[Any], name: str) -> None:
    if layer not in layers:
        named = [other for other in layers if other is not None]  # None is X, in anndata >= 0.13
        raise InputError(f"{name} has no layer '{layer}'; it has {listed(named)}.")


def _place(layer: str | None) -> str:
    return "X" if layer is None else f"layer '{layer}'"
