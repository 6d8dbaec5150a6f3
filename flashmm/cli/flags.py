"""Flags that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flashmm.options import InputError

Cells = Annotated[
    list[Path],
    typer.Argument(
        help="The cells, whose parts belong together: .h5ad, zarr, 10x .h5, folders of 10x."
    ),
]
Obs = Annotated[
    list[Path] | None,
    typer.Option(
        "--obs",
        help="Table of the cells (TSV, CSV) by barcode; once, or for each of several files.",
    ),
]
ObsOfOne = Annotated[
    Path | None, typer.Option("--obs", help="Table of the cells (TSV, CSV) by barcode.")
]
GeneNames = Annotated[
    str | None,
    typer.Option("--gene-names", help="Column of var with the names of the genes (gene_ids)."),
]
DuplicateGenes = Annotated[
    str | None,
    typer.Option("--duplicate-genes", help="Genes with one name: error, sum or unique."),
]
Condition = Annotated[
    str | None, typer.Option("--condition", help="Column of obs with what is compared.")
]
Subject = Annotated[
    str | None, typer.Option("--subject", help="Column of obs that names the subjects.")
]
Within = Annotated[
    str | None,
    typer.Option("--within", help="Column (cell_type) whose levels have models of their own."),
]
Reference = Annotated[
    str | None, typer.Option("--reference", help="Reference level of the condition.")
]
Layer = Annotated[
    str | None,
    typer.Option("--layer", help="Layer with the raw counts; 'raw' is .raw. Default: X."),
]
Transform = Annotated[str, typer.Option("--transform", help="log2p1, log1p, log1p_cp10k or none.")]
Missing = Annotated[
    str, typer.Option("--missing", help="Cells with missing values: error, or drop them.")
]
Covariates = Annotated[
    list[str] | None,
    typer.Option("--covariate", help="Further fixed effect (age, sex); may be given again."),
]
Ddf = Annotated[
    str | None, typer.Option("--ddf", help="Test; default empirical-bayes with --within.")
]
MinimumCells = Annotated[
    int | None,
    typer.Option(
        "--minimum-cells", help="Withhold groups of fewer cells, before groups leave a site."
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.", file_okay=False)]
File = Annotated[Path, typer.Option("--out", "-o", help="File to write.", dir_okay=False)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def sheets(obs: list[Path] | None) -> Any:
    """The tables of --obs: None, one for all files, or one for each."""
    return None if not obs else obs[0] if len(obs) == 1 else list(obs)


def numbers(given: str, flag: str) -> tuple[float, ...]:
    """Numbers of a flag, separated by commas.

    Raises
    ------
    InputError
        Something among them is no number.
    """
    try:
        return tuple(float(part) for part in given.split(","))
    except ValueError:
        raise InputError(
            f"{flag} takes numbers separated by commas, such as 4,8,16; found {given!r}."
        ) from None
