"""The package's own files: group statistics and fits as `.h5ad`, tables as Parquet and text."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from flashmm.crossproducts import summary_statistics
from flashmm.files import PathLike, atomic_path, file_digest, package_version, reading
from flashmm.groups import GroupStatistics, listed, moment_name, moment_names
from flashmm.lmm import LMMFit, prepare
from flashmm.options import FitOptions, InputError

# Key of the metadata of a Parquet schema.
_PROVENANCE = b"flashmm"


def write_groups(groups: GroupStatistics, path: PathLike) -> None:
    """Write statistics of groups as an AnnData of groups x genes (`.h5ad`).

    `X` holds the sums of the raw counts (a pseudobulk; absent where the input was not counts), the
    layers hold `sum`, `sumsq` and `sum:<x>` of the transformed values, `obs` the `by` columns and
    the gene-free sums, and `uns["flashmm"]` how they were made. ``/`` in a name of a column or
    layer is stored as ``_``; `uns["flashmm"]` has the full names.
    """
    names = _stored_names(groups.by, groups.covariates)
    layers = groups.gene_sums()
    adata = ad.AnnData(
        X=layers.pop("counts", None),
        obs=groups.obs[list(names)].rename(columns=names),
        var=pd.DataFrame(index=groups.genes),
        layers={names.get(name, name): values for name, values in layers.items()},
        uns={"flashmm": _recipe(groups)},
    )
    with atomic_path(path) as unfinished:
        adata.write_h5ad(unfinished, compression="gzip", compression_opts=1)


def read_groups(path: PathLike) -> GroupStatistics:
    """Read what `write_groups` wrote.

    Raises
    ------
    InputError
        Where there is no such file, it is damaged, or it does not hold statistics of groups.
    """
    with reading(path):
        return _groups_of(ad.read_h5ad(path), path)


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
    if fit.stats.groups is None or fit.stats.fixed is None:
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
    with atomic_path(path) as unfinished:
        adata.write_h5ad(unfinished, compression="gzip", compression_opts=1)


def _fit_recipe(fit: LMMFit, path: Path, groups_path: Path) -> dict[str, Any]:
    random = None if fit.stats.random is None else list(fit.stats.random)
    return {
        "coefficients": np.array(fit.coefficients, dtype=object),
        "components": np.array(fit.components, dtype=object),
        "aliased": np.array(fit.aliased, dtype=object),
        "notes": np.array(fit.notes, dtype=object),
        "df_residual": fit.df_residual,
        "model": json.dumps({"fixed": fit.stats.fixed, "random": random}),
        "options": json.dumps(asdict(fit.options)),
        "groups": os.path.relpath(groups_path.resolve(), path.resolve().parent),
        "groups_sha256": file_digest(groups_path),
        "version": package_version(),
    }


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
        As it was fitted; nothing is fitted again.

    Raises
    ------
    InputError
        A file is missing, damaged or of another kind, or the groups file has changed since the fit.
    """
    with reading(path):
        adata = ad.read_h5ad(path)
    recipe = adata.uns.get("flashmm", {})
    if "groups_sha256" not in recipe:
        raise InputError(
            f"'{path}' does not hold a fit. Make such a file with fit_lmm and write_fit."
        )
    source = Path(path).parent / str(recipe["groups"]) if groups_path is None else Path(groups_path)
    if file_digest(source) != recipe["groups_sha256"]:
        raise InputError(
            f"'{source}' is not the groups file that '{path}' was fitted from (its digest "
            "differs). Fit again, or name the original with groups_path."
        )
    model, options = json.loads(recipe["model"]), json.loads(recipe["options"])
    if options["start"] is not None:
        options["start"] = tuple(options["start"])
    stats = summary_statistics(read_groups(source), model["fixed"], model["random"])
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


def _groups_of(adata: ad.AnnData, path: PathLike) -> GroupStatistics:
    recipe = adata.uns.get("flashmm", {})
    lacking = {"by", "covariates", "transform", "provenance"} - set(recipe)
    if lacking:
        raise InputError(
            f"'{path}' does not hold statistics of groups: uns['flashmm'] lacks "
            f"{listed(sorted(lacking))}. Make such a file with summarise and write_groups."
        )
    by, covariates = _texts(recipe["by"]), _texts(recipe["covariates"])
    names = _stored_names(by, covariates)
    _require(names.values(), adata.obs.columns, "obs column", path)
    layers = {x: names[moment_name(x)] for x in covariates}
    _require(("sum", "sumsq", *layers.values()), adata.layers, "layer", path)
    return GroupStatistics(
        obs=adata.obs[list(names.values())].set_axis(list(names), axis=1),
        genes=adata.var_names,
        sum=_dense(adata.layers["sum"]),
        sumsq=_dense(adata.layers["sumsq"]),
        covariate_sums={x: _dense(adata.layers[layer]) for x, layer in layers.items()},
        counts=None if adata.X is None else _dense(adata.X),
        by=by,
        covariates=covariates,
        transform=str(recipe["transform"]),
        provenance=json.loads(recipe["provenance"]),
        notes=_texts(recipe.get("notes", ())),
    )


def _require(names: Iterable[str], there: Collection[str], what: str, path: PathLike) -> None:
    lacking = [name for name in names if name not in there]
    if lacking:
        raise InputError(f"'{path}' lacks the {what}(s) {listed(lacking)}; it has {listed(there)}.")


def _dense(values: Any) -> np.ndarray:
    """Values as float64; other tools may have stored them sparse."""
    array = values if isinstance(values, np.ndarray) else values.toarray()
    return np.asarray(array, dtype=np.float64)


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(map(str, np.atleast_1d(values)))
