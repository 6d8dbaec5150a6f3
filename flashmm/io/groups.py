"""Statistics of groups as files (`.h5ad`): written, read in parts, merged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from flashmm.cells.groups import GroupStatistics, merge_headers, moment_name, moment_names
from flashmm.cells.size_factors import GENES, size_factors
from flashmm.names import listed
from flashmm.options import InputError
from flashmm.storage.chunks import write_gzip
from flashmm.storage.files import PathLike, atomic_path, file_identity, reading
from flashmm.storage.workspace import zeros


def write_groups(groups: GroupStatistics, path: PathLike) -> None:
    """Write statistics of groups as an AnnData of groups x genes (`.h5ad`).

    `X` holds the sums of the raw counts (a pseudobulk; absent where the input was not counts), the
    layers hold `sum`, `sumsq` and `sum:<x>` of the transformed values and `expressing`, the numbers
    of cells with a count above zero, `obs` the `by` columns and the gene-free sums, and
    `uns["flashmm"]` how they were made. ``/`` in a name of a column or layer is stored as ``_``;
    `uns["flashmm"]` has the full names.
    """
    names = _stored_names(groups.by, groups.covariates)
    sums = groups.gene_sums()
    adata = ad.AnnData(
        obs=groups.obs[list(names)].rename(columns=names),
        var=pd.DataFrame(index=groups.genes),
        uns={"flashmm": _recipe(groups) | {"digest": _content_digest(groups)}},
    )
    with atomic_path(path) as unfinished:
        adata.write_h5ad(unfinished)
        with h5py.File(unfinished, "r+") as file:
            for name, values in sums.items():
                place = "X" if name == "counts" else f"layers/{names.get(name, name)}"
                write_gzip(file, place, values)


def _content_digest(groups: GroupStatistics) -> str:
    """SHA-256 of the table of groups and of all sums; it tells files of groups apart."""
    digest = hashlib.sha256(groups.obs.to_json(orient="split", double_precision=15).encode())
    for values in groups.gene_sums().values():
        for row in values:
            digest.update(np.ascontiguousarray(row).data)
    return digest.hexdigest()


def read_groups(path: PathLike, genes: tuple[int, int] | None = None) -> GroupStatistics:
    """Read what `write_groups` wrote.

    Parameters
    ----------
    path : path
        The file.
    genes : tuple of int, optional
        (start, stop): only the genes at these positions, stop excluded, in memory for these only;
        so that genes can be fitted by independent jobs (`join_fits`).

    Raises
    ------
    InputError
        Where there is no such file, it is damaged, it does not hold statistics of groups, or there
        are no such genes.
    """
    with reading(path), h5py.File(path, "r") as file:
        header = _header_of(file, path)
        chosen, sums = _sums_of(file, path, header, genes)
    if len(chosen) < header.n_genes:
        header = replace(header, provenance=header.provenance | {GENES: header.n_genes})
    return header.with_sums(chosen, sums)


def read_size_factors(
    path: PathLike,
    within: str | None = None,
    method: str = "tmm",
    samples: Sequence[str] | None = None,
) -> pd.Series:
    """Take the size factors of groups in a file, from their raw counts alone.

    For jobs that fit some of the genes (`read_groups` with `genes`): the factors need all of them.

    Parameters
    ----------
    path : path
        A file that `write_groups` wrote.
    within, method, samples
        As in `flashmm.size_factors`.

    Returns
    -------
    pandas.Series
        (groups,) That of `flashmm.size_factors` of all that is in the file.

    Raises
    ------
    InputError
        As `read_groups` and `flashmm.size_factors`.
    """
    with reading(path), h5py.File(path, "r") as file:
        header = _header_of(file, path)
        if header.counts is not None:
            counts = zeros(header.counts.shape, f"counts of '{path}'")
            _fill(counts, file["X"], header.n_genes, slice(None))
            header = replace(header, counts=counts)
    return size_factors(header, within, method, samples)


def merge_files(paths: Iterable[PathLike], genes: str = "same") -> GroupStatistics:
    """Merge files that `write_groups` wrote, reading one after another.

    Parameters
    ----------
    paths : iterable of path
        At least one.
    genes : {"same", "intersection"}
        As in `flashmm.cells.groups.merge`.

    Returns
    -------
    GroupStatistics
        That of `merge` of all files, to the last bit, with one of them in memory at a time.

    Raises
    ------
    InputError
        As `read_groups` and `flashmm.cells.groups.merge`.
    """
    paths = list(paths)
    headers = [_read_header(path) for path in paths]

    def sums_of(number: int) -> dict[str, np.ndarray]:
        return read_groups(paths[number]).gene_sums()

    return merge_headers(headers, sums_of, genes)


def _read_header(path: PathLike) -> GroupStatistics:
    with reading(path), h5py.File(path, "r") as file:
        return _header_of(file, path)


def groups_identity(path: PathLike) -> str:
    """Tell whether a file of groups is the one that was fitted, without reading all of a large one.

    It holds the digest of its content (`write_groups`), and is itself recognised by
    `file_identity`; any file that `write_groups` wrote of other groups differs in both.
    """
    with reading(path), h5py.File(path, "r") as file:
        content = file["uns/flashmm/digest"][()] if "uns/flashmm/digest" in file else b""
    return hashlib.sha256(file_identity(path).encode() + content).hexdigest()


def gene_names(path: PathLike) -> pd.Index:
    """Read the names of the genes of a file of groups."""
    with reading(path), h5py.File(path, "r") as file:
        return ad.io.read_elem(file["var"]).index


def _recipe(groups: GroupStatistics) -> dict[str, Any]:
    return {
        "by": np.array(groups.by, dtype=object),
        "covariates": np.array(groups.covariates, dtype=object),
        "transform": groups.transform,
        "provenance": json.dumps(groups.provenance),
        "notes": np.array(groups.notes, dtype=object),
    }


def _stored_names(by: Sequence[str], covariates: Sequence[str]) -> dict[str, str]:
    """Name in the file of each column and layer: without ``/``, which HDF5 reads as a folder."""
    stored: dict[str, str] = {}
    for name in (*by, *moment_names(covariates)):
        plain = name.replace("/", "_")
        while plain in stored.values():  # "a/b" beside "a_b"
            plain += "_"
        stored[name] = plain
    return stored


def _header_of(file: h5py.File, path: PathLike) -> GroupStatistics:
    """Read everything but the gene sums, for which one zero stands that takes no memory."""
    recipe = ad.io.read_elem(file["uns"]).get("flashmm", {}) if "uns" in file else {}
    lacking = {"by", "covariates", "transform", "provenance"} - set(recipe)
    if lacking:
        raise InputError(
            f"'{path}' does not hold statistics of groups: uns['flashmm'] lacks "
            f"{listed(sorted(lacking))}. Make such a file with summarise and write_groups."
        )
    by, covariates = texts(recipe["by"]), texts(recipe["covariates"])
    names = _stored_names(by, covariates)
    obs, var = (ad.io.read_elem(file[table]) for table in ("obs", "var"))
    _require(names.values(), obs.columns, "obs column", path)
    _require(
        ("sum", "sumsq", *(names[moment_name(x)] for x in covariates)),
        file["layers"],
        "layer",
        path,
    )
    nothing = np.broadcast_to(0.0, (len(obs), len(var)))
    return GroupStatistics(
        obs=obs[list(names.values())].set_axis(list(names), axis=1),
        genes=var.index,
        sum=nothing,
        sumsq=nothing,
        covariate_sums=dict.fromkeys(covariates, nothing),
        counts=None if _is_absent(file.get("X")) else nothing,
        by=by,
        covariates=covariates,
        transform=str(recipe["transform"]),
        provenance=json.loads(recipe["provenance"]),
        notes=texts(recipe.get("notes", ())),
        expressing=nothing if "expressing" in file["layers"] else None,
    )


def _sums_of(
    file: h5py.File, path: PathLike, header: GroupStatistics, genes: tuple[int, int] | None
) -> tuple[pd.Index, dict[str, np.ndarray]]:
    """Read the sums of the wanted genes; returns the genes and the sums by name."""
    chosen = _chosen(genes, header.n_genes, path)
    stored = _stored_names(header.by, header.covariates)
    names = list(header.gene_sums())
    shape = (len(names), header.n_groups, chosen.stop - chosen.start)
    sums = zeros(shape, f"group statistics of '{path}'")
    for name, out in zip(names, sums, strict=True):
        element = file["X"] if name == "counts" else file["layers"][stored.get(name, name)]
        _fill(out, element, header.n_genes, chosen)
    return header.genes[chosen], dict(zip(names, sums, strict=True))


def _is_absent(element: Any) -> bool:
    return element is None or element.attrs.get("encoding-type") == "null"


def _chosen(genes: tuple[int, int] | None, n_genes: int, path: PathLike) -> slice:
    """Positions of the wanted genes."""
    start, stop = (0, n_genes) if genes is None else genes
    if genes is not None and not 0 <= start < stop <= n_genes:
        raise InputError(
            f"genes={(start, stop)} of '{path}': start is included, stop is not, and "
            f"0 <= start < stop <= {n_genes}, the number of genes."
        )
    return slice(start, stop)


def _require(names: Iterable[str], there: Collection[str], what: str, path: PathLike) -> None:
    lacking = [name for name in names if name not in there]
    if lacking:
        raise InputError(f"'{path}' lacks the {what}(s) {listed(lacking)}; it has {listed(there)}.")


def _fill(out: np.ndarray, element: Any, n_genes: int, genes: slice) -> None:
    """Read the values of some genes as float64; other tools may have stored them sparse."""
    if not isinstance(element, h5py.Dataset):
        out[:] = ad.io.read_elem(element)[:, genes].toarray()
    elif element.shape != (len(out), n_genes):
        raise ValueError(f"{element.name} has the shape {element.shape}")
    elif out.size:
        element.read_direct(out, np.s_[:, genes])


def texts(values: Any) -> tuple[str, ...]:
    """Return what a file holds as an array of names."""
    return tuple(map(str, np.atleast_1d(values)))
