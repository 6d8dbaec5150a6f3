"""Where cells are kept: each kind of container is a class, and `CONTAINERS` lists them.

A container gives the names of cells and genes, columns of the table of cells, and the values of one
matrix of cells x genes in a layout that `flashmm.cells.matrices` streams. A further format is one
class more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

# What `layer` calls the matrix of `.raw`, where no layer has this name.
RAW = "raw"


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
    others : mapping of str to array_like
        The other matrices of the same cells by the name that `layer` takes, nothing of them read:
        layers, and "raw" where the genes of `.raw` are kept.
    """

    what: ClassVar[str]

    name: str
    path: Path | None
    cell_names: Any
    genes: pd.Index
    values: Any
    obs: Any
    others: Mapping[str, Any]

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
        name, genes = "the AnnData", data.var_names
        others = {key: data.layers[key] for key in data.layers if key is not None}
        if data.raw is not None:
            others.setdefault(RAW, data.raw.X)
        if layer is not None:
            _check_layer(layer, others, name)
        if layer == RAW and RAW not in data.layers:
            genes = data.raw.var_names
        if data.isbacked and layer is None:
            if data.is_view:
                raise InputError("A view of a backed AnnData cannot be streamed; use .to_memory().")
            values = data.file["X"]
        else:
            values = data.X if layer is None else others[layer]
        yield cls(f"{name}, {_place(layer)}", None, data.obs_names, genes, values, data.obs, others)

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
        others = {name: values for name, values in file.get("layers", {}).items()}
        if "raw/X" in file and "raw/var" in file:
            others.setdefault(RAW, file["raw/X"])
        if layer is not None:
            _check_layer(layer, others, f"'{path}'")
            if others[layer].name == "/raw/X":
                tables[1] = file["raw/var"]
        values = file.get("X") if layer is None else others[layer]
        cell_names, stored = map(_stored_names, tables)
        for item in (values, cell_names, stored):
            require_bounded(item, path)
        genes = pd.Index([text(gene) for gene in stored[:]])
        name = f"'{path}', {_place(layer)}"
        return cls(name, path, cell_names, genes, values, tables[0], others)

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


def _check_layer(layer: str, layers: Iterable[str], name: str) -> None:
    if layer not in layers:
        raise InputError(f"{name} has no layer '{layer}'; it has {listed(layers)}.")


def _place(layer: str | None) -> str:
    return "X" if layer is None else f"layer '{layer}'"
