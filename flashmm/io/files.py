"""The package's own files: group statistics and fits as `.h5ad`, tables as Parquet and text."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from flashmm.cells.groups import GroupStatistics, merge_headers, moment_name, moment_names
from flashmm.design.from_groups import summary_statistics
from flashmm.kinship.data import KinshipFactor, kinship_factor
from flashmm.lmm import LMMFit, prepare
from flashmm.names import listed
from flashmm.options import FitOptions, InputError
from flashmm.storage.chunks import write_gzip
from flashmm.storage.files import PathLike, atomic_path, file_identity, package_version, reading
from flashmm.storage.workspace import zeros

# Key of the metadata of a Parquet schema.
_PROVENANCE = b"flashmm"
# What fits that are joined have in common, and how a message calls it.
_SAME = {
    "groups_id": "the groups that were fitted",
    "model": "the model",
    "options": "the options of the fit",
    "coefficients": "the coefficients",
    "aliased": "the aliased coefficients",
    "components": "the variance components",
    "df_residual": "the residual degrees of freedom",
    "version": "the version of flashmm",
}


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
        return header.with_sums(*_sums_of(file, path, header, genes))


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


def write_fit(fit: LMMFit, path: PathLike, groups_path: PathLike) -> None:
    """Write a fit as an AnnData whose obs are the genes (`.h5ad`).

    obs holds `status`, `loglik`, `n_iter` and `decrement`, obsm `coef`, `theta` and
    `fisher_information` (each matrix as one row), and `uns["flashmm"]` the names, formulas and
    options, and the groups file with its digest. Covariances are not stored: `read_fit` rebuilds
    the model.

    Parameters
    ----------
    fit : LMMFit
        A fit of statistics that came from groups.
    path : path
        The file to write.
    groups_path : path
        The file that holds the groups (`write_groups`); it is named relative to `path`.

    Raises
    ------
    InputError
        The fit does not come from groups.
    """
    if fit.stats.model is None:
        raise InputError(
            "Only fits of groups can be written: one of matrices cannot be rebuilt without them."
        )
    obs = {name: getattr(fit, name) for name in ("status", "loglik", "n_iter", "decrement")}
    adata = ad.AnnData(
        obs=pd.DataFrame(obs, index=fit.genes.astype(str)),
        obsm={
            "coef": fit.coef,
            "theta": fit.theta,
            "fisher_information": fit.fisher_information.reshape(fit.n_genes, -1),
        },
        uns={"flashmm": _fit_recipe(fit, Path(path), Path(groups_path))},
    )
    _write_fit(adata, path)


def _write_fit(adata: ad.AnnData, path: PathLike) -> None:
    with atomic_path(path) as unfinished:
        adata.write_h5ad(unfinished, compression="gzip", compression_opts=1)


def _fit_recipe(fit: LMMFit, path: Path, groups_path: Path) -> dict[str, Any]:
    return {
        "coefficients": np.array(fit.coefficients, dtype=object),
        "components": np.array(fit.components, dtype=object),
        "aliased": np.array(fit.aliased, dtype=object),
        "notes": np.array(fit.notes, dtype=object),
        "df_residual": fit.df_residual,
        "model": json.dumps(asdict(fit.stats.require_model())),
        "options": json.dumps(asdict(fit.options)),
        "groups": _relative(groups_path, path),
        "groups_id": _groups_identity(groups_path),
        "version": package_version(),
    }


def _relative(groups_path: Path, path: Path) -> str:
    return os.path.relpath(groups_path.resolve(), path.resolve().parent)


def _groups_identity(path: PathLike) -> str:
    """Tell whether a file of groups is the one that was fitted, without reading all of a large one.

    It holds the digest of its content (`write_groups`), and is itself recognised by
    `file_identity`; any file that `write_groups` wrote of other groups differs in both.
    """
    with reading(path), h5py.File(path, "r") as file:
        content = file["uns/flashmm/digest"][()] if "uns/flashmm/digest" in file else b""
    return hashlib.sha256(file_identity(path).encode() + content).hexdigest()


def read_fit(path: PathLike, groups_path: PathLike | None = None) -> LMMFit:
    """Read what `write_fit` wrote, and rebuild the statistics from the groups file that it names.

    Parameters
    ----------
    path : path
        The file.
    groups_path : path, optional
        The groups file, where it has moved.

    Returns
    -------
    LMMFit
        As it was fitted; nothing is fitted again. The statistics are those of its genes.

    Raises
    ------
    InputError
        A file is missing, damaged or of another kind, or the groups file has changed since the fit.
    """
    adata, recipe = _stored_fit(path)
    source = _groups_path(path, recipe) if groups_path is None else Path(groups_path)
    if _groups_identity(source) != recipe["groups_id"]:
        raise InputError(
            f"'{source}' is not the groups file that '{path}' was fitted from (its digest "
            "differs). Fit again, or name the original with groups_path."
        )
    model, options = json.loads(recipe["model"]), json.loads(recipe["options"])
    if options["start"] is not None:
        options["start"] = tuple(options["start"])
    groups = read_groups(source, _gene_range(adata.obs_names, source, path))
    stats = summary_statistics(groups, model["fixed"], model["random"])
    fit_options = FitOptions(**options)
    K1 = adata.obsm["theta"].shape[1]
    return LMMFit(
        coef=np.asarray(adata.obsm["coef"]),
        theta=np.asarray(adata.obsm["theta"]),
        fisher_information=np.asarray(adata.obsm["fisher_information"]).reshape(-1, K1, K1),
        loglik=adata.obs["loglik"].to_numpy(),
        status=adata.obs["status"].to_numpy().astype(str),
        n_iter=adata.obs["n_iter"].to_numpy(),
        decrement=adata.obs["decrement"].to_numpy(),
        genes=adata.obs_names,
        coefficients=_texts(recipe["coefficients"]),
        components=_texts(recipe["components"]),
        aliased=_texts(recipe["aliased"]),
        df_residual=int(recipe["df_residual"]),
        stats=stats,
        options=fit_options,
        model=prepare(stats, fit_options),
        notes=_texts(recipe["notes"]),
    )


def _stored_fit(path: PathLike) -> tuple[ad.AnnData, dict[str, Any]]:
    with reading(path):
        adata = ad.read_h5ad(path)
    recipe = adata.uns.get("flashmm", {})
    if "groups_id" not in recipe:
        raise InputError(
            f"'{path}' does not hold a fit. Make such a file with fit_lmm and write_fit."
        )
    return adata, recipe


def _groups_path(path: PathLike, recipe: Mapping[str, Any]) -> Path:
    return Path(path).parent / str(recipe["groups"])


def _gene_names(path: PathLike) -> pd.Index:
    with reading(path), h5py.File(path, "r") as file:
        return ad.io.read_elem(file["var"]).index


def _gene_range(genes: pd.Index, source: Path, path: PathLike) -> tuple[int, int]:
    """Find the positions in the groups file of consecutive genes."""
    places = _gene_names(source).get_indexer(genes)
    if (places < 0).any() or (np.diff(places) != 1).any():
        raise InputError(
            f"The genes of '{path}' are not consecutive genes of '{source}', as those of a fit are."
        )
    return int(places[0]), int(places[-1]) + 1


def join_fits(paths: Iterable[PathLike], path: PathLike) -> None:
    """Join fits of ranges of genes, each written by `write_fit`, to one file of all genes.

    Parameters
    ----------
    paths : iterable of path
        The files, in any order. They were fitted by the same model from the same groups file,
        which has to be where they say, and hold each of its genes once.
    path : path
        The file to write; `read_fit` reads it as if all genes had been fitted together.

    Raises
    ------
    InputError
        A file is missing, damaged, of another kind or of another model, options, coefficients or
        groups than the first, has genes of another, or genes of the groups file are in none.
    """
    paths = list(paths)
    if not paths:
        raise InputError("There is nothing to join: the list of fits is empty.")
    parts = [_stored_fit(part) for part in paths]
    first = parts[0][1]
    for part, (_, recipe) in zip(paths, parts, strict=True):
        _check_same_fit(recipe, first, part, paths[0])
    source = _groups_path(paths[0], first)
    places = _places([adata.obs_names for adata, _ in parts], paths, source)
    obs = pd.concat([adata.obs.astype({"status": object}) for adata, _ in parts]).iloc[places]
    obsm = {
        name: np.concatenate([np.asarray(adata.obsm[name]) for adata, _ in parts])[places]
        for name in ("coef", "theta", "fisher_information")
    }
    notes = dict.fromkeys(text for _, recipe in parts for text in _texts(recipe["notes"]))
    changes = {
        "groups": _relative(source, Path(path)),
        "notes": np.array(list(notes), dtype=object),
    }
    _write_fit(ad.AnnData(obs=obs, obsm=obsm, uns={"flashmm": dict(first) | changes}), path)


def _check_same_fit(
    recipe: Mapping[str, Any], first: Mapping[str, Any], path: PathLike, first_path: PathLike
) -> None:
    for name, words in _SAME.items():
        if not np.array_equal(recipe[name], first[name]):
            raise InputError(
                f"'{path}' and '{first_path}' cannot be joined: they differ in {words}. "
                "Fit all genes in the same way from the same groups file."
            )


def _places(genes: Sequence[pd.Index], paths: Sequence[PathLike], source: Path) -> np.ndarray:
    """Where in the concatenated fits each gene of the groups file is."""
    wanted = _gene_names(source)
    seen = pd.Series(dtype=object)
    for names, path in zip(genes, paths, strict=True):
        twice = names[names.isin(seen.index)]
        if len(twice):
            raise InputError(
                f"'{path}' holds {len(twice)} genes of '{seen[twice[0]]}' ({listed(twice, 3)})."
            )
        if not names.isin(wanted).all():
            other = names[~names.isin(wanted)]
            raise InputError(f"'{path}' holds genes that '{source}' has not: {listed(other, 3)}.")
        seen = pd.concat([seen, pd.Series(str(path), index=names)])
    lacking = wanted[~wanted.isin(seen.index)]
    if len(lacking):
        raise InputError(
            f"{len(lacking)} of the {len(wanted)} genes of '{source}' are in none of the "
            f"{len(paths)} fits ({listed(lacking, 3)}); a file of the list is missing."
        )
    return seen.index.get_indexer(wanted)


def write_table(
    frame: pd.DataFrame,
    path: PathLike,
    tsv: PathLike | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write the columns of a table (not its index) as Parquet, and as text where `tsv` is given.

    Parameters
    ----------
    frame : pandas.DataFrame
        A tidy table.
    path : path
        The Parquet file.
    tsv : path, optional
        A tab-separated file for people; with an ending such as `.tsv.gz` it is compressed.
    provenance : mapping, optional
        What made the table; kept as JSON under ``flashmm`` in the metadata of the Parquet schema,
        with the version of the package (`read_provenance`).
    """
    table = pa.Table.from_pandas(frame, preserve_index=False)
    recipe = json.dumps({"flashmm": package_version()} | dict(provenance or {}), default=str)
    metadata = {**(table.schema.metadata or {}), _PROVENANCE: recipe}
    with atomic_path(path) as unfinished:
        parquet.write_table(table.replace_schema_metadata(metadata), unfinished)
    if tsv is not None:
        with atomic_path(tsv) as unfinished:
            frame.to_csv(unfinished, sep="\t", index=False, na_rep="NA", lineterminator="\n")


