import anndata as ad
from job import job, measured
from tests_of_fit import write_tests

from flashmm.design.from_groups import summary_statistics
from flashmm.io.fits import write_fit
from flashmm.io.groups import read_groups, read_size_factors
from flashmm.lmm import fit_lmm
from flashmm.options import InputError
from flashmm.storage.files import reading, unchanged
from flashmm.within import fit_within


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


def size_factors(recipe, path):
    """Size factors of the groups from all genes of the file, whichever are fitted here."""
    if recipe is None:
        return None
    return read_size_factors(path, recipe["within"], recipe["method"])


def joint_fit(groups, factors, params, measured):
    """One model of all groups; what is measured is the fit."""
    stats = summary_statistics(groups, params.fixed, params.random, factors, params.reference)
    with measured:
        return fit_lmm(stats, **params.options)


def fits_of_levels(groups, factors, params, measured):
    """A model for each level of a column; what is measured are their statistics and fits."""
    with measured:
        return fit_within(
            groups,
            params.within,
            params.fixed,
            params.random,
            size_factors=factors,
            min_counts=params.min_counts,
            reference=params.reference,
            **params.options,
        )


with job(snakemake), unchanged(snakemake.input.groups):
    source, params = snakemake.input.groups, snakemake.params
    factors = size_factors(params.size_factors, source)
    groups = read_groups(source, range_of(params.shard, source))
    record = measured(snakemake.output.measured, genes=groups.n_genes, cells=groups.n_cells)
    make = joint_fit if params.within is None else fits_of_levels
    fit = make(groups, factors, params, record)
    write_fit(fit, snakemake.output.fit, source)
    if snakemake.output.get("table"):  # a shard of the genes is tested after it is joined
        write_tests(snakemake, fit)
