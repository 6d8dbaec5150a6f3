"""The report of a run: one HTML page that holds all that it shows, and its figures as files.

The page is made of sections, a section of blocks (text, tables, figures, tables of genes), and the
template draws blocks. Each section reads the files that it shows and returns its blocks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

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

# Sections on models with subjects as rows, by their section of the config.
SUBJECT_SECTIONS = {
    "kinship": kinship_blocks,
    "multitrait": multitrait_blocks,
    "heritability": heritability_blocks,
}


def write_report(path: str | Path, inputs: Inputs) -> None:
    """Write the report of a run of the workflow.

    Parameters
    ----------
    path : path
        The HTML page; beside it `provenance.json` says what made it.
    inputs : Inputs
        What it is made from.

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
        "sections": list(_sections(inputs, said)),
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


def _sections(inputs: Inputs, said: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    related = {
        name: make(inputs.related.get(name, {}), inputs.config, inputs.figures)
        for name, make in SUBJECT_SECTIONS.items()
    }
    parts = (
        ("ranking", "Methods, ranked", comparison.ranked(inputs)),
        ("results", "Genes found", genes.results(inputs)),
        ("scenarios", "Scenarios side by side", comparison.scenarios(inputs)),
        ("kinship", "Heritability and tests with a kinship", related["kinship"]),
        ("multitrait", "Cell types together", related["multitrait"]),
        ("heritability", "Known heritabilities, estimated", related["heritability"]),
        ("accuracy", "Accuracy against the truth", accuracy.accuracy(inputs)),
        ("effects", "Effect sizes", comparison.effects(inputs)),
        ("differences", "Paired differences", comparison.differences(inputs)),
        ("agreement", "Agreement with MixedLM", agreement.agreement(inputs)),
        ("performance", "Run time and memory", costs.performance(inputs)),
        ("run", "What was run", overview.what_was_run(inputs)),
        ("simulation", "Simulation", accuracy.simulation(inputs)),
        ("fits", "How the fits ended", overview.fits(inputs)),
        ("notes", "Notes of the run", overview.notes(inputs)),
        ("provenance", "Provenance", provenance_blocks(said)),
    )
    for name, title, content in parts:
        found = list(content)
        if found:
            yield {"id": name, "title": title, "blocks": found}
