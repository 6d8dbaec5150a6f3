from job import job, write_notes, write_tables

from flashmm.subject_level.heritability import recover_heritability

with job(snakemake):
    spec = snakemake.params.spec
    result = recover_heritability(
        spec["individuals"],
        spec["traits"],
        spec["h2"],
        n_markers=spec["markers"],
        family_size=spec["family_size"],
        n_dense=spec["dense"],
        seed=snakemake.params.seed,
    )
    names = ("estimates", "summary", "dense", "profiles")
    write_tables(snakemake, {name: getattr(result, name) for name in names})
    write_notes(snakemake.output.notes, result.notes)
