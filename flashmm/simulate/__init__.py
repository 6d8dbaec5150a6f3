"""Counts and Gaussian groups with a known truth.

A `SimulationSpec` says what is wanted (`spec`, `values`). From it and a seed (`seeds`) come the
sheet of cells (`sheet`), the genes (`genes`) and the differences (`truth`); the `plan` holds all of
this and draws blocks of counts, which `counts` keeps in memory or hands to the `writer`. `gaussian`
draws sums over groups instead.
"""

from typing import TYPE_CHECKING

from flashmm.names import on_demand

if TYPE_CHECKING:
    from flashmm.simulate.counts import Simulation, simulate_counts
    from flashmm.simulate.gaussian import GaussianSimulation, simulate_gaussian_groups
    from flashmm.simulate.spec import SimulationSpec

__all__ = [
    "GaussianSimulation",
    "Simulation",
    "SimulationSpec",
    "simulate_counts",
    "simulate_gaussian_groups",
]

on_demand(__name__)
