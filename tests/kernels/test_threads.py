"""Genes in threads: the same bytes whatever the number of threads or the size of a block."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from threading import Event, current_thread
from typing import NamedTuple

import numpy as np
import oracle
import pytest

import flashmm as fm
from flashmm.inference import finish
from flashmm.kernels import dense, spectral, threads
from flashmm.kernels.rotation import Rotated, rotate_design
from flashmm.options import FitOptions

RESULTS = ("theta", "coef", "loglik", "fisher_information", "decrement", "n_iter", "cov")
TABLE = ("estimate", "std_error", "statistic", "df", "p_value", "log10_p", "conf_low", "status")
GENES = 23


class Pair(NamedTuple):
    first: np.ndarray
    second: np.ndarray


@pytest.fixture(params=[1, 2, 3])
def thread_count(request, monkeypatch):
    monkeypatch.setattr(threads, "thread_count", lambda: request.param)
    return request.param


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of two or three genes, so that small problems have many."""
    monkeypatch.setattr(dense, "PART_ELEMENTS", 500)
    monkeypatch.setattr(finish, "PART_TESTS", 10)


def statistics(components, n_genes=GENES):
    Y, X, Z = oracle.problem(7, genes=n_genes, components=min(components, 2))
    if components == 3:
        rng = np.random.default_rng(0)
        Z = [*Z, np.eye(3)[rng.integers(0, 3, len(Y))]]
    sizes = [z.shape[1] for z in Z]
    return fm.summary_statistics_from_matrices(Y, X, np.hstack(Z), component_sizes=sizes)


def bytes_of(fit):
    table = fm.contrast_tests(fit)
    arrays = [getattr(fit, name) for name in RESULTS]
    return [a.tobytes() for a in (*arrays, table.std_error, table.df, table.p_value, fit.score())]


@pytest.mark.parametrize("size", [1, 4, 100])
def test_parts_are_joined_in_order(thread_count, size):
    def part(rows):
        return Pair(np.arange(10)[rows], np.eye(10)[rows])

    first, second = threads.by_parts(part, size, 10)
    np.testing.assert_array_equal(first, np.arange(10))
    np.testing.assert_array_equal(second, np.eye(10))
    np.testing.assert_array_equal(threads.by_parts(lambda rows: part(rows).first, size, 10), first)
    assert isinstance(threads.by_parts(lambda rows: tuple(part(rows)), size, 10), tuple)


def test_no_genes_are_one_empty_part():
    assert threads.by_parts(lambda rows: np.ones((5, 2))[rows], 3, 0).shape == (0, 2)


def test_errors_of_a_part_are_raised(thread_count):
    def part(rows):
        raise ValueError(f"part {rows.start}")

    with pytest.raises(ValueError, match="part 0"):
        threads.by_parts(part, 2, 8)


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("engine, components", [("spectral", 1), ("dense", 2), ("dense", 3)])
@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
def test_threads_do_not_change_a_byte(engine, components, method, small_parts, monkeypatch):
    # threads take blocks of genes, or parts of a block
    stats, size, found = statistics(components, 11), 4 if engine == "spectral" else None, []
    for count in (1, 2, 3):
        monkeypatch.setattr(threads, "thread_count", lambda count=count: count)
        found.append(bytes_of(fm.fit_lmm(stats, method=method, engine=engine, block_size=size)))
    assert found[0] == found[1] == found[2]


@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
@pytest.mark.parametrize("ddf", ["kenward-roger", "kenward-roger-2", "satterthwaite"])
def test_threads_do_not_change_a_byte_of_a_table(ddf, small_parts, monkeypatch):
    """Several blocks of genes without a break, with gaps, and a joint contrast."""
    stats, found = statistics(1), []
    stats = replace(stats, yty=np.where(np.arange(GENES) % 9 == 5, np.nan, stats.yty))
    for count in (1, 2, 3):
        monkeypatch.setattr(threads, "thread_count", lambda count=count: count)
        fit = fm.fit_lmm(stats, block_size=4)
        table = fm.contrast_tests(fit, {"first": "x1", "both": ["x1", "x2"]}, ddf=ddf)
        found.append([getattr(table, name).tobytes() for name in TABLE])
    assert np.isnan(table.p_value).sum() == 2 * 2  # of two genes
    assert found[0] == found[1] == found[2]


