"""Subjects as rows: means, kinship and multi-trait models of cell types, and their files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import flashmm as fm
from flashmm.design.columns import fixed_design
from flashmm.options import DesignError, FlashmmWarning, FormulaError, InputError, Status
from flashmm.subject_level.models import indicators, most_significant

N_SUBJECTS = 18


@pytest.fixture(scope="module")
def simulation() -> fm.Simulation:
    spec = fm.SimulationSpec(n_genes=8, n_cells=1400, n_subjects=N_SUBJECTS, n_cell_types=3)
    return fm.simulate_counts(spec, 1)


@pytest.fixture(scope="module")
def groups(simulation) -> fm.GroupStatistics:
    return fm.summarise(simulation.adata, ["subject", "cell_type", "condition"])


@pytest.fixture(scope="module")
def means(groups) -> fm.SubjectMeans:
    return fm.subject_means(groups, min_cells=1)


@pytest.fixture(scope="module")
def kinship(means) -> pd.DataFrame:
    """Kinship of the subjects and of three others, in an order of its own."""
    rng = np.random.default_rng(0)
    ids = [*means.subjects[::-1], "X1", "X2", "X3"]
    parents = np.repeat(rng.binomial(2, 0.4, (7, 150)), 3, axis=0)
    own = rng.binomial(2, 0.4, (21, 150))
    K = fm.kinship_factor(np.where(rng.random(own.shape) < 0.5, own, parents)).matrix()
    return pd.DataFrame(K, index=ids, columns=ids)


def cell_means(simulation) -> pd.DataFrame:
    """Means over cells, subject and cell type × genes, from the counts themselves."""
    adata = simulation.adata
    y = pd.DataFrame(np.log2(1 + adata.X.toarray().astype(float)), columns=adata.var_names)
    keys = [adata.obs[name].astype(str).to_numpy() for name in ("subject", "cell_type")]
    return y.groupby(keys).mean()


def test_means_are_those_of_the_cells(simulation, means):
    expected = cell_means(simulation)
    assert means.n_cells.to_numpy().sum() == simulation.adata.n_obs
    for gene in means.genes:
        wide = expected[gene].unstack()
        np.testing.assert_allclose(
            means.of_gene(gene), wide.loc[means.subjects, means.traits], rtol=1e-12
        )
    condition = simulation.adata.obs.groupby("subject", observed=True)["condition"].first()
    assert means.obs["condition"].tolist() == condition[means.subjects].tolist()


@pytest.mark.filterwarnings("ignore::flashmm.options.FlashmmWarning")
def test_chosen_levels_and_traits(groups, simulation):
    level = str(groups.obs["condition"].iloc[0])
    part = fm.subject_means(
        groups, keep={"condition": [level]}, traits=["type1", "type3"], min_cells=30
    )
    obs = simulation.adata.obs
    chosen = obs[(obs["condition"] == level) & obs["cell_type"].isin(["type1", "type3"])]
    counts = chosen.groupby(["subject", "cell_type"], observed=True).size()
    assert set(part.subjects) == set(counts[counts >= 30].index.get_level_values(0))
    assert np.isfinite(part.values[:, :, 0]).sum() == (counts >= 30).sum()
    assert list(part.traits) == ["type1", "type3"]
    few, lost = part.notes
    assert f"{(counts < 30).sum()} have fewer than 30 cells" in few
    assert "left out: subject 'A1'" in lost


def test_a_column_that_varies_within_subjects(means):
    spec = fm.SimulationSpec(n_genes=3, n_cells=300, n_subjects=4, n_cell_types=2, nested=False)
    simulation = fm.simulate_counts(spec, 1)
    groups = fm.summarise(simulation.adata, ["subject", "cell_type", "condition"])
    crossed = fm.subject_means(groups, min_cells=1)
    assert crossed.varying == ("condition",)
    with pytest.raises(DesignError, match=r"'condition' differs within subjects.*keep="):
        crossed.design("~ condition")
    with pytest.raises(InputError, match=r"'age' is not known"):
        means.design("~ age")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"subject": "donor"}, "no column 'donor'"),
        ({"keep": {"condition": ["C"]}}, "no level 'C'"),
        ({"traits": ["type9"]}, "no level 'type9'"),
        ({"min_cells": 100_000}, "lower min_cells"),
    ],
)
def test_columns_and_levels_that_are_not_there(groups, options, words):
    with pytest.raises(InputError, match=words):
        fm.subject_means(groups, **options)


def test_a_design_of_fixed_effects_has_no_bars(means):
    with pytest.raises(FormulaError, match="random terms"):
        fixed_design(means.obs, "~ condition + (1 | subject)", "subjects")


@pytest.mark.filterwarnings("ignore::flashmm.options.FlashmmWarning")
def test_kinship_models_are_those_of_each_cell_type(groups, kinship):
    means = fm.subject_means(groups, min_cells=25)
    found = fm.kinship_by_trait(means, kinship, "~ condition")
    X = means.design("~ condition").X
    for k, trait in enumerate(means.traits):
        there = np.isfinite(means.values[:, k, 0])
        ids = means.subjects[there]
        K = kinship.loc[ids, ids]
        # scaled by the mean diagonal over all subjects, not over those of the cell type
        K = K / np.diag(kinship.loc[means.subjects, means.subjects]).mean()
        Y = pd.DataFrame(means.values[there, k], index=ids, columns=means.genes)
        fit = fm.fit_kinship_lmm(fm.rotate_by_kinship(K, Y, X[there]))
        ours = found.heritability[found.heritability["cell_type"] == trait]
        np.testing.assert_allclose(ours["h2"], fit.h2, atol=1e-7)
        np.testing.assert_allclose(ours["loglik"], fit.loglik, rtol=1e-9)
        assert (ours["n_individuals"] == there.sum()).all()
        tests = fm.contrast_tests(fit, "condition[T.B]").to_frame()
        part = found.tests[found.tests["cell_type"] == trait]
        assert part["gene"].tolist() == list(means.genes)
        np.testing.assert_allclose(part["p_value"], tests["p_value"], rtol=1e-6)
        np.testing.assert_allclose(part["adj_p_value"], tests["adj_p_value"], rtol=1e-6)
    assert any("left out were" in text and "of K" in text for text in found.notes)


@pytest.mark.filterwarnings("ignore::flashmm.options.FlashmmWarning")
def test_p_values_of_no_heritability(means, kinship):
    table = fm.kinship_by_trait(means, kinship).heritability
    assert (table.loc[table["h2"] == 0, "p_value"] == 1).all()
    assert table.loc[table["h2"] > 1e-3, "p_value"].between(0, 0.5).all()
    adjusted = table.groupby("cell_type")["adj_p_value"].min()
    assert (adjusted >= table.groupby("cell_type")["p_value"].min()).all()


@pytest.mark.filterwarnings("ignore::flashmm.options.FlashmmWarning")
@pytest.mark.parametrize("contrasts", ["condition", ["condition"], ["condition[T.B]"], None])
def test_a_column_stands_for_its_coefficients(means, kinship, contrasts):
    tests = fm.kinship_by_trait(means, kinship, "~ condition", contrasts=contrasts).tests
    assert set(tests["contrast"]) == {"condition[T.B]"}


@pytest.mark.filterwarnings("ignore::flashmm.options.FlashmmWarning")
def test_no_covariates_no_tests(means, kinship):
    assert fm.kinship_by_trait(means, kinship).tests.empty


def joint(means, kinship, gene, formula):
    """The model of one gene, fitted by hand."""
    factor = fm.kinship_root(kinship)
    rows = pd.Index(factor.individuals).get_indexer(means.subjects)
    G = factor.G[rows]
    X = means.design(formula).X.to_numpy()
    return fm.fit_multitrait_lmm(means.of_gene(gene).to_numpy(), X, G)


@pytest.mark.filterwarnings("ignore::flashmm.options.FlashmmWarning")
def test_joint_models_are_those_of_each_gene(means, kinship):
    genes = means.most_variable(2)
    found = fm.multitrait_by_gene(means, kinship, genes, "~ condition")
    assert found.fits["gene"].tolist() == genes
    for gene in genes:
        fit = joint(means, kinship, gene, "~ condition")
        effects = found.effects[found.effects["gene"] == gene]
        np.testing.assert_allclose(effects["estimate"], fit.B.ravel(order="F"), rtol=1e-6)
        pairs = found.covariances[found.covariances["gene"] == gene]
        upper = np.triu_indices(3)
        np.testing.assert_allclose(pairs["C1"], fit.C1[upper], rtol=1e-4)
        sd = np.sqrt(np.diag(fit.C1))
        np.testing.assert_allclose(
            pairs["correlation1"], (fit.C1 / np.outer(sd, sd))[upper], rtol=1e-4
        )
        shares = pairs.loc[pairs["cell_type"] == pairs["other"], "heritability"]
        np.testing.assert_allclose(shares, fit.heritability, rtol=1e-4)
        assert pairs["heritability"].notna().sum() == 3


@pytest.mark.filterwarnings("ignore::flashmm.options.FlashmmWarning")
def test_one_bad_gene_has_a_status_and_a_reason(means, kinship):
    values = means.values.copy()
    values[:, 1, 0] = 0.0
    spoiled = fm.SubjectMeans(
        values, means.n_cells, means.genes, means.obs, (), "subject", "cell_type"
    )
    bad, good = means.genes[:2]
    found = fm.multitrait_by_gene(spoiled, kinship, [bad, good])
    status = found.fits.set_index("gene")
    assert status.loc[bad, "status"] == Status.NOT_ESTIMABLE
    assert "'type2' is constant" in status.loc[bad, "reason"]
    assert status.loc[good, "reason"] == "" and np.isfinite(status.loc[good, "loglik"])
    assert set(found.effects["gene"]) == {good}
    with pytest.raises(DesignError, match=r"no gene can be fitted.*constant"):
        fm.multitrait_by_gene(spoiled, kinship, [bad])
    with pytest.raises(InputError, match="'nothing' not among"):
        fm.multitrait_by_gene(spoiled, kinship, ["nothing"])


def test_subjects_without_a_cell_type_are_counted(means, kinship):
    values = means.values.copy()
    values[:2, 0] = np.nan
    lacking = fm.SubjectMeans(
        values, means.n_cells, means.genes, means.obs, (), "subject", "cell_type"
    )
    one, other = means.subjects[:2]
    with pytest.warns(FlashmmWarning, match=f"2 of 18 subjects lack a cell_type.*{one}.*{other}"):
        found = fm.multitrait_by_gene(lacking, kinship, [means.genes[0]])
    assert found.fits["n_subjects"].tolist() == [N_SUBJECTS - 2]
    others = kinship.iloc[-3:, -3:]
    with pytest.raises(InputError, match=r"no subject is in the kinship.*'A1'.*'X1'"):
        fm.multitrait_by_gene(lacking, others, [means.genes[0]])
    with pytest.raises(InputError, match="no subject is in the kinship"):
        fm.kinship_by_trait(lacking, others)
    few = kinship.loc[[one, other], [one, other]]
    with (
        pytest.warns(FlashmmWarning, match="16 of 18 subjects are not in the kinship"),
        pytest.raises(DesignError, match="no subject has a mean of every"),
    ):
        fm.multitrait_by_gene(lacking, few, [means.genes[0]])


def test_subjects_of_one_batch_are_alike(means):
    batch = pd.Series(np.repeat(["a", "b", "c"], 6), index=means.subjects, name="batch")
    factor = indicators(batch)
    np.testing.assert_array_equal(
        factor.matrix(), np.equal.outer(batch.to_numpy(), batch.to_numpy())
    )
    found = fm.multitrait_by_gene(means, factor, means.most_variable(1))
    assert found.fits["status"].isin([Status.OK, Status.BOUNDARY]).all()
    with pytest.raises(InputError, match="missing for 18 subjects"):
        indicators(batch.where(batch == "d"))


def test_root_of_a_kinship(kinship):
    root = fm.kinship_root(kinship)
    np.testing.assert_allclose(root.matrix(), kinship, atol=1e-12)
    assert list(root.individuals) == list(kinship.index)
    assert fm.kinship_root(root) is root
    with pytest.raises(InputError, match="not positive semi-definite"):
        fm.kinship_root(kinship - 0.5 * np.eye(len(kinship)))


def test_genes_by_significance():
    tests = pd.DataFrame({"gene": list("abcabc"), "log10_p": [-1, -2, np.nan, -5, -1, np.nan]})
    assert most_significant(tests, 5) == ["a", "b"]
    assert most_significant(tests, 1) == ["a"]


# ---- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["tsv", "csv", "tsv.gz", "parquet", "npz"])
def test_a_kinship_file_in_any_format(kinship, tmp_path, ending):
    path = tmp_path / f"K.{ending}"
    if ending == "parquet":
        kinship.to_parquet(path)
    elif ending == "npz":
        np.savez(path, ids=np.array(kinship.index, dtype=str), K=kinship.to_numpy())
    else:
        kinship.to_csv(path, sep="," if ending == "csv" else "\t")
    pd.testing.assert_frame_equal(
        fm.read_kinship_file(path), kinship, check_index_type=False, check_names=False
    )


def test_ids_that_look_like_numbers_stay_text(tmp_path):
    pd.DataFrame(np.eye(2), index=["007", "8"], columns=["007", "8"]).to_csv(tmp_path / "K.csv")
    assert list(fm.read_kinship_file(tmp_path / "K.csv").index) == ["007", "8"]


def test_factors_and_genotypes(tmp_path):
    counts = pd.DataFrame(
        np.random.default_rng(0).integers(0, 3, (6, 9)), index=list("abcdef")
    ).add_prefix("m")
    counts.to_csv(tmp_path / "g.tsv", sep="\t")
    factor = fm.read_kinship_file(tmp_path / "g.tsv", "factor")
    np.testing.assert_array_equal(factor.G, counts)
    made = fm.read_kinship_file(tmp_path / "g.tsv", "genotypes")
    np.testing.assert_allclose(made.G, fm.kinship_factor(counts).G)
    assert list(made.individuals) == list("abcdef")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("K.tsv", "id\ta\tb\na\t1\t0\nc\t0\t1\n", "say kind: factor or kind: genotypes"),
        ("K.tsv", "id\ta\tb\na\t1\tx\nb\t0\t1\n", "holds text in the column 'b'"),
        ("K.tsv", "id\ta\tb\na\t1\t0\na\t0\t1\n", "more than one row named 'a'"),
        ("K.tsv", "", "cannot be read"),
        ("K.xlsx", "", "ends in .tsv, .csv"),
        ("K.npz", "no archive", "cannot be read"),
    ],
)
def test_kinship_files_that_cannot_be_used(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        fm.read_kinship_file(tmp_path / name)


def test_arrays_that_do_not_fit(tmp_path):
    np.savez(tmp_path / "a.npz", K=np.eye(2))
    np.savez(tmp_path / "b.npz", ids=np.array(["a"]), K=np.eye(2))
    with pytest.raises(InputError, match="two arrays"):
        fm.read_kinship_file(tmp_path / "a.npz")
    with pytest.raises(InputError, match="1 ids for numbers"):
        fm.read_kinship_file(tmp_path / "b.npz")
    with pytest.raises(InputError, match="kind must be"):
        fm.read_kinship_file(tmp_path / "a.npz", "matrix")
