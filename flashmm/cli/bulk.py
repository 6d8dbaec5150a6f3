"""The command on bulk expression: `bulk`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashmm import cells as of_cells
from flashmm import io, subject_level
from flashmm.cli import flags
from flashmm.cli.analysis import Fdr, found_genes
from flashmm.cli.output import in_flags, reported, say, show_json, show_table
from flashmm.names import did_you_mean, listed
from flashmm.options import DesignError, InputError
from flashmm.storage.files import atomic_path

if TYPE_CHECKING:
    import pandas as pd


# Genes that are printed.
TOP = 5


@reported
def bulk(
    table: Annotated[
        Path, typer.Argument(help="Table of genes x samples (CSV, TSV), wide or long.")
    ],
    out: flags.Out,
    obs: Annotated[
        Path | None, typer.Option("--obs", help="Table of the samples, by their names.")
    ] = None,
    condition: flags.Condition = None,
    covariate: flags.Covariates = None,
    reference: flags.Reference = None,
    individual: Annotated[
        str | None, typer.Option("--individual", help="Column of individuals with several samples.")
    ] = None,
    kinship: Annotated[
        Path | None, typer.Option("--kinship", help="Relatedness of the individuals (TSV, CSV).")
    ] = None,
    kinship_kind: Annotated[
        str, typer.Option("--kinship-kind", help="kinship, factor or genotypes.")
    ] = "kinship",
    layout: Annotated[str, typer.Option("--layout", help="auto, wide or long.")] = "auto",
    values: Annotated[
        str, typer.Option("--values", help="auto, counts, normalised or logarithms.")
    ] = "auto",
    fdr: Fdr = 0.05,
    as_json: flags.Json = False,
) -> None:
    """Test bulk samples, and estimate heritabilities where a kinship is given.

    Leaves tests.tsv and tests.parquet where a condition is given, heritability.tsv and
    heritability.parquet where a kinship is, and notes.txt.

    For example:

        flashmm bulk fpkm.csv --obs samples.csv --condition treatment --covariate age -o out/

        flashmm bulk fpkm.csv --obs samples.csv --covariate sex --kinship kinship.tsv -o out/
    """
    samples = of_cells.read_bulk(table, obs, layout=layout, values=values)
    named = [("individual", individual), ("condition", condition)]
    _check_columns(samples, [*named, *(("covariate", name) for name in covariate or [])], obs)
    notes = list(samples.uns["flashmm_bulk"]["notes"])
    formula = f"~ {' + '.join([*(covariate or []), *([condition] if condition else [])]) or '1'}"
    related: Any = None if kinship is None else io.read_kinship_file(kinship, kinship_kind)
    found: dict[str, pd.DataFrame] = {}
    if condition is not None:
        tests = subject_level.bulk_tests(
            samples,
            formula,
            condition,
            individual=individual,
            kinship=related,
            reference=None if reference is None else {condition: reference},
        )
        notes += tests.notes
        frame = tests.to_frame(intervals=True)
        words = _comparisons(samples.obs[condition], reference)
        if frame["contrast"].isin(words).all():
            frame.insert(1, "comparison", frame["contrast"].map(words))
        io.write_table(frame, out / "tests.parquet", out / "tests.tsv")
        found["found"] = found_genes(frame, None, fdr)
        found["top"] = _first_genes(frame)
    if kinship is not None:
        frame = subject_level.heritability(samples, related, formula, individual=individual)
        io.write_table(frame, out / "heritability.parquet", out / "heritability.tsv")
        found["heritability"] = _most_heritable(frame, fdr)
    elif condition is None:
        raise DesignError(
            "Name what is compared (condition=), or say how individuals are related (kinship=)."
        )
    _tell(found, [in_flags(text) for text in dict.fromkeys(notes)], out, fdr, as_json)


def _check_columns(samples: Any, named: list[tuple[str, str | None]], obs: Path | None) -> None:
    """Refuse columns that the samples do not have, before any test."""
    there = list(samples.obs)
    for argument, column in named:
        if column is not None and column not in there:
            raise InputError(
                f"{argument}={column!r} is not a column of the samples{did_you_mean(column, there)}"
                f" They have {listed(there, 40)}."
                f"{'' if obs else ' Give a table of the samples, by their names, with obs=.'}"
            )


def _comparisons(values: pd.Series, reference: str | None) -> dict[str, str]:
    """Contrasts of a condition's levels in words, by their names."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(values):
        return {}
    levels = list(map(str, pd.Categorical(values).categories))
    first = reference or levels[0]
    return {f"{values.name}[T.{level}]": f"{level} vs {first}" for level in levels}


def _first_genes(frame: pd.DataFrame) -> pd.DataFrame:
    """The tests with the smallest p-values."""
    label = [] if frame["contrast"].nunique() == 1 else ["contrast"]
    columns = ["gene", *label, "estimate", "conf_low", "conf_high", "p_value", "adj_p_value"]
    return frame.sort_values("p_value", kind="stable")[columns].head(TOP)


def _most_heritable(frame: pd.DataFrame, fdr: float) -> pd.DataFrame:
    """Number of heritable genes, and the first of them."""
    import pandas as pd

    hits = frame[frame["adj_p_value"] <= fdr].sort_values("p_value")
    return pd.DataFrame(
        {
            "fitted": [int(frame["h2"].notna().sum())],
            "median_h2": [float(frame["h2"].median())],
            "heritable": [len(hits)],
            "first": [", ".join(hits["gene"].astype(str).head(3))],
        }
    )


def _tell(
    found: dict[str, pd.DataFrame], notes: list[str], out: Path, fdr: float, as_json: bool
) -> None:
    """Say what was found, and keep the notes."""
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / "notes.txt") as unfinished:
        unfinished.write_text("".join(f"{line}\n" for line in notes))
    if as_json:
        show_json({**found, "notes": notes, "folder": str(out)})
        return
    rate = f"at a false discovery rate of {fdr:.0%}"
    titles = {
        "found": f"Genes found {rate}",
        "top": "First genes (estimate: difference of log2 expression)",
        "heritability": f"Heritable genes {rate}",
    }
    for name, frame in found.items():
        told = name == "found" and "comparison" in frame
        show_table(frame.drop(columns="contrast") if told else frame, titles[name])
    files = {"found": "tests.tsv", "heritability": "heritability.tsv"}
    written = [files[name] for name in found if name in files]
    say([f"{out}: {', '.join([*written, 'notes.txt'])}"])
