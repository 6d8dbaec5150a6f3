"""One small study in every container that cells come in, for tests."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy import io, sparse

N_CELLS, N_GENES = 40, 9
SYMBOLS = [f"g{j}" for j in range(N_GENES)]
IDS = [f"ENSG{j:05d}" for j in range(N_GENES)]


def study(seed: int = 0) -> ad.AnnData:
    """Counts of forty cells of four subjects, a gene without any."""
    random = np.random.default_rng(seed)
    counts = random.poisson(random.gamma(1.0, 2.0, N_GENES), (N_CELLS, N_GENES))
    counts[[0, 17, -1]] = 0
    counts[:, 3] = 0
    counts[:, 5] += 1
    b = "ACGT"
    obs = pd.DataFrame(
        {
            "subject": pd.Categorical([f"P{i % 4}" for i in range(N_CELLS)]),
            "condition": pd.Categorical(["ctrl" if i % 4 < 2 else "stim" for i in range(N_CELLS)]),
            "age": [30.0 + i % 4 for i in range(N_CELLS)],
        },
        index=[f"ACGTACGT{b[i // 16]}{b[i // 4 % 4]}{b[i % 4]}-1" for i in range(N_CELLS)],
    )
    var = pd.DataFrame({"gene_ids": IDS}, index=SYMBOLS)
    return ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)


def write_old_h5ad(adata: ad.AnnData, path: Path) -> None:
    """As anndata before 0.7: compound tables, labels in uns, h5sparse attributes."""
    with h5py.File(path, "w") as file:
        matrix = file.create_group("X")
        matrix.attrs.update({"h5sparse_format": "csr", "h5sparse_shape": adata.shape})
        for name in ("data", "indices", "indptr"):
            matrix[name] = getattr(adata.X, name)
        rows = [(n.encode(), *row) for n, row in zip(adata.obs_names, codes(adata), strict=True)]
        kind = [("index", "S20"), ("subject", "i1"), ("condition", "i1"), ("age", "f8")]
        file["obs"] = np.array(rows, dtype=kind)
        genes = list(zip(adata.var_names, adata.var["gene_ids"], strict=True))
        file["var"] = np.array(genes, dtype=[("index", "S20"), ("gene_ids", "S20")])
        for column in ("subject", "condition"):
            labels = adata.obs[column].cat.categories.to_numpy().astype("S")
            file[f"uns/{column}_categories"] = labels


def codes(adata: ad.AnnData) -> list[tuple[Any, ...]]:
    columns = [adata.obs[c].cat.codes for c in ("subject", "condition")]
    return list(zip(*columns, adata.obs["age"], strict=True))


def write_10x(adata: ad.AnnData, path: Path, symbols: list[str] | None = None) -> None:
    """As Cell Ranger 3 and later."""
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        write_matrix(matrix, adata)
        names = list(adata.var_names) if symbols is None else symbols
        matrix["features/id"] = np.array(adata.var["gene_ids"], "S")
        matrix["features/name"] = np.array(names, "S")
        matrix["features/feature_type"] = np.array(["Gene Expression"] * adata.n_vars, "S")


def write_matrix(group: h5py.Group, adata: ad.AnnData) -> None:
    group["barcodes"] = np.array(adata.obs_names, "S")
    group["data"] = adata.X.data.astype(np.int32)
    group["indices"] = adata.X.indices.astype(np.int64)
    group["indptr"] = adata.X.indptr.astype(np.int64)
    group["shape"] = np.array(adata.shape[::-1], np.int32)


def write_old_10x(adata: ad.AnnData, path: Path, genomes: tuple[str, ...] = ("hg19",)) -> None:
    """As Cell Ranger 2: a group for each genome."""
    with h5py.File(path, "w") as file:
        for genome in genomes:
            group = file.create_group(genome)
            write_matrix(group, adata)
            group["genes"] = np.array(adata.var["gene_ids"], "S")
            group["gene_names"] = np.array(adata.var_names, "S")


def write_mtx(
    adata: ad.AnnData,
    folder: Path,
    *,
    packed: bool = True,
    old: bool = False,
    transposed: bool = True,
    prefix: str = "",
) -> None:
    """A folder with matrix.mtx, barcodes and features or genes."""
    folder.mkdir(exist_ok=True)
    ending = ".gz" if packed else ""
    matrix = sparse.csc_matrix(adata.X.T if transposed else adata.X)
    io.mmwrite(folder / f"{prefix}matrix.mtx", matrix.astype(int))
    if packed:
        plain = folder / f"{prefix}matrix.mtx"
        plain.with_name(plain.name + ".gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    features = pd.DataFrame({"id": adata.var["gene_ids"], "name": adata.var_names})
    features["type"] = "Gene Expression"
    name = "genes" if old else "features"
    columns = ["id", "name"] if old else ["id", "name", "type"]
    write_table(features[columns], folder / f"{prefix}{name}.tsv{ending}")
    write_table(pd.DataFrame(adata.obs_names), folder / f"{prefix}barcodes.tsv{ending}")


def write_table(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, sep="\t", header=False, index=False)


def write_zarr(adata: ad.AnnData, path: Path, version: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ad.settings.override(zarr_write_format=version):
            adata.write_zarr(path)


def in_zarr(version: int, layout: Callable[[Any], Any]) -> Callable[[ad.AnnData, Path], Path]:
    def write(adata: ad.AnnData, folder: Path) -> Path:
        made = adata.copy()
        made.X = layout(made.X)
        write_zarr(made, folder / "cells.zarr", version)
        return folder / "cells.zarr"

    return write


def in_h5ad(layout: Callable[[Any], Any]) -> Callable[[ad.AnnData, Path], Path]:
    def write(adata: ad.AnnData, folder: Path) -> Path:
        made = adata.copy()
        made.X = layout(made.X)
        made.write_h5ad(folder / "cells.h5ad")
        return folder / "cells.h5ad"

    return write


def as_file(write: Callable[..., None], name: str, **how: Any) -> Callable[..., Path]:
    def put(adata: ad.AnnData, folder: Path) -> Path:
        write(adata, folder / name, **how)
        return folder / name

    return put


def backed(adata: ad.AnnData, folder: Path) -> ad.AnnData:
    return ad.read_h5ad(in_h5ad(sparse.csr_matrix)(adata, folder), backed="r")


def with_raw(adata: ad.AnnData, folder: Path) -> ad.AnnData:
    made = adata.copy()
    made.raw = adata
    return made


def of_sparse_dataset(adata: ad.AnnData, folder: Path) -> ad.AnnData:
    import zarr

    group = zarr.open_group(in_zarr(2, sparse.csr_matrix)(adata, folder), mode="r")
    return ad.AnnData(ad.io.sparse_dataset(group["X"]), obs=adata.obs, var=adata.var)


def dense(matrix: Any) -> np.ndarray:
    return np.asarray(matrix.toarray())


# what has a table of cells of its own
WITH_OBS: dict[str, Callable[..., Any]] = {
    "h5ad csr": in_h5ad(sparse.csr_matrix),
    "h5ad csc": in_h5ad(sparse.csc_matrix),
    "h5ad dense": in_h5ad(dense),
    "zarr 2 csr": in_zarr(2, sparse.csr_matrix),
    "zarr 2 dense": in_zarr(2, dense),
    "zarr 3 csr": in_zarr(3, sparse.csr_matrix),
    "zarr 3 csc": in_zarr(3, sparse.csc_matrix),
    "zarr 3 dense": in_zarr(3, dense),
    "old h5ad": as_file(write_old_h5ad, "cells.h5ad"),
    "backed": backed,
    "sparse dataset": of_sparse_dataset,
    "raw": with_raw,
}
# what needs a sheet of cells
WITHOUT_OBS: dict[str, Callable[..., Any]] = {
    "10x h5": as_file(write_10x, "cells.h5"),
    "10x h5 of a genome": as_file(write_old_10x, "cells.h5"),
    "mtx.gz": as_file(write_mtx, "folder"),
    "mtx": as_file(write_mtx, "folder", packed=False),
    "mtx with genes.tsv": as_file(write_mtx, "folder", packed=False, old=True),
    "mtx cells x genes": as_file(write_mtx, "folder", transposed=False),
    "mtx with a prefix": as_file(write_mtx, "folder", prefix="GSM1_"),
}
