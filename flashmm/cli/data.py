"""Commands on cells and groups: `check`, `summarise`, `merge`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashmm import cells as of_cells
from flashmm import io
from flashmm.cells.inspection import CANNOT, LARGE_ONLY
from flashmm.cli import flags
from flashmm.cli.output import NO_ANSWER, reported, say, show_json, show_table, step
from flashmm.options import InputError
from flashmm.storage.files import atomic_path

if TYPE_CHECKING:
    from flashmm.cells import DataCheck


@reported
def check(
    cells: Annotated[
        Path, typer.Argument(help="The cells: an .h5ad, a zarr store, a .h5 or folder of 10x.")
    ],
    condition: flags.Condition = None,
    subject: flags.Subject = None,
    within: flags.Within = None,
    reference: flags.Reference = None,
    layer: flags.Layer = None,
    obs: flags.ObsOfOne = None,
    gene_names: flags.GeneNames = None,
    duplicate_genes: flags.DuplicateGenes = None,
    write: Annotated[
        Path | None, typer.Option("--write", help="Write a config of the workflow to start from.")
    ] = None,
    as_json: flags.Json = False,
) -> None:
    """Say what a file holds and what it can be asked, before any run.

    Columns that are not named are found by their usual names. Exits with 3 where no comparison can
    be asked.

    For example:

        flashmm check cells.h5ad

        flashmm check cells.h5ad --condition disease --subject donor_id --write config.yaml

        flashmm check filtered_feature_bc_matrix.h5 --obs cells.tsv
    """
    found = of_cells.check(
        cells,
        condition=condition,
        subject=subject,
        within=within,
        reference=reference,
        layer=layer,
        obs=obs,
        gene_names=gene_names,
        duplicate_genes=duplicate_genes,
    )
    if as_json:
        show_json(_as_dict(found))
    else:
        _show(found)
        beside = {"obs": obs, "gene-names": gene_names, "duplicate-genes": duplicate_genes}
        _say_next(found, cells, beside)
    if write is not None:
        with atomic_path(write) as unfinished:
            unfinished.write_text(found.config_text())
        step(f"{write}: a configuration to start from.")
    if not found.askable:
        raise typer.Exit(NO_ANSWER)


def _as_dict(found: DataCheck) -> dict[str, object]:
    names = ("name", "n_cells", "n_genes", "matrices", "layer", "roles", "reference", "paired")
    more = ("columns", "design", "findings", "problems", "askable")
    return {name: getattr(found, name) for name in (*names, *more)}


def _show(found: DataCheck) -> None:
    say(found.findings)
    show_table(found.columns, "Columns of the cells")
    if len(found.design):
        verdicts = found.design["can_be_asked"]
        few = (verdicts == LARGE_ONLY).sum()
        title = f"{(verdicts != CANNOT).sum()} of {len(verdicts)} comparisons can be asked"
        part = "" if few == len(verdicts) else f"{few} of them "
        show_table(found.design, f"{title}, {part}for large effects only" if few else title)
    say(f"Problem: {problem}" for problem in found.problems)


def _say_next(found: DataCheck, cells: Path, beside: dict[str, Any]) -> None:
    """Say the command that answers what can be asked."""
    if found.askable:
        given = {**found.roles, "layer": found.layer, **beside}
        words = [f"--{flag} {shlex.quote(str(v))}" for flag, v in given.items() if v is not None]
        step(f"Next: flashmm de {shlex.quote(str(cells))} {' '.join(words)} -o out/")


@reported
def convert(
    cells: Annotated[Path, typer.Argument(help="A zarr store, a .h5 or folder of 10x, an .h5ad.")],
    out: flags.File,
    obs: flags.ObsOfOne = None,
    layer: flags.Layer = None,
    gene_names: flags.GeneNames = None,
    duplicate_genes: flags.DuplicateGenes = None,
    as_json: flags.Json = False,
) -> None:
    """Write cells of any format, with the columns of a table, as the .h5ad that the workflow reads.

    For example:

        flashmm convert filtered_feature_bc_matrix.h5 --obs cells.tsv -o cells.h5ad
    """
    found = of_cells.read_cells(
        cells, obs=obs, layer=layer, gene_names=gene_names, duplicate_genes=duplicate_genes
    )
    io.write_cells(found, out, {"cells": str(cells), "obs": None if obs is None else str(obs)})
    if as_json:
        show_json({"cells": found.n_obs, "genes": found.n_vars, "file": str(out)})
    else:
        say([f"{found.n_obs} cells x {found.n_vars} genes, {found.obs.shape[1]} columns: {out}"])


@reported
def summarise(
    cells: flags.Cells,
    out: flags.File,
    by: Annotated[
        list[str], typer.Option("--by", help="Column that defines groups; given several times.")
    ],
    covariate: Annotated[
        list[str] | None,
        typer.Option("--covariate", help="Cell-level covariate; default log(libsize)."),
    ] = None,
    transform: flags.Transform = "log2p1",
    layer: flags.Layer = None,
    obs: flags.Obs = None,
    gene_names: flags.GeneNames = None,
    duplicate_genes: flags.DuplicateGenes = None,
    libsize: Annotated[str, typer.Option(help="Column with the library sizes.")] = "libsize",
    missing: flags.Missing = "error",
    shard: Annotated[
        str | None, typer.Option(help="Part of the cells of one file, such as 1/4.")
    ] = None,
    minimum_cells: flags.MinimumCells = None,
    as_json: flags.Json = False,
) -> None:
    """Reduce cells to sums of groups, in one pass; all models are fitted from these.

    For example:

        flashmm summarise cells.h5ad --by subject --by cell_type --by condition -o groups.h5ad

        flashmm summarise cells.h5ad --by donor --by cell_type --shard 1/4 -o part1.h5ad

        flashmm summarise cells.h5ad --by donor --by cell_type --minimum-cells 10 -o site1.h5ad
    """
    groups = of_cells.summarise(
        [str(path) for path in cells],
        by=by,
        covariates=["log(libsize)"] if covariate is None else covariate,
        transform=transform,
        layer=layer,
        obs=flags.sheets(obs),
        gene_names=gene_names,
        duplicate_genes=duplicate_genes,
        libsize=libsize,
        missing=missing,
        shard=None if shard is None else _part(shard),
        minimum_cells=minimum_cells,
    )
    io.write_groups(groups, out)
    _say_groups(groups.n_cells, groups.n_genes, groups.n_groups, out, as_json)


def _part(shard: str) -> tuple[int, int]:
    first, _, second = shard.partition("/")
    if not (first.isdigit() and second.isdigit()):
        raise InputError(f"--shard is a part such as 1/4; found {shard!r}.")
    return int(first), int(second)


@reported
def merge(
    groups: Annotated[list[Path], typer.Argument(help="Files of groups, of shards or sites.")],
    out: flags.File,
    genes: Annotated[
        str, typer.Option("--genes", help="same: all have the same genes; or intersection.")
    ] = "same",
    minimum_cells: flags.MinimumCells = None,
    as_json: flags.Json = False,
) -> None:
    """Add the groups of shards of a file, or of sites that cannot share cells.

    For example:

        flashmm merge site1.h5ad site2.h5ad -o groups.h5ad

        flashmm merge part*.h5ad -o groups.h5ad
    """
    merged = io.merge_files(groups, genes)
    if minimum_cells is not None:
        merged = of_cells.without_small_groups(merged, minimum_cells)
    io.write_groups(merged, out)
    _say_groups(merged.n_cells, merged.n_genes, merged.n_groups, out, as_json)


def _say_groups(n_cells: int, n_genes: int, n_groups: int, out: Path, as_json: bool) -> None:
    if as_json:
        show_json({"cells": n_cells, "genes": n_genes, "groups": n_groups, "file": str(out)})
    else:
        say([f"{n_cells} cells x {n_genes} genes in {n_groups} groups: {out}"])
