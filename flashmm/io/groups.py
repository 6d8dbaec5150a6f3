"""Statistics of groups as files (`.h5ad`): written, read in parts, merged."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from flashmm.cells.group_checks import check_groups, check_header
from flashmm.cells.groups import GroupStatistics, merge_headers, moment_name, moment_names
from flashmm.cells.size_factors import GENES, size_factors
from flashmm.cells.withheld import without_small_groups
from flashmm.names import listed
from flashmm.options import InputError, checked
from flashmm.storage.chunks import write_gzip
from flashmm.storage.digests import ContentDigest, column_checksums
from flashmm.storage.files import PathLike, atomic_path, reading, unchanged
from flashmm.storage.hdf5 import hdf5_file, require_bounded
from flashmm.storage.workspace import zeros

# What uns["flashmm"] holds beside the recipe.
_DIGEST, _CHECKSUMS, _ORIGIN = "digest", "checksums", "origin"
_COVARIATE_ORIGIN = "covariate_origin"


@checked
def write_groups(
    groups: GroupStatistics, path: PathLike, *, minimum_cells: int | None = None
) -> None:
    """Write statistics of groups as an AnnData of groups x genes (`.h5ad`).

    Parameters
    ----------
    groups : GroupStatistics
        What to write.
    path : path
        The file.
    minimum_cells : int, optional
        Leave out groups of fewer cells, for files that leave a site; a note in the file says how
        many groups and cells were withheld, and nothing else of them is in it.

    Raises
    ------
    InputError
        The statistics are none of cells: negative numbers of cells, sums that are not finite,
        groups or genes that come twice. No group has `minimum_cells`, or it is no number of cells.

    Notes
    -----
    `X` holds the sums of the raw counts (a pseudobulk; absent where the input was not counts), the
    layers hold `sum`, `sumsq` and `sum:<x>` of the transformed values and `expressing`, the numbers
    of cells with a count above zero, `obs` the `by` columns and the gene-free sums, and
    `uns["flashmm"]` how they were made, with the `origin` of genes whose sums are of y - origin and
    the `covariate_origin` of covariates that are summed as x - origin.
    ``/`` in a name of a column or layer is stored as ``_``; `uns["flashmm"]` has the full names, a
    checksum of every gene's sums (`checksums`), and a `digest` of all that is used; whoever reads
    the file compares them with what it holds.
    """
    if minimum_cells is not None:
        groups = without_small_groups(groups, minimum_cells)
    check_groups(groups, "The statistics")
    names = _stored_names(groups.by, groups.covariates)
    sums = groups.gene_sums()
    adata = ad.AnnData(
        obs=groups.obs[list(names)].rename(columns=names),
        var=pd.DataFrame(index=groups.genes),
        uns={"flashmm": _recipe(groups)},
    )
    with atomic_path(path) as unfinished:
        adata.write_h5ad(unfinished)
        with h5py.File(unfinished, "r+") as file:
            for name, values in sums.items():
                place = "X" if name == "counts" else f"layers/{names.get(name, name)}"
                write_gzip(file, place, values)
            _write_digest(file, np.array([column_checksums(values) for values in sums.values()]))


def _write_digest(file: h5py.File, checksums: np.ndarray) -> None:
    """Add the digests, of what will be read: the format gives some columns other types."""
    header, recipe = _header_of(file, file.filename)
    place = file["uns/flashmm"]  # the keys of newer versions of anndata hold no slash
    ad.io.write_elem(place, _CHECKSUMS, checksums)
    ad.io.write_elem(place, _DIGEST, _digest(recipe, header, checksums))


def _digest(recipe: Mapping[str, Any], header: GroupStatistics, checksums: np.ndarray) -> str:
    """Digest of all that fits use: the recipe, the groups, the genes, and their checksums."""
    digest = ContentDigest()
    for name in ("by", "covariates", "transform", "provenance", "notes"):
        digest.texts(name, texts(recipe.get(name, ())))
    digest.table("groups", header.obs)
    digest.column("genes", header.genes)
    digest.texts("sums", header.gene_sums())
    digest.array("checksums", checksums)
    if header.origin is not None:
        digest.array("origin", header.origin)
    if header.covariate_origin is not None:
        digest.array("covariate origin", header.covariate_origin)
    return digest.hexdigest()


@checked
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
        Where there is no such file, it does not hold statistics of groups, its content is not what
        was written (its digest differs or is missing), or there are no such genes.
    """
    with hdf5_file(path) as file, reading(path):
        header, checksums = _verified(file, path)
        chosen, sums = _sums_of(file, path, header, genes)
        _verify_sums(sums, checksums, chosen, path)
        read = header.with_sums(header.genes[chosen], sums)
        check_groups(read, f"'{path}'")
    if read.n_genes < header.n_genes:
        read = replace(read, provenance=read.provenance | {GENES: header.n_genes})
    return read


@checked
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
    with hdf5_file(path) as file, reading(path):
        header, checksums = _verified(file, path)
        if header.counts is not None:
            counts = zeros(header.counts.shape, f"counts of '{path}'")
            _fill(counts, file["X"], header.n_genes, slice(None))
            _verify_sums({"counts": counts}, checksums, slice(None), path)
            header = replace(header, counts=counts)
    return size_factors(header, within, method, samples)


