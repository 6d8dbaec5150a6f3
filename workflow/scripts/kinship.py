from job import job, write_notes, write_tables

from flashmm.io.groups import read_groups
from flashmm.io.kinship import read_kinship_file
from flashmm.subject_level.means import subject_means
from flashmm.subject_level.models import kinship_by_trait

with job(snakemake):
    given = snakemake.params.settings
    result = kinship_by_trait(
        subject_means(read_groups(snakemake.input.groups), **given["means"]),
        read_kinship_file(snakemake.input.relatedness, given["kind"]),
        contrasts=given["contrasts"],
        **given["model"],
    )
    names = ("heritability", "tests", "profiles")
    write_tables(snakemake, {name: getattr(result, name) for name in names})
    write_notes(snakemake.output.notes, result.notes)
