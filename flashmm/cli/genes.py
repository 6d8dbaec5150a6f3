"""The command `explain`: genes of the tables that `de` left, in words."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashmm import inference, io
from flashmm.cli import flags
from flashmm.cli.output import reported, say, show_json, step
from flashmm.cli.page import recipe_of
from flashmm.options import FlashmmWarning

if TYPE_CHECKING:
    from flashmm.inference import TestTable


@reported
def explain(
    folder: Annotated[Path, typer.Argument(help="The folder that `de` wrote.")],
    genes: Annotated[
        list[str] | None, typer.Argument(help="Genes; default those with the smallest p-values.")
    ] = None,
    top: Annotated[int, typer.Option("--top", help="How many genes, where none is named.")] = 3,
    as_json: flags.Json = False,
) -> None:
    """Say in words what was found for some genes: fold change, interval, and who carries it.

    For example:

        flashmm explain out/

        flashmm explain out/ ISG15 CD3E
    """
    step("Reading the fit ...")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FlashmmWarning)  # `de` said the notes
        table = tests_of_folder(folder)
    if not genes:
        genes = list(dict.fromkeys(table.top(top * len(table.contrasts))["gene"]))[:top]
    said = {gene: str(table.explain(gene)) for gene in genes}
    if as_json:
        show_json(said)
    else:
        say("\n\n".join(said.values()).split("\n"))


def tests_of_folder(folder: Path) -> TestTable:
    """Table of tests of the fit that `de` left, as it made it."""
    model = recipe_of(folder)["model"]
    tests = io.read_table(folder / "tests.parquet")
    fit: Any = io.read_fit(folder / "fit.h5ad")
    names = list(dict.fromkeys(tests["contrast"]))
    return inference.contrast_tests(fit, names, model["ddf"], alternative=model["alternative"])
