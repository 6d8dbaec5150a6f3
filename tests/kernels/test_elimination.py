"""Components that cross: one eliminated, the others beside X, against the dense engine."""

from __future__ import annotations

import numba
import numpy as np
import oracle
import pytest
from agreement import FIELDS, assert_close, assert_same_fit, assert_same_tests, statistics
from scipy import sparse

import flashmm as fm
from flashmm.kernels import eliminated_groups, elimination
from flashmm.kernels.dense import DenseEngine
from flashmm.kernels.elimination import EliminationEngine
from flashmm.kernels.rotation import rotate_design
from flashmm.kernels.spectral import SpectralEngine
from flashmm.kernels.structure import find_elimination


def crossed(seed, rest=1, **options):
    """Subject and batches that cross it."""
    Y, X, Z = oracle.crossed_problem(seed, rest=rest, **options)
    return Y, X, [Z[0], *Z[2:]]


def batches_of_subjects(seed):
    """Subject, and batches of whole subjects: a batch groups subjects."""
    Y, X, (subject,) = oracle.problem(seed, subjects=9)
    return Y, X, [subject, np.eye(3)[(subject.argmax(1) * 5) % 3]]


def batches_of_subjects_and_types(seed):
    """The same with subject × cell type: what remains is constant within all groups."""
    Y, X, (subject, group) = oracle.nested_problem(seed, subjects=9)
    return Y, X, [np.eye(3)[(subject.argmax(1) * 5) % 3], group, subject]


def batches_of_conditions(seed):
    """Batches nested in the condition, so that some of their columns add up to one of X."""
    Y, X, Z = oracle.nested_problem(seed)
    rng = np.random.default_rng(seed)
    batch = np.eye(6)[(2 * rng.integers(0, 3, len(Y)) + X[:, 4]).astype(int)]
    return Y, X, [*Z, batch]


def slopes(seed):
    """Subject, and a slope of the covariate by subject."""
    Y, X, (subject,) = oracle.problem(seed)
    return Y, X, [subject, subject * X[:, [1]]]


DESIGNS = {
    "crossed": crossed,
    "many batches": lambda seed: crossed(seed, batches=30),
    "two crossed": lambda seed: crossed(seed, rest=2),
    "nested and crossed": oracle.crossed_problem,
    "nested and two crossed": lambda seed: oracle.crossed_problem(seed, rest=2),
    "batches of subjects": batches_of_subjects,
    "batches of subjects and types": batches_of_subjects_and_types,
    "batches of conditions": batches_of_conditions,
    "slopes": slopes,
}


@pytest.fixture(params=[(name, k % 2) for k, name in enumerate(DESIGNS)], ids=str)
def problem(request):
    name, seed = request.param
    return DESIGNS[name](seed)


def both(stats, method="REML", **options):
    return [fm.fit_lmm(stats, method, engine=e, **options) for e in ("eliminated", "dense")]


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_eliminated_equals_dense(problem, method):
    eliminated, dense = both(statistics(*problem), method)
    assert eliminated.fitted.all()
    assert_same_fit(eliminated, dense)
    assert_same_tests(eliminated, dense)


@pytest.mark.parametrize("name", DESIGNS)
def test_knots_give_what_all_groups_give(name, monkeypatch):
    stats, fits = statistics(*DESIGNS[name](2)), []
    for fewer in (0.0, np.inf):
        monkeypatch.setattr(eliminated_groups, "FEWER", fewer)
        fits.append(fm.fit_lmm(stats, engine="eliminated"))
    knots, all_groups = (fit.model.engine.groups for fit in fits)
    assert knots.knots is not knots.sizes and all_groups.knots is all_groups.sizes
    for field in FIELDS:
        assert_close(*(getattr(fit, field) for fit in fits), field)
    assert_same_tests(*fits)


@pytest.mark.parametrize("largest", [3.0, 3.0 + 1e-9, 7.0, 1e2, 1e5])
def test_weights_at_knots_have_the_same_digits_for_all_sizes(largest):
    sizes = np.geomspace(3.0, largest, 300)
    knots, shares = eliminated_groups._knots(sizes)
    assert len(knots) < 30 * (1.0 + np.log2(largest / 3.0) / 2.0)
    gamma = np.append(0.0, np.logspace(-8, 4, 40))[:, None]
    for power in (1, 2, 3):
        at_knots, at_sizes = ((n / (1.0 + gamma * n)) ** power for n in (knots, sizes))
        np.testing.assert_allclose(at_knots @ shares, at_sizes, rtol=1e-13)


def test_few_knots_for_many_groups():
    stats = statistics(*crossed(0, n=600, subjects=150, batches=7))
    eliminated = fm.fit_lmm(stats, engine="eliminated")
    groups = eliminated.model.engine.groups
    assert eliminated_groups.FEWER * len(groups.knots) < len(groups.sizes)
    assert_same_fit(eliminated, fm.fit_lmm(stats, engine="dense"))