def read_provenance(path: PathLike) -> dict[str, Any]:
    """Read what made a Parquet table that `write_table` wrote."""
    with reading(path):
        metadata = parquet.read_schema(path).metadata or {}
    return dict(json.loads(metadata.get(_PROVENANCE, b"{}")))


def read_table(path: PathLike) -> pd.DataFrame:
    """Read a Parquet table that `write_table` wrote."""
    with reading(path):
        return pd.read_parquet(path)


def read_kinship_file(path: PathLike, kind: str = "kinship") -> pd.DataFrame | KinshipFactor:
    """Read what says how related individuals are.

    Parameters
    ----------
    path : path
        A table with the names of the individuals in its first column (`.tsv`, `.csv`, also with
        `.gz`; `.parquet`), or an `.npz` file of two arrays, `ids` and the numbers.
    kind : {"kinship", "factor", "genotypes"}
        A kinship matrix K with the individuals as columns too; a factor G with K = GG', individuals
        × anything; or allele counts, individuals × markers, from which a factor is made.

    Returns
    -------
    DataFrame or KinshipFactor
        K for `rotate_by_kinship`, its rows and columns named; a factor otherwise.

    Raises
    ------
    InputError
        The file cannot be read, or holds something else.
    """
    if kind not in ("kinship", "factor", "genotypes"):
        raise InputError(f"kind must be kinship, factor or genotypes; found {kind!r}.")
    with reading(path):
        table = _named_rows(Path(path))
    wrong = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    if wrong or not table.size:
        held = f"holds text in the column {wrong[0]!r}" if wrong else "holds no numbers"
        raise InputError(
            f"'{path}' {held}; the first column names the individuals, all others hold numbers."
        )
    if table.index.has_duplicates:
        twice = table.index[table.index.duplicated()][0]
        raise InputError(f"'{path}' has more than one row named {twice!r}.")
    if kind == "genotypes":
        return kinship_factor(table)
    if kind == "factor":
        return KinshipFactor(table.to_numpy(dtype=np.float64), table.index)
    if set(table.columns) != set(table.index):
        raise InputError(
            f"'{path}': the columns of a kinship matrix name the same individuals as its rows "
            f"({table.shape[0]} rows, {table.shape[1]} columns); if it is something else, say "
            "kind: factor or kind: genotypes."
        )
    return table