def test_blocks_of_one_component_are_for_threads(monkeypatch):
    """Blocks of other engines are large, and their parts are for threads."""
    monkeypatch.setattr(threads, "thread_count", lambda: 3)
    names, began, all_busy = set(), [], Event()

    def name(block):
        names.add(current_thread().name)
        began.append(block)
        if len(began) >= at_once:
            all_busy.set()
        assert all_busy.wait(60)
        return block

    model = fm.fit_lmm(statistics(1)).model
    blocks = list(model.gene_blocks(10, FitOptions(block_size=2)))
    at_once = 3
    assert model.over_blocks(name, blocks) == blocks and len(blocks) == 5
    assert len(names) == 3
    names.clear()
    assert fm.fit_lmm(statistics(2)).model.over_blocks(name, blocks) == blocks
    assert names == {current_thread().name}


def test_threads_start_no_threads(monkeypatch):
    monkeypatch.setattr(threads, "thread_count", lambda: 3)

    def inside(_):
        return threads.in_threads(lambda _: current_thread().name, range(4))

    for names in threads.in_threads(inside, range(6)):
        assert len(set(names)) == 1 and names[0] != current_thread().name


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("components", [1, 2, 3])
@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
def test_size_of_a_block_does_not_change_a_byte(components, method, small_parts):
    stats = statistics(components, 5)
    whole, *others = (
        bytes_of(fm.fit_lmm(stats, method=method, engine="dense", block_size=size))
        for size in (None, 1, 3)
    )
    assert all(other == whole for other in others)


def test_matrices_are_made_by_parts(thread_count, monkeypatch):
    """Memory of the derivatives: some arrays of a part per thread, not all genes' matrices."""
    monkeypatch.setattr(dense, "PART_ELEMENTS", 2**12)
    _, X, Z = oracle.problem(0, subjects=24, components=2)
    Z = np.hstack(Z)
    rotation = rotate_design(X.T @ X, Z.T @ X, Z.T @ Z, (24, 4), len(X))
    engine = dense.DenseEngine.build(rotation, True, True)
    G, rng = 1_000, np.random.default_rng(0)
    t = rng.normal(size=(G, rotation.rank))
    genes = Rotated(np.zeros((G, 6)), t, np.ones(G), 1 + (t**2).sum(1))
    gamma = rng.gamma(1.0, 0.1, size=(G, 2))
    engine.derivatives(gamma[:10], Rotated(*(a[:10] for a in genes)))
    tracemalloc.start()
    try:
        engine.derivatives(gamma, genes)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    results = 8 * G * 60
    assert peak < results + thread_count * 8 * 8 * 2**12
    assert peak < 8 * G * 28 * 28 / 4


def test_blocks_hold_vectors_of_bounded_size():
    stats = statistics(2)
    engine = fm.fit_lmm(stats, engine="dense").model.engine
    assert engine.genes_per_block() * len(engine.S) <= dense.BLOCK_ELEMENTS
    engine = fm.fit_lmm(statistics(1), engine="spectral").model.engine
    p = len(engine.rotation.A)
    assert engine.genes_per_block() * (engine.rank + p * p) <= spectral.BLOCK_ELEMENTS


def test_one_worker_is_the_calling_thread():
    def where(fail=False):
        if fail:
            raise ValueError("no")
        return current_thread()

    with threads.workers(1) as one, threads.workers(2) as two:
        assert one.submit(where).result() is current_thread()
        assert two.submit(where).result() is not current_thread()
        assert list(one.map(abs, [-1, 2])) == [1, 2]
        with pytest.raises(ValueError, match="no"):
            one.submit(where, True).result()