def test_the_order_of_the_components_does_not_matter():
    Y, X, Z = oracle.crossed_problem(1)
    first = fm.fit_lmm(statistics(Y, X, Z), engine="eliminated")
    assert {"ok", "boundary"} == set(first.status)
    for order in ([2, 0, 1], [1, 2, 0], [2, 1, 0]):
        other = fm.fit_lmm(statistics(Y, X, [Z[k] for k in order]), engine="eliminated")
        assert_close(other.theta, first.theta[:, [*order, 3]])
        assert_close(other.loglik, first.loglik)


def smallest_eliminated(fit):
    """Smallest |a_g| or |ψ_i| of each gene: how close W_1 is to a singular matrix."""
    engine = fit.model.engine
    weights = engine.model.weights(fit.theta[:, :-1] / fit.theta[:, -1:])
    a = np.abs(engine.groups.sizes[:, None] / weights.d)
    return np.vstack([a, np.abs(weights.psi)]).min(0)


def test_negative_components(problem):
    Y, X, Z = problem
    noise = np.random.default_rng(0).normal(size=(len(Y), 8))
    stats = statistics(np.hstack([Y, noise]), X, Z)
    # without bounds some likelihoods have no maximum
    eliminated, dense = both(stats, nonnegative=False, max_iter=40)
    found = (eliminated.status != "not_converged") & (dense.status != "not_converged")
    assert (eliminated.status == dense.status)[found].all()
    smallest = [np.linalg.eigvalsh(oracle.covariance(Z, t))[0] for t in eliminated.theta]
    assert ((np.array(smallest) > 0) == (eliminated.status == "ok"))[found].all()
    # close to the end of the domain matrices are close to singular
    definite = found & (np.array(smallest) > 0.05)
    assert (eliminated.theta[definite] < 0).any(1).sum() > 3
    for name in FIELDS:
        # squared traces lose digits where W_1 alone is close to singular, as it may be inside
        rows = definite & (
            (smallest_eliminated(eliminated) > 0.01) | (name != "fisher_information")
        )
        assert_close(getattr(eliminated, name)[rows], getattr(dense, name)[rows], name)
    assert_close(eliminated.blup()[definite], dense.blup()[definite], "blup")


def engines(Y, X, Z, reml):
    """Both engines, and their forms of the first gene."""
    whole = np.hstack(Z)
    sizes = tuple(z.shape[1] for z in Z)
    rotation = rotate_design(X.T @ X, whole.T @ X, whole.T @ whole, sizes, len(Y))
    for kind in (EliminationEngine, DenseEngine):
        engine = kind.build(rotation, reml, False)
        yield engine, engine.responses(Y[:, :1].T @ X, Y[:, :1].T @ whole, (Y[:, :1] ** 2).sum(0))


def test_the_domain_of_the_objective(problem):
    Y, X, Z = problem
    rng = np.random.default_rng(0)
    gamma = rng.uniform(-0.3, 0.4, (100, len(Z)))
    gamma[::4] *= 0.1
    gamma[::5, 0] = 0.0
    definite = oracle.is_positive_definite(Z, gamma)
    for reml in (True, False):
        f = []
        for engine, genes in engines(Y, X, Z, reml):
            genes = type(genes)(*(values[np.zeros(len(gamma), dtype=int)] for values in genes))
            f.append(engine.objective(gamma, genes))
            np.testing.assert_array_equal(engine.is_positive_definite(gamma), definite)
        assert np.isinf(f[0]).any() and np.isfinite(f[0]).any()
        np.testing.assert_allclose(f[0], f[1], rtol=1e-8)


def test_one_component_equals_the_spectral_engine():
    stats = statistics(*oracle.problem(1))
    for options in ({}, {"method": "ML"}, {"nonnegative": False}):
        eliminated, spectral = (
            fm.fit_lmm(stats, engine=engine, **options) for engine in ("eliminated", "spectral")
        )
        assert isinstance(eliminated.model.engine, EliminationEngine)
        assert isinstance(spectral.model.engine, SpectralEngine)
        assert (eliminated.status == spectral.status).all()
        for name in FIELDS:
            assert_close(getattr(eliminated, name), getattr(spectral, name), name)
        assert_close(eliminated.blup(), spectral.blup())
        assert_same_tests(eliminated, spectral)


def test_joint_tests():
    eliminated, dense = both(statistics(*oracle.crossed_problem(2)))
    names = eliminated.coefficients
    assert_same_tests(eliminated, dense, {"kinds": [names[2], names[3]], "rest": list(names[3:])})


def test_degenerate_genes():
    Y, X, Z = oracle.crossed_problem(0)
    rng = np.random.default_rng(1)
    odd = [np.zeros(len(Y)), X @ rng.normal(size=X.shape[1])]
    odd += [z @ rng.normal(size=z.shape[1]) for z in Z]
    eliminated, dense = both(statistics(np.column_stack([*odd, Y]), X, Z))
    expected = ["all_zero", "perfect_fit", *["no_within_variance"] * 3]
    assert eliminated.status[:5].tolist() == expected
    assert (eliminated.status == dense.status).all()
    assert_close(eliminated.coef, dense.coef)


