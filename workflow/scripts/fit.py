import anndata as ad
from job import job, measured

from flashmm.design.from_groups import summary_statistics
from flashmm.io.fits import write_fit
from flashmm.io.groups import read_groups
from flashmm.lmm import fit_lmm
from flashmm.options import InputError
from flashmm.storage.files import reading


def range_of(shard, path):
    """First gene of a shard of the groups file, and one past the last; none for all genes."""
    if shard is None:
        return None
    number, n_shards = shard
    with reading(path):
        n_genes = ad.read_h5ad(path, backed="r").n_vars
    if n_shards > n_genes:
        raise InputError(f"shards: genes is {n_shards}, but '{path}' has {n_genes} genes.")
    return (number - 1) * n_genes // n_shards, number * n_genes // n_shards


with job(snakemake):
    source = snakemake.input.groups
    groups = read_groups(source, range_of(snakemake.params.shard, source))
    stats = summary_statistics(groups, snakemake.params.fixed, snakemake.params.random)
    with measured(snakemake.output.measured, genes=stats.n_genes, cells=stats.n_cells):
        fit = fit_lmm(stats, **snakemake.params.options)
    write_fit(fit, snakemake.output.fit, source)
