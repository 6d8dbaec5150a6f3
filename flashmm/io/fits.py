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

from flashmm.cells.effective_libsize import with_size_factors
from flashmm.cells.groups import GroupStatistics
from flashmm.cells.reference import with_reference
from flashmm.cells.size_factors import RECORD, recorded_factors
from flashmm.design.from_groups import summary_statistics
from flashmm.io.groups import gene_names, groups_identity, identity_and_genes, read_groups
from flashmm.lmm import LMMFit, prepare
from flashmm.names import listed
from flashmm.options import FitOptions, InputError, checked
from flashmm.storage.digests import ContentDigest
from flashmm.storage.files import PathLike, atomic_path, package_version, reading, unchanged
from flashmm.storage.hdf5 import hdf5_file, require_bounded
from flashmm.within import FitsWithin, parts_within

# What fits that are joined have in common, and how a message calls it.
_SAME = {
    "groups_id": "the groups that were fitted",
    "fits": "the model or its coefficients",
    "within": "the levels that have models of their own",
    "size_factors": "the size factors",
    "options": "the options of the fit",
    "version": "the version of flashmm",
}
# Arrays of a fit: numbers of genes, and rows of genes.
_OBS = ("status", "loglik", "n_iter", "decrement")
_OBSM = ("coef", "theta", "fisher_information")


