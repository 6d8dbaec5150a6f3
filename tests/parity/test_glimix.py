"""Parity with glimix-core 3.1.12: the likelihood, its gradient, fits and scans of one problem."""

from __future__ import annotations

import numpy as np
import pytest
from references import DATA

from flashmm.compat.glimix import Kron2Sum
from flashmm.multitrait.fit import covariance_root

EXACT = {"rtol": 1e-8, "atol": 1e-9}
# C₁ = L₁L₁' + εI there
EPSILON = 1.4901161193847656e-05


class Case:
    """One rank and method of the reference."""

    def __init__(self, folder, rank, method):
        self.rank, self.restricted = rank, method == "reml"
        inputs = np.load(folder / "inputs.npz")
        self.Y, self.A, self.X, self.G, self.candidates = (
            inputs[name] for name in ("Y", "A", "X", "G", "candidates")
        )
        self.values = np.load(folder / f"rank{rank}_{method}.npz")
        self.unit = max(self.G.min(), self.G.max())

    def __getitem__(self, name):
        return self.values[name]

    def model(self):
        return Kron2Sum(self.Y, self.A, self.X, self.G, self.rank, self.restricted)

    def L0(self, at, dC0):
        """Root of C₀ that is not stored, from the gradient: (dl/dC₀) L₀ · 2 = m · gradient."""
        gradient = self[f"{at}_gradient_C0_Lu"].reshape(-1, self.rank)
        return self.unit / 2 * np.linalg.solve(dC0, gradient)

    def placed(self, at):
        """Model at stored parameters."""
        model = self.model()
        C0, C1 = self[f"{at}_C0"], self[f"{at}_C1"]
        L1 = np.linalg.cholesky(C1)
        model._place(covariance_root(C0, self.rank), L1)
        model._place(self.L0(at, model._model.gradients(model._state)[0]), L1)
        return model


@pytest.fixture(
    scope="module",
    params=[(1, "ml"), (1, "reml"), (2, "ml"), (2, "reml")],
    ids=lambda pair: f"rank{pair[0]}-{pair[1]}",
)
def case(request):
    return Case(DATA / "glimix_core", *request.param)


@pytest.fixture(scope="module")
def fitted(case):
    model = case.model()
    model.fit(verbose=False)
    return model


def check_values(model, case, at):
    np.testing.assert_allclose(model.lml(), case[f"{at}_lml"], **EXACT)
    np.testing.assert_allclose(model.value(), case[f"{at}_lml"], **EXACT)
    for name in ("C0", "C1", "B", "beta", "beta_covariance"):
        np.testing.assert_allclose(getattr(model, name), case[f"{at}_{name}"], **EXACT)
    np.testing.assert_allclose(model.mean(), case[f"{at}_mean"], **EXACT)
    gradient = model.gradient()
    assert set(gradient) == {"C0.Lu", "C1.Lu"}
    for name in gradient:
        wanted = case[f"{at}_gradient_{name.replace('.', '_')}"]
        np.testing.assert_allclose(gradient[name], wanted, rtol=1e-8, atol=1e-7)


@pytest.mark.parametrize("at", ["at0", "at1", "at2"])
def test_values_and_gradient_at_parameters(case, at):
    check_values(case.placed(at), case, at)


def test_values_and_gradient_before_the_fit(case):
    check_values(case.model(), case, "init")


def test_values_and_scans_at_the_covariances_of_their_fit(case):
    model = case.model()
    C1 = case["fit_C1"]
    model._place(covariance_root(case["fit_C0"], case.rank), np.linalg.cholesky(C1))
    np.testing.assert_allclose(model.lml(), case["fit_lml"], **EXACT)
    np.testing.assert_allclose(model.covariance(), case["fit_covariance"], **EXACT)
    scanner = model.get_fast_scanner()
    np.testing.assert_allclose(scanner.null_lml(), case["scan_null_lml"], **EXACT)
    for name in ("beta", "beta_se", "scale", "beta_covariance"):
        wanted = case[f"scan_null_{name}"]
        np.testing.assert_allclose(getattr(scanner, f"null_{name}"), wanted, **EXACT)
    designs = {"any": np.eye(2), "common": np.ones((2, 1))}
    for name, A1 in designs.items():
        for j in range(5):
            found = scanner.scan(A1, case.candidates[:, [j]])
            for key, value in found.items():
                np.testing.assert_allclose(value, case[f"scan_{name}_{key}"][j], **EXACT)
    for key, value in scanner.scan(np.eye(2), case.candidates[:, :2]).items():
        np.testing.assert_allclose(value, case[f"scan_two_{key}"], **EXACT)


def test_fit_reaches_the_best_of_their_starts(case, fitted):
    assert fitted.lml() >= case["best_lml"] - 1e-6
    np.testing.assert_allclose(fitted.C0, case["best_C0"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(fitted.C1, case["best_C1"], rtol=1e-3, atol=1e-4)
    assert np.linalg.matrix_rank(fitted.C0, tol=1e-6) == case.rank
    assert all(np.abs(values).max() < 1e-6 for values in fitted.gradient().values())


def test_epsilon_is_theirs(case):
    np.testing.assert_allclose(case.model().C1[0, 0], 1 + EPSILON, rtol=1e-12)
