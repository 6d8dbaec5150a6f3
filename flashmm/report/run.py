"""The report of a run: one HTML page that holds all that it shows, and its figures as files.

The page is made of sections, a section of blocks (text, tables, figures, tables of genes), and the
template draws blocks. Each section reads the files that it shows and returns its blocks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias

from flashmm import plots
from flashmm.report import accuracy, agreement, comparison, costs, genes, overview
from flashmm.report import page as blocks
from flashmm.report.inputs import Inputs, said_by
from flashmm.report.provenance import provenance, provenance_blocks, write_provenance
from flashmm.report.r_packages import r_versions
from flashmm.report.subjects import (
    heritability_blocks,
    kinship_blocks,
    multitrait_blocks,
)

Blocks: TypeAlias = list[dict[str, Any]]
Content: TypeAlias = Callable[[], Iterator[dict[str, Any]]]
_forked: list[Content] = []  # of the report that is being made, for the processes that make it

# Sections on models with subjects as rows, by their section of the config.
SUBJECT_SECTIONS = {
    "kinship": kinship_blocks,
    "multitrait": multitrait_blocks,
    "heritability": heritability_blocks,
}


def write_report(path: str | Path, inputs: Inputs, processes: int = 1) -> None:
    """Write the report of a run of the workflow.

    Parameters
    ----------
    path : path
        The HTML page; beside it `provenance.json` says what made it.
    inputs : Inputs
        What it is made from.
    processes : int
        In how many sections are made side by side; the page is the same.

    Raises
    ------
    InputError
        A file that cannot be read.
    """
    inputs.figures.mkdir(parents=True, exist_ok=True)
    said = _provenance(inputs)
    page = {
        "title": inputs.config["report"]["title"],
        "lead": overview.lead(inputs),
        "cards": overview.cards(inputs),
        "sections": list(_sections(inputs, said, processes)),
    }
    blocks.render_page(path, page)
    write_provenance(path, said)


def _provenance(inputs: Inputs) -> dict[str, Any]:
    """What made the run, its simulations and the groups of its counts."""
    simulations = {
        run.dataset: json.loads(said_by(inputs.stored(run.counts[0]), "provenance")[0])
        for run in inputs.simulations
    }
    made = {
        run.dataset: json.loads(said_by(inputs.groups[run.groups], "provenance")[0])["inputs"]
        for run in inputs.runs
    }
    commands = [(run.model.get("run") or {}).get("command", ()) for run in inputs.runs]
    return provenance(
        inputs.config, simulations=simulations, inputs=made, r_packages=r_versions(commands)
    )


def _sections(inputs: Inputs, said: Mapping[str, Any], processes: int) -> Iterator[dict[str, Any]]:
    related = {
        name: partial(make, inputs.related.get(name, {}), inputs.config, inputs.figures)
        for name, make in SUBJECT_SECTIONS.items()
    }
    parts: tuple[tuple[str, str, Content], ...] = (
        ("ranking", "Methods, ranked", partial(comparison.ranked, inputs)),
        ("results", "Genes found", partial(genes.results, inputs)),
        ("scenarios", "Scenarios side by side", partial(comparison.scenarios, inputs)),
        ("kinship", "Heritability and tests with a kinship", related["kinship"]),
        ("multitrait", "Cell types together", related["multitrait"]),
        ("heritability", "Known heritabilities, estimated", related["heritability"]),
        ("accuracy", "Accuracy against the truth", partial(accuracy.accuracy, inputs)),
        ("effects", "Effect sizes", partial(comparison.effects, inputs)),
        ("differences", "Paired differences", partial(comparison.differences, inputs)),
        ("agreement", "Agreement with MixedLM", partial(agreement.agreement, inputs)),
        ("performance", "Run time and memory", partial(costs.performance, inputs)),
        ("run", "What was run", partial(overview.what_was_run, inputs)),
        ("simulation", "Simulation", partial(accuracy.simulation, inputs)),
        ("fits", "How the fits ended", partial(overview.fits, inputs)),
        ("notes", "Notes of the run", partial(overview.notes, inputs)),
        ("provenance", "Provenance", partial(provenance_blocks, said)),
    )
    contents = _made([content for _, _, content in parts], inputs, processes)
    for (name, title, _), found in zip(parts, contents, strict=True):
        if found:
            yield {"id": name, "title": title, "blocks": found}


def _made(contents: Sequence[Content], inputs: Inputs, processes: int) -> list[Blocks]:
    """The blocks of all sections, which do not need each other."""
    if processes == 1 or sys.platform != "linux":  # elsewhere there is no safe fork
        return [list(content()) for content in contents]
    for name in plots.__all__:  # imported here once, and not by each process
        getattr(plots, name)
    # what the sections need is there in a fork; files that are open are opened anew
    _forked[:] = contents
    try:
        with ProcessPoolExecutor(processes, get_context("fork"), inputs.close) as pool:
            return list(pool.map(_make, range(len(contents))))
    finally:
        _forked.clear()


def _make(number: int) -> Blocks:
    return list(_forked[number]())
