"""Heritability of every gene where relatives resemble each other."""

from __future__ import annotations

from typing import Any

from flashmm.io.groups import read_groups
from flashmm.io.kinship import read_kinship_file
from flashmm.subject_level.means import subject_means
from flashmm.subject_level.models import kinship_by_trait
from flashmm.workflow.jobs import write_notes, write_tables


def run(job: Any) -> None:
    """Make the outputs of the job."""
    given = job.params.settings
    result = kinship_by_trait(
        subject_means(read_groups(job.input.groups), **given["means"]),
        read_kinship_file(job.input.relatedness, given["kind"]),
        contrasts=given["contrasts"],
        **given["model"],
    )
    names = ("heritability", "tests", "profiles")
    write_tables(job, {name: getattr(result, name) for name in names})
    write_notes(job.output.notes, result.notes)
