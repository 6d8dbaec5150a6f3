"""Fits as files (`.h5ad`): written, read with their groups, joined from ranges of genes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from flashmm.design.from_groups import summary_statistics
from flashmm.io.groups import gene_names, groups_identity, read_groups, texts
from flashmm.lmm import LMMFit, prepare
from flashmm.names import listed
from flashmm.options import FitOptions, InputError
from flashmm.storage.files import PathLike, atomic_path, package_version, reading

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
        "groups_id": groups_identity(groups_path),
        "version": package_version(),
    }


def _relative(groups_path: Path, path: Path) -> str:
    return os.path.relpath(groups_path.resolve(), path.resolve().parent)


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
    if groups_identity(source) != recipe["groups_id"]:
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
        coefficients=texts(recipe["coefficients"]),
        components=texts(recipe["components"]),
        aliased=texts(recipe["aliased"]),
        df_residual=int(recipe["df_residual"]),
        stats=stats,
        options=fit_options,
        model=prepare(stats, fit_options),
        notes=texts(recipe["notes"]),
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


def _gene_range(genes: pd.Index, source: Path, path: PathLike) -> tuple[int, int]:
    """Find the positions in the groups file of consecutive genes."""
    places = gene_names(source).get_indexer(genes)
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
    notes = dict.fromkeys(text for _, recipe in parts for text in texts(recipe["notes"]))
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
    wanted = gene_names(source)
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