def _named_rows(path: Path) -> pd.DataFrame:
    """Table with the names of its rows, as text, in the index."""
    endings = [ending.lower() for ending in path.suffixes if ending != ".gz"]
    ending = endings[-1] if endings else ""
    if ending == ".npz":
        return _named_arrays(path)
    if ending == ".parquet":
        table = pd.read_parquet(path)
        if isinstance(table.index, pd.RangeIndex):
            table = table.set_index(table.columns[0])
    elif ending in (".tsv", ".txt", ".csv"):
        table = _named_text(path, "," if ending == ".csv" else "\t")
    else:
        raise InputError(f"'{path}': a table ends in .tsv, .csv, .parquet or .npz.")
    return table.set_axis(table.index.astype(str), axis=0).set_axis(
        table.columns.astype(str), axis=1
    )


def _named_text(path: Path, separator: str) -> pd.DataFrame:
    """Text with the names in its first column, which R's write.table gives no heading."""
    head = pd.read_csv(path, sep=separator, nrows=1)
    if not isinstance(head.index, pd.RangeIndex):
        return pd.read_csv(path, sep=separator)
    names = head.columns[0]
    return pd.read_csv(path, sep=separator, dtype={names: str}).set_index(names)


def _named_arrays(path: Path) -> pd.DataFrame:
    with np.load(path, allow_pickle=False) as arrays:
        values = [name for name in arrays.files if name != "ids"]
        if "ids" not in arrays.files or len(values) != 1:
            raise InputError(
                f"'{path}' must hold two arrays, `ids` and the numbers; found "
                f"{listed(arrays.files)}."
            )
        ids, numbers = arrays["ids"].astype(str), arrays[values[0]]
    if numbers.ndim != 2 or len(numbers) != len(ids):
        raise InputError(f"'{path}': {len(ids)} ids for numbers of the shape {numbers.shape}.")
    square = numbers.shape[0] == numbers.shape[1]
    columns = ids if square else [str(j + 1) for j in range(numbers.shape[1])]
    return pd.DataFrame(numbers, index=pd.Index(ids, dtype=object), columns=columns)


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
    by, covariates = _texts(recipe["by"]), _texts(recipe["covariates"])
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
        notes=_texts(recipe.get("notes", ())),
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


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(map(str, np.atleast_1d(values)))
