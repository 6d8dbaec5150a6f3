"""Cells in memory: an AnnData, whose matrices may lie in a file or wait for dask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import anndata as ad
import pandas as pd

from flashmm.cells.container import RAW, Container, check_layer, place, with_labels
from flashmm.options import InputError


@dataclass(frozen=True, eq=False)
class InMemory(Container):
    """An AnnData: in memory, backed, of dask arrays, or lazy (`anndata.experimental.read_lazy`)."""

    what: ClassVar[str] = "an AnnData"

    @classmethod
    def takes(cls, data: Any) -> bool:
        """Whether it is an AnnData."""
        return isinstance(data, ad.AnnData)

    @classmethod
    @contextmanager
    def opened(cls, data: ad.AnnData, layer: str | None) -> Iterator[Self]:
        """Find the layer; nothing is copied."""
        name, genes, var = "the AnnData", data.var_names, data.var
        others = {key: data.layers[key] for key in data.layers if key is not None}
        if data.raw is not None:
            others.setdefault(RAW, data.raw.X)
        if layer is not None:
            layer = check_layer(layer, others, name)
        if layer == RAW and RAW not in data.layers:
            genes, var = data.raw.var_names, data.raw.var
        if data.isbacked and layer is None:
            if data.is_view:
                raise InputError("A view of a backed AnnData cannot be streamed; use .to_memory().")
            values = data.file["X"]
        else:
            values = data.X if layer is None else others[layer]
        yield cls(
            f"{name}, {place(layer)}",
            None,
            data.obs_names,
            pd.Index(genes),
            _in_its_file(values),
            (data.obs, data.uns),
            var,
            {key: _in_its_file(other) for key, other in others.items()},
        )

    def column_names(self) -> list[str]:
        """Names of the columns of obs."""
        return list(map(str, self.obs[0].columns))

    def columns(self, names: Sequence[str]) -> pd.DataFrame:
        """Columns of obs."""
        table = self._stored(names)
        labelled = {name: self._labelled(table[name]) for name in names}
        return table.assign(**{name: new for name, new in labelled.items() if new is not None})

    def coded(self, names: Sequence[str]) -> list[str]:
        """Columns whose labels are in uns."""
        table = self._stored(names)
        return [name for name in names if self._labelled(table[name]) is not None]

    def gene_columns(self) -> list[str]:
        """Names of the columns of var."""
        return list(map(str, self.var.columns))

    def gene_column(self, name: str) -> pd.Index:
        """A column of var."""
        return pd.Index(_in_memory(self.var[[name]])[name].astype(str))

    def _stored(self, names: Sequence[str]) -> pd.DataFrame:
        return _in_memory(self.obs[0][list(names)])

    def _labelled(self, column: pd.Series) -> pd.Series | None:
        return with_labels(column, self.obs[1].get(f"{column.name}_categories"))


def _in_memory(table: Any) -> pd.DataFrame:
    """Columns of a table that may be lazy."""
    if isinstance(table, pd.DataFrame):
        return table
    read: pd.DataFrame = table.to_memory()
    return read


def _in_its_file(values: Any) -> Any:
    """The group of a file that AnnData shows as a sparse matrix."""
    return getattr(values, "group", values)