@checked
def write_fit(fit: LMMFit | FitsWithin, path: PathLike, groups_path: PathLike) -> None:
    """Write a fit as an AnnData whose obs are the genes (`.h5ad`).

    obs holds `status`, `loglik`, `n_iter` and `decrement`, obsm `coef`, `theta` and
    `fisher_information` (each matrix as one row), and `uns["flashmm"]` the names, formulas and
    options, and the groups file with its digest. Covariances are not stored: `read_fit` rebuilds
    the model. Of fits within levels each name ends in ``:`` and the number of the level, from 0,
    in the list of `uns["flashmm"]["fits"]`.

    Parameters
    ----------
    fit : LMMFit or FitsWithin
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
    fits = list(fit.fits.values()) if isinstance(fit, FitsWithin) else [fit]
    if any(each.stats.model is None for each in fits):
        raise InputError(
            "Only fits of groups can be written: one of matrices cannot be rebuilt without them."
        )
    numbered = isinstance(fit, FitsWithin)
    keyed = {f":{number}" if numbered else "": each for number, each in enumerate(fits)}
    obs = {f"{n}{key}": getattr(each, n) for key, each in keyed.items() for n in _OBS}
    adata = ad.AnnData(
        obs=pd.DataFrame(obs, index=fit.genes.astype(str)),
        obsm={
            f"{name}{key}": getattr(each, name).reshape(len(fit.genes), -1)
            for key, each in keyed.items()
            for name in _OBSM
        },
        uns={"flashmm": _recipe_of(fit, fits) | _place_of(Path(path), Path(groups_path))},
    )
    _write_fit(adata, path)


def _write_fit(adata: ad.AnnData, path: PathLike) -> None:
    recipe = adata.uns["flashmm"]
    recipe["digest"] = _digest(adata, recipe)
    with atomic_path(path) as unfinished:
        adata.write_h5ad(unfinished, compression="gzip", compression_opts=1)


def _digest(adata: ad.AnnData, recipe: Mapping[str, Any]) -> str:
    """Digest of all that a file of a fit holds, in an order that no writer changes."""
    digest = ContentDigest()
    for name in sorted(set(recipe) - {"digest"}):
        digest.texts(name, [recipe[name]])
    digest.column("genes", adata.obs_names)
    for name in sorted(adata.obs):
        values = adata.obs[name]
        # the format makes categories of texts
        digest.column(name, values.astype(str) if name.startswith("status") else values)
    for name in sorted(adata.obsm):
        digest.array(name, np.asarray(adata.obsm[name]))
    return digest.hexdigest()


def _recipe_of(fit: LMMFit | FitsWithin, fits: Sequence[LMMFit]) -> dict[str, Any]:
    """What rebuilds the fits: the names and formulas of each, and what they share."""
    groups, _ = fits[0].stats.require_source()
    within = None
    if isinstance(fit, FitsWithin):
        kept = ("column", "refused", "levels", "reference")
        within = {name: getattr(fit, name) for name in kept} | {"fitted": list(fit.fits)}
    return {
        "fits": json.dumps([_names_of(each) for each in fits]),
        "within": json.dumps(within),
        "size_factors": json.dumps(groups.provenance.get(RECORD)),
        "options": json.dumps(asdict(fits[0].options)),
        "notes": json.dumps([list(fit.notes), *(list(each.notes) for each in fits)]),
    }


def _names_of(fit: LMMFit) -> dict[str, Any]:
    return {
        "coefficients": list(fit.coefficients),
        "components": list(fit.components),
        "aliased": list(fit.aliased),
        "df_residual": int(fit.df_residual),
        "model": asdict(fit.stats.require_model()),
    }


def _place_of(path: Path, groups_path: Path) -> dict[str, Any]:
    return {
        "groups": _relative(groups_path, path),
        "groups_id": groups_identity(groups_path),
        "version": package_version(),
    }


def _relative(groups_path: Path, path: Path) -> str:
    return os.path.relpath(groups_path.resolve(), path.resolve().parent)


@checked
def read_fit(path: PathLike, groups_path: PathLike | None = None) -> LMMFit | FitsWithin:
    """Read what `write_fit` wrote, and rebuild the statistics from the groups file that it names.

    Parameters
    ----------
    path : path
        The file.
    groups_path : path, optional
        The groups file, where it has moved.

    Returns
    -------
    LMMFit or FitsWithin
        As it was fitted; nothing is fitted again. The statistics are those of its genes.

    Raises
    ------
    InputError
        A file is missing, of another kind or does not hold what was written (digests of both are
        compared), or the groups file has changed since the fit.
    """
    adata, recipe = _stored_fit(path)
    source = _groups_path(path, recipe) if groups_path is None else Path(groups_path)
    with unchanged(source):
        identity, genes = identity_and_genes(source)
        if identity != recipe["groups_id"]:
            raise InputError(
                f"'{source}' is not the groups file that '{path}' was fitted from (its digest "
                "differs). Fit again, or name the original with groups_path."
            )
        groups = read_groups(source, _gene_range(adata.obs_names, genes, source, path))
    factors = json.loads(recipe["size_factors"])
    if factors is not None and RECORD not in groups.provenance:
        groups = with_size_factors(groups, recorded_factors(factors))
    names, within = json.loads(recipe["fits"]), json.loads(recipe["within"])
    options, notes = _options(recipe), json.loads(recipe["notes"])
    if within is None:
        return _rebuilt(adata, "", groups, names[0], options, notes[0])
    groups = with_reference(groups, dict(within["reference"]))
    parts = dict(parts_within(groups, within["column"]))
    fits = {
        level: _rebuilt(adata, f":{i}", parts[level], names[i], options, notes[1 + i])
        for i, level in enumerate(within["fitted"])
    }
    return FitsWithin(
        within["column"],
        fits,
        within["refused"],
        tuple(within["levels"]),
        adata.obs_names,
        options,
        tuple(notes[0]),
        tuple(map(tuple, within["reference"])),
    )


def _options(recipe: Mapping[str, Any]) -> FitOptions:
    options = json.loads(recipe["options"])
    if options["start"] is not None:
        options["start"] = tuple(options["start"])
    return FitOptions(**options)


def _rebuilt(
    adata: ad.AnnData,
    key: str,
    groups: GroupStatistics,
    names: Mapping[str, Any],
    options: FitOptions,
    notes: Sequence[str],
) -> LMMFit:
    """The fit whose arrays have names that end in `key`, with its statistics and its model."""
    formula = names["model"]
    reference = dict(formula["reference"])
    stats = summary_statistics(groups, formula["fixed"], formula["random"], reference=reference)
    theta = np.asarray(adata.obsm[f"theta{key}"])
    K1 = theta.shape[1]
    information = np.asarray(adata.obsm[f"fisher_information{key}"])
    return LMMFit(
        coef=np.asarray(adata.obsm[f"coef{key}"]),
        theta=theta,
        fisher_information=information.reshape(-1, K1, K1),
        loglik=adata.obs[f"loglik{key}"].to_numpy(),
        status=adata.obs[f"status{key}"].to_numpy().astype(str),
        n_iter=adata.obs[f"n_iter{key}"].to_numpy(),
        decrement=adata.obs[f"decrement{key}"].to_numpy(),
        genes=adata.obs_names,
        coefficients=tuple(names["coefficients"]),
        components=tuple(names["components"]),
        aliased=tuple(names["aliased"]),
        df_residual=names["df_residual"],
        stats=stats,
        options=options,
        model=prepare(stats, options),
        notes=tuple(notes),
    )


def _stored_fit(path: PathLike) -> tuple[ad.AnnData, dict[str, Any]]:
    with hdf5_file(path) as file:
        require_bounded(file, path)
    with reading(path):
        adata = ad.read_h5ad(path)
    recipe = adata.uns.get("flashmm", {})
    if not isinstance(recipe, Mapping) or "groups_id" not in recipe:
        raise InputError(
            f"'{path}' does not hold a fit. Make such a file with fit_lmm and write_fit."
        )
    if "digest" not in recipe:
        raise InputError(
            f"'{path}' has no digest of its content: an earlier version of flashmm wrote it, or it "
            "was taken out. Fit again."
        )
    with reading(path):
        digest = _digest(adata, recipe)
    if digest != str(recipe["digest"]):
        raise InputError(
            f"'{path}' is damaged or was changed: it does not hold what write_fit wrote (its "
            "digest differs). Fit again, or take it from a copy."
        )
    return adata, dict(recipe)


def _groups_path(path: PathLike, recipe: Mapping[str, Any]) -> Path:
    return Path(path).parent / str(recipe["groups"])


def _gene_range(
    genes: pd.Index, of_groups: pd.Index, source: Path, path: PathLike
) -> tuple[int, int]:
    """Find the positions in the groups file of consecutive genes."""
    places = of_groups.get_indexer(genes)
    if (places < 0).any() or (np.diff(places) != 1).any():
        raise InputError(
            f"The genes of '{path}' are not consecutive genes of '{source}', as those of a fit are."
        )
    return int(places[0]), int(places[-1]) + 1


@checked
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
    status = {name: object for name in parts[0][0].obs if name.startswith("status")}
    obs = pd.concat([adata.obs.astype(status) for adata, _ in parts]).iloc[places]
    obsm = {
        name: np.concatenate([np.asarray(adata.obsm[name]) for adata, _ in parts])[places]
        for name in parts[0][0].obsm
    }
    said = zip(*(json.loads(recipe["notes"]) for _, recipe in parts), strict=True)
    notes = [list(dict.fromkeys(text for some in each for text in some)) for each in said]
    changes = {"groups": _relative(source, Path(path)), "notes": json.dumps(notes)}
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
