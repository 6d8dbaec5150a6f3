"""Counts as 10x Genomics writes them: `.h5` files, and folders with a `matrix.mtx`.

Both keep genes x cells by cells, and no table of cells: what is known of these comes from `obs=`.
A symbol that several genes have is followed by the identifier of the gene.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self

import h5py
import numpy as np
import pandas as pd

from flashmm.cells.container import Container
from flashmm.cells.matrices import StoredRows
from flashmm.cells.matrix_market import MarketFile
from flashmm.names import listed, text
from flashmm.options import InputError
from flashmm.storage.files import reading
from flashmm.storage.hdf5 import hdf5_file, require_bounded

# The kind of features that are genes.
GENES = "Gene Expression"
# Columns of features.tsv and genes.tsv, in the names that .h5 files have for them.
_COLUMNS = ("id", "name", "feature_type")
_MATRIX, _ENDINGS = "matrix.mtx", (".tsv.gz", ".tsv", ".txt.gz", ".txt")


@dataclass(frozen=True, eq=False)
class _TenX(Container):
    """Cells with barcodes, and features: their table is `var`; there is no `obs`."""

    duplicate_genes: ClassVar[str] = "unique"

    @classmethod
    def _of(
        cls, path: Path, barcodes: Any, features: pd.DataFrame, values: Any, kind: str | None
    ) -> Self:
        """Take the features of a kind; without a name, those that are genes."""
        kinds = list(dict.fromkeys(features.get("feature_type", ())))
        if kind is None and len(kinds) > 1:
            kind = GENES
        if kind is not None and kind not in kinds:
            raise InputError(
                f"'{path}' has no features of the kind '{kind}'; name one by layer=: "
                f"{listed(kinds)}."
            )
        kept = None if kind is None else (features["feature_type"] == kind).to_numpy()
        notes = []
        if len(kinds) > 1 and kept is not None:
            notes = [
                f"'{path}': of {len(kept)} features the {np.count_nonzero(kept)} of the kind "
                f"'{kind}' are taken; layer= takes others ({listed(kinds)})."
            ]
        names = pd.Index(features["name" if "name" in features else "id"])
        said = f"'{path}'" if kind in (None, GENES) else f"'{path}', {kind}"
        return cls(said, path, barcodes, names, values, None, features, {}, kept, tuple(notes))

    def column_names(self) -> list[str]:
        """There are none."""
        return []

    def columns(self, names: Sequence[str]) -> pd.DataFrame:
        """A table without columns: (cells, 0)."""
        return pd.DataFrame(index=range(len(self.cell_names)))

    def gene_columns(self) -> list[str]:
        """Names of the columns of the features."""
        return list(self.var.columns)

    def gene_column(self, name: str) -> pd.Index:
        """A column of the features."""
        return pd.Index(self.var[name])


@dataclass(frozen=True, eq=False)
class TenxFile(_TenX):
    """A `.h5` file of Cell Ranger: of version 3 and later, or with a group for each genome."""

    what: ClassVar[str] = "that of a 10x .h5 file"

    @classmethod
    def takes(cls, data: Any) -> bool:
        """Whether it is the path of an HDF5 file with barcodes and no table of cells."""
        if not isinstance(data, str | Path) or not h5py.is_hdf5(data):
            return False
        with reading(data), h5py.File(data, "r") as file:
            return "obs" not in file and bool(_matrices(file))

    @classmethod
    @contextmanager
    def opened(cls, data: Any, layer: str | None) -> Iterator[Self]:
        """Open the file and read the names of the features."""
        path = Path(data)
        with hdf5_file(path) as file:
            with reading(path):
                name, kind = _genome(_matrices(file), layer, path)
                group = file[name]
                require_bounded(group, path)
                values = StoredRows(
                    group["data"],
                    group["indices"],
                    group["indptr"],
                    (int(group["shape"][1]), int(group["shape"][0])),
                )
                found = cls._of(path, group["barcodes"], _features(group), values, kind)
            yield found


def _matrices(file: h5py.File) -> list[str]:
    """Names of the groups that are matrices with barcodes."""
    needed = ("barcodes", "data", "indices", "indptr", "shape")
    groups = [name for name in file if isinstance(file.get(name), h5py.Group)]
    return [name for name in groups if all(part in file[name] for part in needed)]


def _genome(names: list[str], layer: str | None, path: Path) -> tuple[str, str | None]:
    """Which group to read, and which kind of features: `layer` names either."""
    if layer in names and layer is not None:
        return layer, None
    if len(names) > 1:
        raise InputError(
            f"'{path}' has counts of {len(names)} genomes: choose one by layer=, {listed(names)}."
        )
    return names[0], layer


def _features(group: h5py.Group) -> pd.DataFrame:
    """The table of features: one row each."""
    if "features" in group:
        there = [name for name in (*_COLUMNS, "genome") if name in group["features"]]
        columns = {name: group["features"][name][:] for name in there}
    else:
        columns = {"id": group["genes"][:]}
        columns |= {"name": group["gene_names"][:]} if "gene_names" in group else {}
    return pd.DataFrame({name: [text(x) for x in column] for name, column in columns.items()})


@dataclass(frozen=True, eq=False)
class TenxFolder(_TenX):
    """A folder with `matrix.mtx`, barcodes and features (or genes), each with or without `.gz`.

    Names may have a prefix, all the same one; then the path of the matrix may be given.
    """

    what: ClassVar[str] = "that of a folder with a matrix.mtx"

    @classmethod
    def takes(cls, data: Any) -> bool:
        """Whether it is the path of a folder, or of a `.mtx` file."""
        if not isinstance(data, str | Path):
            return False
        return Path(data).is_dir() or str(data).endswith((".mtx", ".mtx.gz"))

    @classmethod
    @contextmanager
    def opened(cls, data: Any, layer: str | None) -> Iterator[Self]:
        """Read the names of cells and features, and the size of the matrix."""
        path = Path(data)
        matrix = _matrix_of(path) if path.is_dir() else path
        with reading(path):
            barcodes = _table(matrix, ("barcodes", "cells"))[0].to_numpy()
            features = _table(matrix, ("features", "genes")).iloc[:, : len(_COLUMNS)]
            features.columns = list(_COLUMNS[: features.shape[1]])
            values = MarketFile.of(matrix, len(barcodes), len(features))
            found = cls._of(path, barcodes, features, values, layer)
        yield found


def _matrix_of(folder: Path) -> Path:
    """The one matrix of a folder."""
    found = sorted(p for p in folder.iterdir() if p.name.endswith((_MATRIX, f"{_MATRIX}.gz")))
    if len(found) > 1:
        raise InputError(
            f"'{folder}' has {len(found)} matrices; give the path of one, or a list of them: "
            f"{listed(p.name for p in found)}."
        )
    if not found:
        _refuse_folder(folder)
    return found[0]


def _refuse_folder(folder: Path) -> NoReturn:
    inside = sorted(p.parent.name for p in folder.glob(f"*/*{_MATRIX}*"))
    if inside:
        raise InputError(
            f"'{folder}' has no matrix.mtx, but the folders {listed(dict.fromkeys(inside))} in it "
            "have: give one of them, or a list of them."
        )
    raise InputError(
        f"'{folder}' is no file but a folder, and has neither a matrix.mtx (10x) nor a zarr store "
        f"in it; it has {listed(sorted(p.name for p in folder.iterdir()))}."
    )


def _table(matrix: Path, names: tuple[str, ...]) -> pd.DataFrame:
    """Read the table of one of the names that stands beside a matrix, as text."""
    stem = matrix.name.removesuffix(".gz").removesuffix(".mtx")
    prefix = stem.removesuffix("matrix")
    wanted = [f"{prefix}{name}{ending}" for name in names for ending in _ENDINGS]
    found = next((p for name in wanted if (p := matrix.with_name(name)).is_file()), None)
    if found is None:
        raise InputError(f"Beside '{matrix}' there is no {prefix}{names[0]}.tsv or .tsv.gz.")
    return pd.read_csv(found, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3)
