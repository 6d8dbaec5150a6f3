"""Counts and Gaussian groups with a known truth."""

from flashmm.simulate.counts import (
    GaussianSimulation,
    Simulation,
    simulate_counts,
    simulate_gaussian_groups,
)
from flashmm.simulate.spec import SimulationSpec

__all__ = [
    "GaussianSimulation",
    "Simulation",
    "SimulationSpec",
    "simulate_counts",
    "simulate_gaussian_groups",
]
