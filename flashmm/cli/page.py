"""The command `report`: the page of the tables that `de` left."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flashmm import benchmark, io
from flashmm.cli.output import reported, say, show_json
from flashmm.options import InputError
from flashmm.storage.files import atomic_path, reading

# What `de` says of its run, for the page.
RECIPE, MEASURED = "run.json", "measured.json"


def write_recipe(out: Path, measured: dict[str, float], **said: Any) -> None:
    """Keep what was run beside its tables (cells, model), and time and memory."""
    for name, record in ((RECIPE, said), (MEASURED, measured)):
        with atomic_path(out / name) as unfinished:
            unfinished.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")


def peak_memory_mib() -> float:
    """Largest memory of this process until now."""
    # kibibytes on Linux, bytes on macOS
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def recipe_of(folder: Path) -> dict[str, Any]:
    """What `de` said of its run in a folder.

    Raises
    ------
    InputError
        There is no such folder, or another command wrote it.
    """
    path = folder / RECIPE
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; name the one that `flashmm de -o` wrote.")
    if not path.is_file():
        bulk = (folder / "tests.tsv").is_file() or (folder / "heritability.tsv").is_file()
        more = " Tables of `test` and `bulk` (tests.tsv) stand for themselves." if bulk else ""
        raise InputError(
            f"{folder} has no {RECIPE}: it is not one that `flashmm de -o` wrote.{more}"
        )
    with reading(path):
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


@reported
def report(
    folder: Annotated[Path, typer.Argument(help="The folder that `de` wrote.")],
    title: Annotated[str, typer.Option("--title", help="Title of the page.")] = "",
    fdr: Annotated[float, typer.Option("--fdr", help="False discovery rate of the page.")] = 0.05,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """One HTML page of the tables that `de` left: report.html in their folder.

    For example:

        flashmm report out/
    """
    from flashmm.report.inputs import Inputs
    from flashmm.report.run import write_report

    said = recipe_of(folder)
    files = {name: str(folder / name) for name in ("groups.h5ad", "tests.parquet", "notes.txt")}
    name = Path(said["cells"][0]).stem
    run = {
        "dataset": name,
        "scenario": name,
        "replicate": None,
        "counts": said["cells"],
        "method": "within" if said["model"]["within"] else "mixed",
        "model": said["model"],
        "groups": files["groups.h5ad"],
        "fit": None if said["fit"] is None else str(folder / said["fit"]),
        "tests": files["tests.parquet"],
        "notes": files["notes.txt"],
        "measured": str(folder / MEASURED),
    }
    shown = {"title": title or f"Differential expression in {name}", "fdr": fdr, "top_genes": 1000}
    config = {"seed": 1, "report": shown}
    tables = _judged(folder, run)
    inputs = Inputs.of(folder / "figures", runs=[run], tables=tables, scenarios={}, config=config)
    write_report(folder / "report.html", inputs)
    if as_json:
        show_json({"page": str(folder / "report.html")})
    else:
        say([f"{folder / 'report.html'}"])


def _judged(folder: Path, run: dict[str, Any]) -> dict[str, str]:
    """Tables of the evaluation of tests whose truth is not known, and their files."""
    tests = io.read_table(run["tests"])
    found = benchmark.evaluate(tests, None, cell_type=run["model"]["within"] or "cell_type")
    named = {key: run[key] for key in ("dataset", "scenario", "replicate", "method")}
    files = {}
    for name, table in {"metrics": found.metrics, **found.curves}.items():
        files[name] = str(folder / "evaluation" / f"{name}.parquet")
        io.write_table(table.assign(**named), files[name])
    return files
