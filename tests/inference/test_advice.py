"""Advice in words: said where it should be, once, and nothing for a healthy run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from group_designs import crossed, fit_groups, groups_of

import flashmm as fm

NESTED = ("subject", "subject:cell_type")
WITHIN_TYPES = "~ 0 + cell_type + cell_type:condition"


def test_a_healthy_run_says_nothing():
    fit = fit_groups(groups_of(crossed(8, 2), genes=30, sd=(0.4, 0.3)), WITHIN_TYPES, NESTED)
    assert fm.advise(fit, "condition") == ()
    for contrasts in (None, "condition"):
        assert fm.contrast_tests(fit, contrasts).notes == ()


def test_effects_within_types_need_subject_by_type():
    fit = fit_groups(groups_of(crossed(8, 2)), WITHIN_TYPES)
    with pytest.warns(fm.FlashmmWarning, match="alike") as said:
        table = fm.contrast_tests(fit, "condition")
    assert len(said) == 1 and len(table.notes) == 1
    assert "'condition'" in table.notes[0] and "'subject:cell_type'" in table.notes[0]
    # additive: the effect of condition is not asked within types
    additive = fit_groups(groups_of(crossed(8, 2)), "~ cell_type + condition")
    assert fm.advise(additive, "condition") == ()


def test_cells_as_replicates():
    fit = fit_groups(groups_of(crossed(6, paired=True)), "~ condition")
    with pytest.warns(fm.FlashmmWarning, match="cells as replicates"):
        notes = fm.advise(fit, "condition")
    assert "'subject:condition'" in notes[0]


def test_a_column_with_one_level_is_not_asked_within():
    """One cell type in the formula: its effect is that of the condition."""
    fit = fit_groups(groups_of(crossed(6, paired=True)), "~ 0 + cell_type + cell_type:condition")
    with pytest.warns(fm.FlashmmWarning, match="'condition' varies.*cells as replicates"):
        assert len(fm.advise(fit, "condition")) == 1


def test_few_subjects_are_said_with_their_df():
    fit = fit_groups(
        groups_of(crossed(8, 2, missing={(i, 1) for i in range(3)})), WITHIN_TYPES, NESTED
    )
    with pytest.warns(fm.FlashmmWarning, match="few subjects") as said:
        table = fm.contrast_tests(fit, "condition")
    assert len(said) == 1
    assert "cell_type[T1]:condition[T.stim]" in table.notes[0]
    assert "cell_type[T0]" not in table.notes[0]
    assert "3 degrees of freedom between subjects" in table.notes[0]


def test_a_component_at_zero_in_most_genes():
    groups = groups_of(crossed(8, 3), genes=40, sd=(0.5, 0.0), cells=np.full(24, 40))
    fit = fit_groups(groups, WITHIN_TYPES, NESTED)
    share = (fit.theta[:, 1] == 0).mean()
    assert share < 0.8 and fm.advise(fit) == ()
    theta = fit.theta.copy()
    theta[4:, 1] = 0.0  # as if nine of ten genes had it there
    with pytest.warns(
        fm.FlashmmWarning, match=r"'subject:cell_type' \(\d+%\).*zero in most"
    ) as said:
        fm.advise(replace(fit, theta=theta))
    assert len(said) == 1 and "'subject' (" not in str(said[0].message)


class TestCollinearity:
    def groups(self, by_type):
        """Library sizes that follow the cell type, or do not."""
        spec = fm.SimulationSpec(n_genes=6, n_cells=600, n_subjects=8, n_cell_types=2)
        adata = fm.simulate_counts(spec, seed=1).adata
        kind = adata.obs["cell_type"].cat.codes.to_numpy()
        noise = np.random.default_rng(0).normal(size=len(kind))
        adata.obs["depth"] = 5.0 + by_type * kind + 0.1 * noise
        return fm.summarise(adata, by=["subject", "cell_type", "condition"], covariates=["depth"])

    def fit(self, by_type, fixed="~ 0 + depth + cell_type + cell_type:condition"):
        return fit_groups(self.groups(by_type), fixed, NESTED)

    def test_is_said_with_r_squared(self):
        fit = self.fit(2.0)
        with pytest.warns(fm.FlashmmWarning, match=r"'depth' is almost .* \(R² = 0\.99\)"):
            assert len(fm.advise(fit)) == 1

    def test_is_not_said_without(self):
        assert fm.advise(self.fit(0.0)) == ()

    def test_products_with_a_condition_are_left_alone(self):
        assert fm.advise(self.fit(0.0, "~ depth * condition + cell_type")) == ()


def test_matrices_have_no_subjects_to_advise_on():
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(60), rng.normal(size=60)])
    Z = np.eye(6)[np.arange(60) % 6]
    stats = fm.summary_statistics_from_matrices(rng.normal(size=(60, 3)), X, Z, [6])
    fit = fm.fit_lmm(stats)
    assert fm.advise(fit, "x2") == ()
    with pytest.raises(fm.InputError, match="no groups"):
        fm.contrast_tests(fit, ddf="kenward-roger-floor")