@checked
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

    def sums_of(number: int) -> dict[str, np.ndarray]:
        return read_groups(paths[number]).gene_sums()

    with unchanged(*paths):
        headers = [_read_header(path) for path in paths]
        return merge_headers(headers, sums_of, genes)


def _read_header(path: PathLike) -> GroupStatistics:
    with hdf5_file(path) as file, reading(path):
        return _verified(file, path)[0]


def groups_identity(path: PathLike) -> str:
    """Return the digest of what a file of groups holds (`write_groups`); its sums are not read.

    Files of other groups have other digests, and whoever reads sums compares them with it.
    """
    return identity_and_genes(path)[0]


def identity_and_genes(path: PathLike) -> tuple[str, pd.Index]:
    """Return the digest of what a file of groups holds (`groups_identity`), and its genes."""
    with hdf5_file(path) as file, reading(path):
        header, _ = _verified(file, path)
        return str(ad.io.read_elem(file[f"uns/flashmm/{_DIGEST}"])), header.genes


def gene_names(path: PathLike) -> pd.Index:
    """Read the names of the genes of a file of groups."""
    return _read_header(path).genes


def _recipe(groups: GroupStatistics) -> dict[str, Any]:
    origins = {_ORIGIN: groups.origin, _COVARIATE_ORIGIN: groups.covariate_origin}
    return {
        "by": np.array(groups.by, dtype=object),
        "covariates": np.array(groups.covariates, dtype=object),
        "transform": groups.transform,
        "provenance": json.dumps(groups.provenance),
        "notes": np.array(groups.notes, dtype=object),
    } | {name: origin for name, origin in origins.items() if origin is not None}


def _stored_names(by: Sequence[str], covariates: Sequence[str]) -> dict[str, str]:
    """Name in the file of each column and layer: without ``/``, which HDF5 reads as a folder."""
    stored: dict[str, str] = {}
    for name in (*by, *moment_names(covariates)):
        plain = name.replace("/", "_")
        while plain in stored.values():  # "a/b" beside "a_b"
            plain += "_"
        stored[name] = plain
    return stored


def _verified(file: h5py.File, path: PathLike) -> tuple[GroupStatistics, dict[str, np.ndarray]]:
    """Read all but the gene sums, and the checksums of these by name, if it is what was written."""
    require_bounded(file, path)
    header, recipe = _header_of(file, path)
    if not {_DIGEST, _CHECKSUMS} <= set(recipe):
        raise InputError(
            f"'{path}' has no digest of its content: an earlier version of flashmm wrote it, or it "
            "was taken out. Make the file anew with summarise and write_groups."
        )
    names, checksums = list(header.gene_sums()), np.asarray(recipe[_CHECKSUMS])
    if checksums.shape != (len(names), header.n_genes) or checksums.dtype != np.uint64:
        _refuse_content(path, "its list of sums")
    if _digest(recipe, header, checksums) != str(recipe[_DIGEST]):
        _refuse_content(path, "its table of groups, list of genes or description")
    check_header(header, f"'{path}'")
    return header, dict(zip(names, checksums, strict=True))


def _verify_sums(
    sums: Mapping[str, np.ndarray],
    checksums: Mapping[str, np.ndarray],
    chosen: slice,
    path: PathLike,
) -> None:
    """Raise an InputError unless the sums of the chosen genes have their checksums."""
    for name, values in sums.items():
        wrong = np.count_nonzero(column_checksums(values) != checksums[name][chosen])
        if wrong:
            _refuse_content(path, f"'{name}' of {wrong} genes")


def _refuse_content(path: PathLike, what: str) -> NoReturn:
    raise InputError(
        f"'{path}' is damaged or was changed: {what} is not what write_groups wrote (its digest "
        "differs). Make the file anew, or take it from a copy."
    )


def _header_of(file: h5py.File, path: PathLike) -> tuple[GroupStatistics, dict[str, Any]]:
    """Read all but the gene sums, for which a zero stands that takes no memory; and the recipe."""
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
    header = GroupStatistics(
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
        origin=recipe.get(_ORIGIN),
        covariate_origin=recipe.get(_COVARIATE_ORIGIN),
    )
    return header, recipe


def _sums_of(
    file: h5py.File, path: PathLike, header: GroupStatistics, genes: tuple[int, int] | None
) -> tuple[slice, dict[str, np.ndarray]]:
    """Read the sums of the wanted genes; returns the positions of these and the sums by name."""
    chosen = _chosen(genes, header.n_genes, path)
    stored = _stored_names(header.by, header.covariates)
    names = list(header.gene_sums())
    shape = (len(names), header.n_groups, chosen.stop - chosen.start)
    sums = zeros(shape, f"group statistics of '{path}'")
    for name, out in zip(names, sums, strict=True):
        element = file["X"] if name == "counts" else file["layers"][stored.get(name, name)]
        _fill(out, element, header.n_genes, chosen)
    return chosen, dict(zip(names, sums, strict=True))


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