@pytest.mark.parametrize("power", [-6, 6])
def test_scales_do_not_matter(power):
    Y, X, Z = oracle.crossed_problem(1)
    plain = fm.fit_lmm(statistics(Y, X, Z), engine="eliminated")
    units = 10.0 ** (power * np.array([0, 1, 0, -1, 0, 0]))
    scaled = fm.fit_lmm(statistics(10.0**power * Y, X * units, Z), engine="eliminated")
    np.testing.assert_allclose(scaled.theta, 10.0 ** (2 * power) * plain.theta, rtol=1e-8)
    np.testing.assert_allclose(scaled.coef * units, 10.0**power * plain.coef, rtol=1e-7)


def test_the_number_of_threads_does_not_change_a_bit():
    stats = statistics(*oracle.crossed_problem(1, genes=80))
    threads, fits = numba.get_num_threads(), []
    try:
        for count in (1, numba.config.NUMBA_NUM_THREADS):
            numba.set_num_threads(count)
            fits.append(fm.fit_lmm(stats, engine="eliminated"))
    finally:
        numba.set_num_threads(threads)
    for name in FIELDS:
        np.testing.assert_array_equal(*(getattr(fit, name) for fit in fits))


@pytest.mark.parametrize("name", ["crossed", "many batches", "nested and crossed", "few knots"])
def test_the_size_of_a_block_does_not_change_a_bit(name, monkeypatch):
    monkeypatch.setattr(elimination, "PART_LIMITS", (2, 5))
    monkeypatch.setattr(eliminated_groups, "FEWER", 0.0 if name == "few knots" else np.inf)
    Y, X, Z = crossed(1) if name == "few knots" else DESIGNS[name](1)
    Y = np.hstack([Y[:, :3], Y[:, :3] + np.random.default_rng(0).normal(size=(len(Y), 3))])
    whole, *others = (
        fm.fit_lmm(statistics(Y, X, Z), engine="eliminated", block_size=size)
        for size in (None, 1, Y.shape[1] - 1)
    )
    tested = fm.contrast_tests(whole)
    for fit in others:
        for field in (*FIELDS, "n_iter"):
            np.testing.assert_array_equal(getattr(fit, field), getattr(whole, field), field)
        np.testing.assert_array_equal(fit.score(), whole.score())
        table = fm.contrast_tests(fit)
        for field in ("std_error", "df", "p_value"):
            np.testing.assert_array_equal(getattr(table, field), getattr(tested, field), field)


class TestChoice:
    def test_what_is_eliminated_leaves_the_fewest_columns(self):
        _, _, (subject, group, batch) = oracle.crossed_problem(0)
        for order, expected in (
            ([subject, group, batch], (0, [1], [2])),
            ([batch, group, subject], (2, [1], [0])),
            ([batch, subject], (None, [1], [0])),
            ([subject, group + 0.1 * group[::-1]], (None, [0], [1])),
            ([group], (None, [0], [])),
        ):
            whole = np.hstack(order)
            sizes = tuple(z.shape[1] for z in order)
            for ZtZ in (whole.T @ whole, sparse.csr_array(whole.T @ whole)):
                found = find_elimination(ZtZ, sizes)
                assert (found.outer, found.inner, found.rest) == expected

    def test_nothing_to_eliminate(self):
        Y, X, (subject,) = oracle.problem(0)
        mixed = subject + 0.1 * subject[::-1]
        assert find_elimination(mixed.T @ mixed, (mixed.shape[1],)) is None
        with pytest.raises(fm.InputError, match="engine='eliminated'"):
            fm.fit_lmm(statistics(Y, X, [mixed]), engine="eliminated")

    @pytest.mark.parametrize("batches, engine", [(5, DenseEngine), (60, EliminationEngine)])
    def test_by_the_number_of_levels(self, batches, engine):
        stats = statistics(*crossed(0, batches=batches, n=300))
        assert isinstance(fm.fit_lmm(stats).model.engine, engine)

    def test_one_component_of_many_levels(self, monkeypatch):
        stats = statistics(*oracle.problem(0))
        assert isinstance(fm.fit_lmm(stats).model.engine, SpectralEngine)
        monkeypatch.setattr("flashmm.model.MANY_LEVELS", 7)
        assert isinstance(fm.fit_lmm(stats).model.engine, EliminationEngine)

    def test_too_many_columns_beside_what_is_eliminated(self, monkeypatch):
        stats = statistics(*crossed(0))
        monkeypatch.setattr("flashmm.model.MAX_DENSE_COLUMNS", 5)
        fm.fit_lmm(stats, engine="eliminated")
        monkeypatch.setattr("flashmm.model.MAX_DENSE_COLUMNS", 4)
        with pytest.raises(fm.DesignError, match="5 columns"):
            fm.fit_lmm(stats, engine="eliminated")
