"""The commands together."""

from __future__ import annotations

from typing import Annotated

import typer

from flashmm.cli import analysis, bulk, data, genes, page, studies
from flashmm.storage.files import package_version

app = typer.Typer(
    name="flashmm",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Differential expression between subjects, from single cells.\n\n"
    "Start with `flashmm check cells.h5ad`. Exit codes: 0, 1 for a fault of the input, 2 for flags "
    "that are not known, 3 for a question that the data cannot answer.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"flashmm {package_version()}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Differential expression between subjects, from single cells."""


app.command()(data.check)
app.command()(data.convert)
app.command()(data.summarise)
app.command()(data.merge)
app.command()(analysis.de)
app.command()(genes.explain)
app.command()(bulk.bulk)
app.command()(page.report)
app.command()(analysis.test)
app.command(name="power")(analysis.plan)
app.command()(studies.simulate)
app.command()(studies.evaluate)


def main() -> None:
    """Run the command line."""
    app()
