"""The simulator: its distribution against theory, its structure, its files and its refusals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from blood_cells import blood_cells
from references import real_counts
from scipy import sparse, stats

from flashmm.kernels.negative_binomial import (
    apportion,
    cluster,
    draw_block,
    draw_effects,
    draw_log_fc,
    draw_negative_binomial,
    fill_uniform,
    reference_parameters,
    resample,
)
from flashmm.options import FlashmmWarning, InputError
from flashmm.simulate import Simulation, SimulationSpec, plan, simulate_counts, writer
from flashmm.simulate.plan import BLOCK_CELLS
from flashmm.simulate.sheet import draw_metadata
from flashmm.simulate.writer import CHUNK

STANDARD_ERRORS = 4.5  # of a Monte Carlo mean: the seeds are fixed, so a pass stays a pass


def spec(**changed: Any) -> SimulationSpec:
    """A small design, changed as wanted."""
    small = dict(n_genes=40, n_cells=600, n_subjects=6, n_cell_types=3, n_de_genes=9)
    return SimulationSpec(**{**small, **changed})


def dense(simulation: Simulation) -> np.ndarray:
    matrix = simulation.adata.X
    return (matrix if sparse.issparse(matrix) else matrix[:]).toarray().astype(float)


def reference_adata(n_cells: int = 400, n_genes: int = 30, seed: int = 3) -> ad.AnnData:
    """Counts that are negative binomial, with cells of very different depth."""
    rng = np.random.default_rng(seed)
    depth = rng.lognormal(0, 0.4, size=(n_cells, 1))
    counts = draw_negative_binomial(rng, depth * np.linspace(1, 8, n_genes), np.full(n_genes, 2.0))
    return ad.AnnData(
        sparse.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(index=[f"c{i}" for i in range(n_cells)]),
        var=pd.DataFrame(index=[f"ref{i}" for i in range(n_genes)]),
    )


def metadata(n_cells: int = 90) -> pd.DataFrame:
    cells = np.arange(n_cells)
    return pd.DataFrame(
        {
            "subject": 100 + cells % 6,
            "cell_type": np.array(["T cells", "B, naive"])[(cells // 6) % 2],
            "condition": np.array(["ctrl", "stim"])[cells % 2],
            "libsize": 500.0 + cells,
            "age": 20.0 + cells % 6,
        },
        index=[f"barcode{i}" for i in cells],
    )


# --- distribution ---------------------------------------------------------------------------------


def test_counts_have_the_mean_and_variance_of_the_negative_binomial() -> None:
    quiet = spec(n_cells=20_000, subject_variance=0, n_de_genes=0, adjust_libsize=False)
    simulation = simulate_counts(quiet, seed=11)
    counts = dense(simulation)
    mean = simulation.adata.var["mean"].to_numpy()
    size = simulation.adata.var["dispersion"].to_numpy()
    variance = mean + mean**2 / size
    fourth = np.mean((counts - mean) ** 4, axis=0)
    mean_error = np.sqrt(variance / len(counts))
    variance_error = np.sqrt((fourth - variance**2) / len(counts))
    assert np.all(np.abs(counts.mean(axis=0) - mean) < STANDARD_ERRORS * mean_error)
    observed = np.mean((counts - mean) ** 2, axis=0)
    assert np.all(np.abs(observed - variance) < STANDARD_ERRORS * variance_error)


@pytest.mark.parametrize(("mean", "size"), [(0.3, 0.5), (2.0, 1.0), (6.0, 8.0)])
def test_counts_follow_the_probabilities_of_the_negative_binomial(mean: float, size: float) -> None:
    n = 50_000
    counts = draw_negative_binomial(
        np.random.default_rng(5), np.full((n, 1), mean), np.array([size])
    ).ravel()
    law = stats.nbinom(size, size / (size + mean))
    top = int(law.isf(20 / n))  # the last bin still expects about 20
    observed = np.bincount(np.minimum(counts, top), minlength=top + 1)
    expected = n * np.append(law.pmf(np.arange(top)), law.sf(top - 1))
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_counts_of_a_huge_size_are_poisson() -> None:
    counts = draw_negative_binomial(
        np.random.default_rng(1), np.full((40_000, 1), 3.0), np.array([1e17])
    )
    assert counts.mean() == pytest.approx(3, abs=STANDARD_ERRORS * np.sqrt(3 / 40_000))
    assert counts.var() == pytest.approx(3, rel=0.05)


# Mean and size: rare and frequent counts, drawn by points, by inversion and value by value.
LAWS = [
    *[(0.002, 0.5), (0.1, 0.001), (0.1, 0.05), (0.1, 2.0), (0.3, 1e9), (0.3, 1e17), (0.34, 0.02)],
    *[(0.4, 1e-3), (0.4, 3.0), (1.0, 0.1), (1.0, 0.5), (1.0, 1e17), (4.0, 1.0), (19.0, 30.0)],
    *[(25.0, 0.2), (25.0, 7.0), (500.0, 2.0)],
]


@pytest.fixture(scope="module")
def counts_of_all_laws() -> np.ndarray:
    """Counts (laws, draws); genes of all laws take turns, in cells of two levels and depths."""
    mean, size = np.tile(LAWS, (400, 1)).T
    level = np.arange(BLOCK_CELLS) % 2
    offset = np.linspace(-0.5, 0.5, BLOCK_CELLS)
    offset[128:] = 0.0
    log_mean = np.log(mean) + np.array([[0.0], [0.2]])
    counts = draw_block(np.random.default_rng(8), log_mean, size, level, offset).toarray()
    plain = counts[128::2]  # level 0 and no offset: the law as it is given
    return plain.reshape(-1, len(LAWS)).T


@pytest.mark.parametrize("law", range(len(LAWS)), ids=[f"{m:g}-{s:g}" for m, s in LAWS])
def test_blocks_follow_the_probabilities(law: int, counts_of_all_laws: np.ndarray) -> None:
    assert_law(counts_of_all_laws[law], *LAWS[law])


@pytest.mark.parametrize(("mean", "size"), [(0.15, 0.7), (1.0, 0.7), (15.0, 0.7)])
def test_levels_and_offsets_multiply_the_mean(mean: float, size: float) -> None:
    log_mean = np.log(mean) + np.tile([[0.0], [0.5], [-1.0]], (1, 3_000))
    level = np.arange(60) % 3
    offset = 0.3 * (np.arange(60) % 2)
    rng = np.random.default_rng(3)
    counts = draw_block(rng, log_mean, np.full(3_000, size), level, offset).toarray()
    for cells in range(6):
        expected = np.exp(log_mean[level[cells], 0] + offset[cells])
        assert_law(counts[cells::6].ravel(), expected, size)


def assert_law(counts: np.ndarray, mean: float, size: float) -> None:
    """Chi-square test of counts against the probabilities, in bins of 20 expected or more."""
    law = stats.poisson(mean) if size > 1e12 else stats.nbinom(size, 1 / (1 + mean / size))
    below = law.cdf(np.arange(counts.max() + 1))
    edges = [0]
    for y, probability in enumerate(below, start=1):
        reached = law.cdf(edges[-1] - 1) if edges[-1] else 0.0
        if len(counts) * min(probability - reached, 1 - probability) >= 20:
            edges.append(y)
    cumulative = np.append(np.where(np.array(edges) > 0, law.cdf(np.array(edges) - 1), 0), 1)
    observed = np.bincount(np.searchsorted(edges, counts, side="right") - 1, minlength=len(edges))
    assert len(edges) > 1
    assert stats.chisquare(observed, len(counts) * np.diff(cumulative)).pvalue > 1e-3


@pytest.mark.parametrize("mean", [0.2, 1.0])
def test_neighbours_are_independent(mean: float) -> None:
    log_mean, n = np.full((BLOCK_CELLS, 1_000), np.log(mean)), BLOCK_CELLS * 1_000
    counts = draw_block(np.random.default_rng(2), log_mean, np.full(1_000, 0.5)).toarray()
    centred = counts - counts.mean()
    bound = STANDARD_ERRORS * centred.var() / np.sqrt(n)
    for shift in (1, 2, 63, 64, 65):
        assert abs((centred[:, shift:] * centred[:, :-shift]).sum() / n) < bound
        assert abs((centred[shift:] * centred[:-shift]).sum() / n) < bound


def test_points_are_clusters_of_the_logarithmic_series() -> None:
    x = 3.0
    places = (np.arange(200_000) + 0.5) / 200_000 * x
    sizes = np.array([cluster(place, x) for place in places])
    share = np.bincount(sizes, minlength=5)[1:5] / (sizes > 0).sum()
    np.testing.assert_allclose(share, stats.logser(x / (1 + x)).pmf([1, 2, 3, 4]), atol=2e-5)
    assert (sizes > 0).mean() * x == pytest.approx(np.log1p(x), abs=2e-5)


def test_the_uniform_numbers_are_those_of_xoshiro() -> None:
    state, values = np.array([1, 2, 3, 4], dtype=np.uint64), np.empty(5)
    fill_uniform(state, values)
    # the first outputs from this state, as the tests of other implementations list them
    words = [41943041, 58720359, 3588806011781223, 3591011842654386, 9228616714210784205]
    np.testing.assert_array_equal(values, [(word >> 11) * 2.0**-53 for word in words])


def test_library_size_scales_the_expected_counts() -> None:
    simulation = simulate_counts(spec(n_cells=8_000, subject_variance=0, n_de_genes=0), seed=2)
    log_libsize = np.log(simulation.adata.obs["libsize"].to_numpy())
    expected = np.exp(log_libsize - log_libsize.mean())
    total = dense(simulation).sum(axis=1)
    per_cell = simulation.adata.var["mean"].sum()
    slope, intercept = np.polyfit(expected * per_cell, total, 1)
    assert slope == pytest.approx(1, abs=0.03)
    assert intercept == pytest.approx(0, abs=0.03 * per_cell)
    assert log_libsize.std() == pytest.approx(0.5, abs=0.02)
    assert np.exp(log_libsize.mean()) == pytest.approx(per_cell)


def test_one_library_size_for_all_where_not_adjusted() -> None:
    reference = reference_adata()
    simulation = simulate_counts(spec(reference=reference, adjust_libsize=False), seed=2)
    total = np.asarray(reference.X.sum(axis=1)).ravel()
    libsize = simulation.adata.obs["libsize"]
    assert libsize.nunique() == 1
    # 600 of 400 cells: the mean is that of a draw from the totals
    assert libsize.iloc[0] == pytest.approx(
        total.mean(), abs=STANDARD_ERRORS * total.std() / np.sqrt(600)
    )


@pytest.mark.parametrize("variance", [0.05, 0.4])
def test_subject_variance_is_recovered(variance: float) -> None:
    n_subjects, n_genes = 40, 200
    wanted = spec(
        reference=loud_reference(n_genes),
        n_cells=8_000,
        n_genes=n_genes,
        n_subjects=n_subjects,
        n_cell_types=2,
        n_de_genes=0,
        adjust_libsize=False,
        subject_variance=variance,
    )
    simulation = simulate_counts(wanted, seed=7)
    effects = log_means_by(simulation, ["subject"])
    assert len(effects) == n_subjects
    estimate = effects.var(axis=0, ddof=1).mean()
    error = variance * np.sqrt(2 / ((n_subjects - 1) * n_genes))
    noise = 0.5 / 200  # of a log mean: 1 / size over the 200 cells of a subject
    assert estimate == pytest.approx(variance + noise, abs=STANDARD_ERRORS * error + 0.2 * noise)


def test_subject_cell_type_variance_is_recovered() -> None:
    wanted = spec(
        reference=loud_reference(200),
        n_cells=8_000,
        n_genes=200,
        n_subjects=20,
        n_cell_types=2,
        n_de_genes=0,
        adjust_libsize=False,
        subject_variance=0,
        subject_cell_type_variance=0.3,
    )
    effects = log_means_by(simulate_counts(wanted, seed=8), ["subject", "cell_type"])
    first, second = (effects.xs(name, level="cell_type") for name in ("type1", "type2"))
    error = np.sqrt(2 / (19 * 200))
    assert effects.var(axis=0, ddof=1).mean() == pytest.approx(0.3, abs=0.3 * 4.5 * error + 0.003)
    # without a subject component the two types of a subject do not go together
    together = np.mean((first - first.mean()) * (second - second.mean()))
    assert together == pytest.approx(0, abs=STANDARD_ERRORS * 0.3 / np.sqrt(20 * 200))


def test_subject_and_cell_type_effects_are_independent() -> None:
    wanted = spec(
        reference=loud_reference(400),
        n_cells=2_000,
        n_genes=400,
        n_subjects=2,
        n_cell_types=2,
        n_de_genes=0,
        adjust_libsize=False,
        subject_variance=0.3,
        subject_cell_type_variance=0.3,
    )
    effects = log_means_by(simulate_counts(wanted, seed=8), ["subject", "cell_type"]).to_numpy()
    # the first level of each component: e = a + b1 and f = a + b2, so that cov(e - f, f) = -var(b)
    covariance = np.cov(effects[0] - effects[1], effects[1])[0, 1]
    assert covariance == pytest.approx(-0.3, abs=STANDARD_ERRORS * np.sqrt(0.6 * 0.6 + 0.09) / 20)


def test_one_subject_has_one_effect_in_all_its_cells() -> None:
    wanted = spec(
        reference=loud_reference(50),
        n_cells=20_000,
        n_genes=50,
        n_subjects=4,
        nested=False,
        n_cell_types=2,
        n_de_genes=0,
        adjust_libsize=False,
    )
    effects = log_means_by(simulate_counts(wanted, seed=8), ["subject", "condition"])
    difference = effects.xs("A", level="condition") - effects.xs("B", level="condition")
    assert np.abs(difference.to_numpy()).max() < 6 * np.sqrt(2 * 0.5 / 2_500)


def loud_reference(n_genes: int) -> ad.AnnData:
    """A reference of high means, so that the log of a mean over cells has little noise."""
    rng = np.random.default_rng(0)
    counts = draw_negative_binomial(rng, np.full((3_000, n_genes), 300.0), np.full(n_genes, 2.0))
    return ad.AnnData(
        sparse.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(index=[f"c{i}" for i in range(3_000)]),
        var=pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]),
    )


def log_means_by(simulation: Simulation, by: list[str]) -> pd.DataFrame:
    """Log of the mean count per group, minus that of the gene."""
    relative = dense(simulation) / simulation.adata.var["mean"].to_numpy()
    keys = [simulation.adata.obs[name] for name in by]
    return np.log(
        pd.DataFrame(relative, index=simulation.adata.obs_names).groupby(keys, observed=True).mean()
    )


# --- determinism ----------------------------------------------------------------------------------


def test_same_seed_same_simulation_other_seed_other_counts() -> None:
    first, again, other = (simulate_counts(spec(), seed=seed) for seed in (4, 4, 5))
    assert_same(first, again)
    assert (first.adata.X != other.adata.X).nnz > 0


@pytest.mark.parametrize("chunk_cells", [1, BLOCK_CELLS, BLOCK_CELLS + 1, 10**6])
def test_chunks_do_not_change_the_counts(chunk_cells: int) -> None:
    wanted = spec(n_cells=2 * BLOCK_CELLS + 17, subject_cell_type_variance=0.2)
    assert_same(
        simulate_counts(wanted, seed=4), simulate_counts(wanted, seed=4, chunk_cells=chunk_cells)
    )


@pytest.mark.parametrize("threads", [1, 5])
def test_threads_do_not_change_the_counts(threads: int) -> None:
    wanted = spec(n_cells=4 * BLOCK_CELLS, subject_cell_type_variance=0.2)
    assert_same(simulate_counts(wanted, seed=4), simulate_counts(wanted, seed=4, threads=threads))


def test_null_genes_keep_their_counts_where_the_genes_are_drawn_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "GENES", 8)
    null = simulate_counts(spec(n_de_genes=0), seed=4)
    some = simulate_counts(spec(n_de_genes=11, max_log_fc=2.0), seed=4)
    np.testing.assert_array_equal(dense(null)[:, :-11], dense(some)[:, :-11])
    assert (dense(null)[:, -11:] != dense(some)[:, -11:]).any()


def test_effects_that_are_not_kept_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = spec(subject_cell_type_variance=0.2)
    expected = simulate_counts(wanted, seed=4)
    monkeypatch.setattr(plan, "KEPT_EFFECTS", 1)
    assert_same(simulate_counts(wanted, seed=4), expected)


def test_calls_come_back_in_order_and_few_are_ahead() -> None:
    begun: list[int] = []
    with ThreadPoolExecutor(3) as pool:
        for taken, result in enumerate(writer.in_order(pool, str, counted(begun, 20), 4)):
            assert result == str(taken)
            assert len(begun) <= taken + 4
    assert len(begun) == 20


def counted(begun: list[int], n: int) -> Iterator[int]:
    for item in range(n):
        begun.append(item)
        yield item


def test_seed_may_be_a_sequence_and_is_left_as_it_was() -> None:
    root = np.random.SeedSequence([3, 1, 4])
    first, again = simulate_counts(spec(), root), simulate_counts(spec(), root)
    assert_same(first, again)
    assert_same(first, simulate_counts(spec(), [3, 1, 4]))
    assert root.n_children_spawned == 0


def test_de_genes_and_variances_leave_the_cells_as_they_are() -> None:
    plain = simulate_counts(spec(), seed=4)
    changed = simulate_counts(spec(n_de_genes=30, subject_variance=1.0, direction="up"), seed=4)
    pd.testing.assert_frame_equal(plain.adata.obs, changed.adata.obs)
    pd.testing.assert_frame_equal(plain.adata.var, changed.adata.var)


def test_null_genes_keep_their_counts_whatever_the_de_genes_do() -> None:
    null = simulate_counts(spec(n_de_genes=0), seed=4)
    some = simulate_counts(spec(n_de_genes=9, max_log_fc=2.0), seed=4)
    np.testing.assert_array_equal(dense(null)[:, :-9], dense(some)[:, :-9])
    assert (dense(null)[:, -9:] != dense(some)[:, -9:]).any()
    assert len(null.truth) == 0


def test_effects_of_a_level_do_not_depend_on_its_company() -> None:
    root = np.random.SeedSequence(1)
    together = draw_effects(root, np.arange(5), 7, 0.5)
    np.testing.assert_array_equal(draw_effects(root, np.array([3, 1]), 7, 0.5), together[[3, 1]])
    assert len(np.unique(together)) == together.size


def sheets(simulation: Simulation) -> tuple[pd.DataFrame, pd.DataFrame]:
    return simulation.adata.obs, simulation.adata.var


def assert_same(first: Simulation, second: Simulation) -> None:
    np.testing.assert_array_equal(dense(first), dense(second))
    # names read from a file are `str` in pandas 3, those in memory may be objects
    for ours, theirs in zip(sheets(first), sheets(second), strict=True):
        pd.testing.assert_frame_equal(ours, theirs, check_index_type=False)
    pd.testing.assert_frame_equal(first.truth, second.truth)


# --- files ----------------------------------------------------------------------------------------


def test_file_holds_what_memory_holds(tmp_path: Path) -> None:
    wanted = spec(n_cells=3 * BLOCK_CELLS + 5)
    memory = simulate_counts(wanted, seed=4)
    disk = simulate_counts(wanted, seed=4, path=tmp_path / "s.h5ad", chunk_cells=BLOCK_CELLS)
    assert disk.path == tmp_path / "s.h5ad" and disk.adata.isbacked
    assert_same(memory, disk)
    disk.adata.file.close()
    read = ad.read_h5ad(tmp_path / "s.h5ad")
    assert read.X.format == "csr" and read.X.dtype == np.float32
    assert [p.name for p in tmp_path.iterdir()] == ["s.h5ad"]


def test_file_is_made_of_gzip_chunks_that_h5py_reads(tmp_path: Path) -> None:
    wanted = spec(n_cells=3 * BLOCK_CELLS + 5, n_genes=300)
    expected = simulate_counts(wanted, seed=4).adata.X
    simulate_counts(wanted, seed=4, path=tmp_path / "s.h5ad").adata.file.close()
    with h5py.File(tmp_path / "s.h5ad") as file:
        stored = file["X"]
        assert dict(stored.attrs)["encoding-type"] == "csr_matrix"
        for name, dtype in (("data", "f4"), ("indices", "i4"), ("indptr", "i8")):
            np.testing.assert_array_equal(stored[name][:], getattr(expected, name))
            assert stored[name].compression == "gzip" and stored[name].dtype == dtype
        assert stored["data"].chunks == stored["indices"].chunks == (CHUNK,)
        assert stored["data"].id.get_num_chunks() == expected.nnz // CHUNK + 1 > 2


@pytest.mark.parametrize("n_stored", [0, CHUNK])
def test_files_without_counts_or_with_full_chunks_only(n_stored: int, tmp_path: Path) -> None:
    matrix = sparse.csr_matrix(np.arange(1, n_stored + 1, dtype=np.float32).reshape(1, -1))
    matrix.resize((3, CHUNK))
    sheet = ad.AnnData(obs=pd.DataFrame(index=list("abc")), shape=matrix.shape)
    with ThreadPoolExecutor(1) as pool:
        written = writer.write_cells(sheet, iter([matrix]), pool, tmp_path / "s.h5ad")
    assert (written.X[:] != matrix).nnz == 0


def test_file_explains_itself(tmp_path: Path) -> None:
    simulation = simulate_counts(spec(), seed=4, path=tmp_path / "s.h5ad")
    simulation.adata.file.close()
    about = ad.read_h5ad(tmp_path / "s.h5ad").uns["flashmm"]
    truth = about["truth"].reset_index(drop=True)
    pd.testing.assert_frame_equal(truth, simulation.truth, check_dtype=False)
    np.testing.assert_array_equal(about["reference"]["mean"], simulation.reference["mean"])
    assert about["treated"] == "B"
    assert json.loads(about["spec"]) == simulation.spec.describe()
    assert json.loads(about["provenance"])["seed"] == 4
    assert list(about["notes"]) == []


def test_memory_can_be_written_too_without_de_genes(tmp_path: Path) -> None:
    simulation = simulate_counts(spec(n_de_genes=0), seed=[4, 2])
    simulation.adata.write_h5ad(tmp_path / "s.h5ad")
    about = ad.read_h5ad(tmp_path / "s.h5ad").uns["flashmm"]
    assert list(about["truth"].columns) == ["gene", "cell_type", "log_fc"]
    assert len(about["truth"]) == 0


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        simulate_counts(spec(), seed=4, path=tmp_path / name).adata.file.close()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_names_the_digest_of_its_reference(tmp_path: Path) -> None:
    path = tmp_path / "reference.h5ad"
    reference_adata().write_h5ad(path)
    simulation = simulate_counts(spec(reference=path), seed=np.random.SeedSequence(7))
    made = json.loads(simulation.adata.uns["flashmm"]["provenance"])
    assert made["reference_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert made["seed"] == {"entropy": 7, "spawn_key": []}


def test_an_interrupted_run_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = tmp_path / "s.h5ad"
    older.write_text("older")
    left = iter([draw_block, draw_block])

    def interrupted(*arguments: Any) -> Any:
        for draw in left:
            return draw(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "draw_block", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simulate_counts(spec(), 4, path=older, chunk_cells=BLOCK_CELLS)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("s.h5ad", "older")]


def test_progress_is_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    simulate_counts(spec(), seed=4, progress=False)
    assert capsys.readouterr().err == ""
    simulate_counts(spec(), seed=4, progress=True)
    assert "600/600" in capsys.readouterr().err


# --- structure ------------------------------------------------------------------------------------


def test_the_result_is_an_anndata_of_whole_counts() -> None:
    simulation = simulate_counts(spec(), seed=4)
    adata = simulation.adata
    assert adata.shape == (600, 40) and sparse.issparse(adata.X) and adata.X.dtype == np.float32
    assert adata.X.data.min() >= 1 and np.all(adata.X.data == np.round(adata.X.data))
    assert list(adata.obs.columns) == ["subject", "cell_type", "condition", "libsize"]
    assert all(adata.obs[name].dtype == "category" for name in adata.obs.columns[:3])
    assert list(adata.var.columns) == ["mean", "dispersion"]
    assert adata.obs_names.is_unique and adata.var_names.is_unique
    assert simulation.treated == "B" and simulation.notes == ()


def test_defaults() -> None:
    simulation = simulate_counts(SimulationSpec(n_cells=3_000), seed=4)
    assert simulation.adata.shape == (3_000, 1_000)
    counts = simulation.adata.obs.nunique()
    assert (counts["subject"], counts["cell_type"], counts["condition"]) == (25, 10, 2)
    assert simulation.truth["cell_type"].value_counts().tolist() == [1] * 10
    assert list(simulation.truth["gene"]) == list(simulation.adata.var_names[-10:])


def test_nested_subjects_have_one_condition_and_are_split_evenly() -> None:
    cells = draw_metadata(np.random.default_rng(1), 5_000, 11, 3, n_conditions=3)
    table = pd.crosstab(cells["subject"], cells["condition"])
    assert ((table > 0).sum(axis=1) == 1).all()
    assert (table > 0).sum().tolist() == [4, 4, 3]
    assert stats.chisquare(table.sum()).pvalue > 1e-3
    assert stats.chisquare(cells["cell_type"].value_counts()).pvalue > 1e-3


def test_crossed_subjects_have_all_conditions() -> None:
    cells = draw_metadata(np.random.default_rng(1), 5_000, 12, 3, nested=False)
    table = pd.crosstab(cells["subject"], [cells["condition"], cells["cell_type"]])
    assert table.shape == (12, 6) and (table > 0).all(axis=None)
    assert list(table.index[[0, 11]]) == ["S01", "S12"]
    assert stats.chisquare(table.to_numpy().ravel()).pvalue > 1e-3


def test_levels_without_cells_are_dropped_and_reported() -> None:
    with pytest.warns(FlashmmWarning, match=r"no cell was drawn for subject .* and 38 more"):
        simulation = simulate_counts(
            spec(n_cells=4, n_subjects=50, n_cell_types=1, nested=False, n_de_genes=0), seed=6
        )
    subjects = simulation.adata.obs["subject"]
    assert len(simulation.notes) == 1
    assert set(subjects.cat.categories) == set(subjects)


def test_a_truth_that_cannot_show_is_reported() -> None:
    cells = metadata()
    cells = cells[(cells["cell_type"] != "T cells") | (cells["condition"] == "ctrl")]
    with pytest.warns(FlashmmWarning, match="'T cells' has DE genes.*no treated cells"):
        simulate_counts(spec(metadata=cells, n_cells=None), seed=4)


# --- DE genes -------------------------------------------------------------------------------------


def test_effects_act_in_treated_cells_of_the_type_only() -> None:
    wanted = spec(
        reference=loud_reference(40),
        n_cells=30_000,
        subject_variance=0,
        adjust_libsize=False,
        n_conditions=3,
        treated="B",
        n_de_genes=None,
        n_de_by_type={"type1": 4, "type3": 5},
    )
    simulation = simulate_counts(wanted, seed=9)
    log_mean = log_means_by(simulation, ["cell_type", "condition"])
    expected = pd.DataFrame(0.0, index=log_mean.index, columns=simulation.adata.var_names)
    for gene, cell_type, log_fc in simulation.truth.itertuples(index=False):
        expected.loc[(cell_type, "B"), gene] = log_fc
    error = np.sqrt(0.5 / (30_000 / 9))
    assert np.abs(log_mean.to_numpy() - expected.to_numpy()).max() < 5.5 * error
    assert simulation.treated == "B" and len(simulation.truth) == 9


def test_number_of_de_genes_by_type() -> None:
    by_type = {"type3": 4, "type1": 2}
    truth = simulate_counts(spec(n_de_by_type=by_type, n_de_genes=6), seed=4).truth
    assert truth["cell_type"].value_counts().to_dict() == by_type
    assert truth["gene"].is_unique


@pytest.mark.parametrize("proportions", [{"type1": 2, "type2": 1}, [2 / 3, 1 / 3, 0]])
def test_number_of_de_genes_by_proportion(proportions: Any) -> None:
    truth = simulate_counts(spec(de_proportions=proportions), seed=4).truth
    assert truth["cell_type"].value_counts().to_dict() == {"type1": 6, "type2": 3}


def test_apportion_is_exact_within_one_and_fair() -> None:
    rng = np.random.default_rng(1)
    weights = np.array([0.5, 0.3, 0.15, 0.05, 0.0])
    draws = np.array([apportion(rng, 7, weights) for _ in range(4_000)])
    shares = 7 * weights
    assert (draws.sum(axis=1) == 7).all() and (draws[:, 4] == 0).all()
    assert (np.abs(draws - shares) < 1).all()
    assert np.abs(draws.mean(axis=0) - shares).max() < STANDARD_ERRORS * 0.5 / np.sqrt(4_000)


@pytest.mark.parametrize(
    ("direction", "signs"), [("up", {1.0}), ("down", {-1.0}), ("both", {1.0, -1.0})]
)
def test_direction_and_range_of_the_effects(direction: str, signs: set[float]) -> None:
    log_fc = draw_log_fc(np.random.default_rng(1), 4_000, direction, 0.5, 0.8)
    assert set(np.sign(log_fc)) == signs
    assert stats.kstest(np.abs(log_fc), stats.uniform(0.5, 0.3).cdf).pvalue > 1e-3
    if direction == "both":
        assert stats.binomtest(int((log_fc > 0).sum()), 4_000).pvalue > 1e-3


def test_direction_reaches_the_truth() -> None:
    down = simulate_counts(spec(direction="down", min_log_fc=0.7, max_log_fc=0.7), seed=4)
    np.testing.assert_allclose(down.truth["log_fc"], -0.7)


# --- reference ------------------------------------------------------------------------------------


def test_reference_parameters_are_the_moments() -> None:
    counts = reference_adata().X.toarray().astype(float)
    counts[:, 0] = 0  # no counts
    counts[:, 1] = 1  # variance 0
    mean, size = reference_parameters(len(counts), counts.sum(axis=0), (counts**2).sum(axis=0))
    variance = counts.var(axis=0, ddof=1)
    np.testing.assert_allclose(mean, counts.mean(axis=0), rtol=1e-14)
    assert np.isnan(size[:2]).all()
    np.testing.assert_allclose(size[2:], mean[2:] ** 2 / (variance[2:] - mean[2:]), rtol=1e-12)


def test_resample_replaces_only_where_it_must() -> None:
    rng = np.random.default_rng(1)
    np.testing.assert_array_equal(resample(rng, 5, 5), np.arange(5))
    assert len(set(resample(rng, 9, 5))) == 5
    assert set(resample(rng, 5, 200)) == set(range(5))


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_the_form_of_the_reference_does_not_matter(form: Any, dtype: Any, tmp_path: Path) -> None:
    reference = reference_adata()
    expected = simulate_counts(spec(reference=reference, n_genes=None), seed=4)
    other = reference.copy()
    other.X = form(reference.X.astype(dtype))
    other.write_h5ad(tmp_path / "reference.h5ad")
    for given in (other, tmp_path / "reference.h5ad", str(tmp_path / "reference.h5ad")):
        assert_same(simulate_counts(spec(reference=given, n_genes=None), seed=4), expected)


def test_a_dense_and_a_backed_reference(tmp_path: Path) -> None:
    reference = reference_adata()
    expected = simulate_counts(spec(reference=reference), seed=4)
    reference.write_h5ad(tmp_path / "reference.h5ad")
    backed = ad.read_h5ad(tmp_path / "reference.h5ad", backed="r")
    assert_same(simulate_counts(spec(reference=backed), seed=4), expected)
    backed.file.close()
    reference.X = reference.X.toarray()
    assert_same(simulate_counts(spec(reference=reference), seed=4), expected)


def test_a_reference_with_split_entries_is_summed_and_left_untouched() -> None:
    reference = reference_adata()
    expected = simulate_counts(spec(reference=reference), seed=4)
    whole = reference.X.tocoo()
    halves = [np.ceil(whole.data / 2), np.floor(whole.data / 2)]
    order = np.argsort(np.tile(whole.row, 2), kind="stable")
    split = sparse.csr_matrix(
        (np.concatenate(halves)[order], np.tile(whole.col, 2)[order], 2 * reference.X.indptr),
        shape=reference.shape,
    )
    reference.X = split
    assert_same(simulate_counts(spec(reference=reference), seed=4), expected)
    assert reference.X.nnz == 2 * whole.nnz


def test_reference_without_other_numbers_is_taken_as_it_is() -> None:
    reference = reference_adata()
    simulation = simulate_counts(spec(reference=reference, n_genes=None, n_cells=None), seed=4)
    assert simulation.adata.shape == reference.shape
    assert list(simulation.adata.var_names) == list(reference.var_names)
    np.testing.assert_allclose(
        simulation.adata.obs["libsize"], np.asarray(reference.X.sum(axis=1)).ravel()
    )
    assert list(simulation.reference.columns) == ["gene", "mean", "dispersion"]
    np.testing.assert_array_equal(simulation.reference["mean"], simulation.adata.var["mean"])


def test_fewer_genes_and_cells_are_drawn_without_replacement() -> None:
    reference = reference_adata()
    simulation = simulate_counts(spec(reference=reference, n_genes=12, n_cells=50), seed=4)
    names = simulation.adata.var_names
    assert len(set(names)) == 12 and set(names) < set(reference.var_names)
    means = simulation.reference.set_index("gene")["mean"]
    np.testing.assert_array_equal(simulation.adata.var["mean"], means[names])
    total = np.asarray(reference.X.sum(axis=1)).ravel()
    pool, drawn = (pd.Series(x).value_counts() for x in (total, simulation.adata.obs["libsize"]))
    assert (drawn <= pool.reindex(drawn.index).fillna(0)).all()


def test_more_genes_are_drawn_with_replacement_and_named_apart() -> None:
    simulation = simulate_counts(spec(reference=reference_adata(), n_genes=100), seed=4)
    var = simulation.adata.var
    assert var.index.is_unique and var["reference_gene"].duplicated().any()
    means = simulation.reference.set_index("gene")["mean"]
    np.testing.assert_array_equal(var["mean"], means[var["reference_gene"]])


def test_genes_and_cells_that_cannot_serve_are_left_out_and_reported() -> None:
    reference = reference_adata()
    counts = reference.X.toarray()
    counts[:, 3] = 0
    counts[:, [5, 6]] = 1
    counts[7] = 0
    reference.X = sparse.csr_matrix(counts)
    with pytest.warns(FlashmmWarning) as caught:
        simulation = simulate_counts(spec(reference=reference, n_genes=None, n_cells=None), seed=4)
    assert simulation.notes == tuple(str(warning.message) for warning in caught)
    genes, cells = simulation.notes
    assert "3 of 30 genes left out (1 without counts, 2 with variance <= mean)" in genes
    assert "1 cells without counts" in cells
    assert simulation.adata.shape == (399, 27)
    assert not {"ref3", "ref5", "ref6"} & set(simulation.adata.var_names)


@pytest.mark.parametrize("path", [None, *real_counts("kang2")], ids=lambda path: path and path.stem)
def test_simulation_from_counts_of_an_experiment(path: Path | None, tmp_path: Path) -> None:
    if path is None:
        path = tmp_path / "simulated.h5ad"
        blood_cells().write_h5ad(path)
    real = ad.read_h5ad(path)
    n_genes = real.n_vars - 1  # one varies too little
    wanted = SimulationSpec(
        reference=path, metadata=real.obs, n_genes=None, n_de_genes=50, subject_variance=0
    )
    with pytest.warns(FlashmmWarning, match=f"1 of {real.n_vars} genes left out"):
        simulation = simulate_counts(wanted, seed=4)
    obs = simulation.adata.obs
    assert simulation.adata.shape == (real.n_obs, n_genes)
    assert simulation.treated == "stim" and list(obs.index) == list(real.obs_names)
    for name in ("subject", "cell_type", "condition"):
        assert list(obs[name]) == list(real.obs[name])
        assert list(obs[name].cat.categories) == list(real.obs[name].cat.categories)
    np.testing.assert_allclose(obs["libsize"], real.obs["libsize"])
    # the offset is centred on the log scale, so means rise by the mean of its exponential
    rise = np.exp(np.log(obs["libsize"]) - np.log(obs["libsize"]).mean()).mean()
    null = np.arange(n_genes) < n_genes - 50
    ratio = dense(simulation)[:, null].sum() / simulation.adata.var["mean"][null].sum() / len(obs)
    assert ratio == pytest.approx(rise, rel=0.02)


# --- metadata -------------------------------------------------------------------------------------


def test_given_metadata_are_kept() -> None:
    given = metadata()
    simulation = simulate_counts(spec(metadata=given, n_cells=None), seed=4)
    obs = simulation.adata.obs
    assert list(obs.index) == list(given.index)
    assert list(obs.columns) == ["subject", "cell_type", "condition", "libsize", "age"]
    assert list(obs["subject"].cat.categories) == [str(number) for number in range(100, 106)]
    np.testing.assert_array_equal(obs["libsize"], given["libsize"])
    np.testing.assert_array_equal(obs["age"], given["age"])
    assert simulation.treated == "stim"
    pd.testing.assert_frame_equal(given, metadata())


@pytest.mark.parametrize("n_cells", [40, 500])
def test_given_metadata_are_resampled(n_cells: int) -> None:
    given = metadata()
    obs = simulate_counts(spec(metadata=given, n_cells=n_cells), seed=4).adata.obs
    assert len(obs) == n_cells and obs.index.is_unique
    rows = given.set_index("libsize").loc[obs["libsize"]]
    assert list(rows["age"]) == list(obs["age"])
    assert obs["libsize"].is_unique == (n_cells < len(given))


def test_declared_order_of_categories_is_kept_and_treated_is_the_last_sorted() -> None:
    given = metadata()
    given["condition"] = pd.Categorical(given["condition"], ["stim", "unused", "ctrl"])
    wanted = spec(metadata=given, n_cells=None)
    assert wanted.conditions == ["stim", "ctrl"]
    simulation = simulate_counts(wanted, seed=4)
    assert list(simulation.adata.obs["condition"].cat.categories) == ["stim", "ctrl"]
    assert simulation.treated == "stim"


def test_library_sizes_of_metadata_without_them_come_from_the_same_cells() -> None:
    reference = reference_adata(n_cells=90)
    total = pd.Series(np.asarray(reference.X.sum(axis=1)).ravel(), reference.obs_names)
    given = metadata().drop(columns="libsize")
    drawn = simulate_counts(spec(reference=reference, metadata=given, n_cells=None), seed=4)
    np.testing.assert_array_equal(drawn.adata.obs["libsize"], total)  # 90 totals in their order
    given.index = reference.obs_names[::-1]
    paired = simulate_counts(spec(reference=reference, metadata=given, n_cells=None), seed=4)
    np.testing.assert_array_equal(paired.adata.obs["libsize"], total[given.index])


# --- refusals -------------------------------------------------------------------------------------

INVALID: list[tuple[dict[str, Any], str]] = [
    ({"n_genes": 0}, "n_genes"),
    ({"n_genes": 10.0}, "n_genes"),
    ({"n_cells": -1}, "n_cells"),
    ({"n_cells": True}, "n_cells"),
    ({"n_subjects": 0}, "n_subjects"),
    ({"n_subjects": 1}, "nested in 2 conditions"),
    ({"n_cell_types": 0}, "n_cell_types"),
    ({"n_cell_types": "3"}, "n_cell_types"),
    ({"n_conditions": 0}, "n_conditions"),
    ({"n_conditions": 27, "n_subjects": 30}, "at most 26"),
    ({"n_conditions": 1}, "need two conditions"),
    ({"n_de_genes": -1}, "n_de_genes"),
    ({"n_de_by_type": {"type9": 1}}, "no cell type 'type9'"),
    ({"n_de_by_type": {"type1": -1}}, r"n_de_by_type\['type1'\]"),
    ({"n_de_by_type": [1, 2, 3]}, "mapping"),
    ({"n_de_by_type": {"type1": 1}}, "does not equal the sum"),
    ({"n_de_by_type": {"type1": 9}, "de_proportions": [1, 0, 0]}, "not both"),
    ({"de_proportions": [0.5, 0.5]}, "2 numbers for 3 cell types"),
    ({"de_proportions": [0.5, -0.5, 1]}, "de_proportions"),
    ({"de_proportions": [0, 0, 0]}, "above zero"),
    ({"de_proportions": {"B": 1}}, "no cell type 'B'"),
    ({"de_proportions": 0.5}, "numbers per cell type"),
    ({"direction": "sideways"}, "direction"),
    ({"min_log_fc": -0.5}, "min_log_fc"),
    ({"max_log_fc": np.inf}, "max_log_fc"),
    ({"min_log_fc": 2.0}, "min_log_fc, max_log_fc"),
    ({"min_log_fc": 0, "max_log_fc": 0}, "min_log_fc, max_log_fc"),
    ({"subject_variance": -0.1}, "subject_variance"),
    ({"subject_variance": np.nan}, "subject_variance"),
    ({"subject_cell_type_variance": "0.1"}, "subject_cell_type_variance"),
    ({"treated": "C"}, "no condition 'C'"),
    ({"nested": "yes"}, "nested"),
    ({"adjust_libsize": 1}, "adjust_libsize"),
    ({"reference": 3}, "reference"),
    ({"metadata": "cells.tsv"}, "metadata"),
    ({"metadata": metadata().iloc[:0]}, "metadata"),
    ({"metadata": metadata().drop(columns=["subject", "condition"])}, "'subject', 'condition'"),
    ({"metadata": metadata().assign(subject=[None, *range(89)])}, "'subject' has 1 missing"),
    ({"metadata": metadata().assign(libsize="many")}, "must hold numbers"),
    ({"metadata": metadata().assign(libsize=0.0)}, "90 values that are not positive"),
    ({"metadata": metadata(), "treated": "B"}, "no condition 'B'"),
]


@pytest.mark.parametrize(("changed", "said"), INVALID)
def test_an_invalid_spec_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        spec(**changed)


def test_all_genes_may_be_de() -> None:
    wanted = spec(n_de_genes=40, min_log_fc=3, max_log_fc=3, direction="up", subject_variance=0)
    simulation = simulate_counts(wanted, seed=4)
    obs = simulation.adata.obs
    responds = (
        simulation.truth["cell_type"].to_numpy() == obs["cell_type"].to_numpy()[:, None]
    ) & (obs["condition"] == "B").to_numpy()[:, None]
    relative = dense(simulation) / simulation.adata.var["mean"].to_numpy()
    ratio = relative[responds].mean() / relative[~responds].mean()
    assert ratio == pytest.approx(np.exp(3), rel=0.1)


def test_one_condition_is_enough_without_de_genes() -> None:
    simulation = simulate_counts(spec(n_conditions=1, n_de_genes=0), seed=4)
    assert set(simulation.adata.obs["condition"]) == {"A"}


@pytest.mark.parametrize("seed", [None, -1, 1.5, "one"])
def test_an_invalid_seed_is_refused(seed: Any) -> None:
    with pytest.raises(InputError, match="seed"):
        simulate_counts(spec(), seed)


def test_more_de_genes_than_genes_are_refused() -> None:
    with pytest.raises(InputError, match="41 DE genes asked for among 40 genes"):
        simulate_counts(spec(n_de_genes=41), seed=4)


@pytest.mark.parametrize("name", ["chunk_cells", "threads"])
def test_no_cells_or_threads_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=name):
        simulate_counts(spec(), seed=4, **{name: 0})


@pytest.mark.parametrize("log_mean", [1e4, 25.0, 16.6])
def test_counts_that_float32_cannot_hold_are_refused(log_mean: float) -> None:
    with pytest.raises(OverflowError, match="count of"):
        draw_block(np.random.default_rng(1), np.full((50, 2), log_mean), np.array([0.5, 0.5]))


def test_variances_beyond_all_counts_are_refused() -> None:
    with pytest.raises(InputError, match="lower the variances"):
        simulate_counts(spec(subject_variance=500.0), seed=4)


@pytest.mark.parametrize(
    ("value", "said"),
    [(-1, "below 0"), (0.5, "not whole"), (np.nan, "not a number"), (np.inf, "infinite")],
)
def test_a_reference_that_is_not_counts_is_refused(value: float, said: str) -> None:
    reference = reference_adata()
    reference.X.data[7] = value
    with pytest.raises(InputError, match=f"reference: .*{said}"):
        simulate_counts(spec(reference=reference), seed=4)


def test_a_reference_without_use_is_refused(tmp_path: Path) -> None:
    reference = reference_adata()
    constant = ad.AnnData(sparse.csr_matrix(np.ones((5, 3), np.float32)))
    for given, said in [
        (reference[:1].copy(), "at least 2"),
        (constant, "no gene has a variance above its mean"),
        (ad.AnnData(obs=reference.obs, var=reference.var), "empty"),
        (tmp_path / "nowhere.h5ad", "nowhere"),
    ]:
        with pytest.raises(InputError, match=f"^reference: .*{said}"):
            simulate_counts(spec(reference=given), seed=4)


def test_a_truncated_reference_is_refused(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.h5ad", tmp_path / "cut.h5ad"
    reference_adata().write_h5ad(whole)
    cut.write_bytes(whole.read_bytes()[:5_000])
    with pytest.raises(InputError, match=r"^reference: .*cut\.h5ad' cannot be read"):
        simulate_counts(spec(reference=cut), seed=4)


def test_names_given_twice_are_refused() -> None:
    reference = reference_adata()
    reference.var_names = ["ref0", *reference.var_names[:-1]]
    with pytest.raises(InputError, match=r"^reference: .*'ref0'"):
        simulate_counts(spec(reference=reference), seed=4)


def test_cells_of_the_metadata_without_counts_are_refused() -> None:
    reference = reference_adata(n_cells=90)
    counts = reference.X.toarray()
    counts[7] = 0
    reference.X = sparse.csr_matrix(counts)
    given = metadata().drop(columns="libsize").set_axis(reference.obs_names, axis=0)
    with (
        pytest.raises(InputError, match="1 of the cells have no counts in the reference"),
        pytest.warns(FlashmmWarning, match="1 cells without counts"),
    ):
        simulate_counts(spec(reference=reference, metadata=given, n_cells=None), seed=4)
