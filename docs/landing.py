"""Draw the pictures of the first page, docs/landing-*.svg, from simulated counts.

How often genes that nothing changes are called at p ≤ 0.05, by what a test counts; and one gene,
whose cells suggest a difference that the people do not have.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import flashmm as fm
from flashmm.plots import save_figure
from flashmm.plots.style import PALETTE

SPEC = fm.SimulationSpec(
    n_genes=1500, n_cells=4000, n_subjects=10, n_cell_types=1, n_de_genes=0, subject_variance=0.12
)
ALPHA = 0.05


def shares(groups: fm.GroupStatistics) -> dict[str, float]:
    """Share of the genes with p ≤ 0.05, by test; no gene differs."""
    stats = fm.summary_statistics(groups, "~ log(libsize) + condition", ["subject"])
    fit = fm.fit_lmm(stats)
    within = fm.fit_within(groups, "cell_type", "~ log(libsize) + condition", ["subject"])
    tests = {
        "cells,\nno subjects": fm.pooled_tests(stats, "condition"),
        "mixed model, df of\ncells (FLASH-MM)": fm.contrast_tests(
            fit, "condition", "residual"
        ).to_frame(),
        "flashmm": fm.contrast_tests(within, "condition").to_frame(),
    }
    return {name: float((frame["p_value"] <= ALPHA).mean()) for name, frame in tests.items()}


def draw_shares(ax: Axes, found: dict[str, float]) -> None:
    """Draw a bar for each test, and the line where they should end."""
    colours = [PALETTE[1], PALETTE[4], PALETTE[0]]
    ax.barh(list(found), list(found.values()), color=colours, height=0.6)
    for place, value in enumerate(found.values()):
        ax.text(value + 0.015, place, f"{value:.0%}", va="center", fontsize=11)
    ax.axvline(ALPHA, color="0.3", linewidth=1, linestyle=(0, (4, 3)))
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), title="Unchanged genes called at p ≤ 0.05")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    ax.spines[["top", "right"]].set_visible(False)


def draw_gene(ax: Axes, sim: fm.Simulation, groups: fm.GroupStatistics) -> None:
    """Draw cells as small dots, people as large ones: the gene that cells call most wrongly."""
    stats = fm.summary_statistics(groups, "~ log(libsize) + condition", ["subject"])
    pooled = fm.pooled_tests(stats, "condition").set_index("gene")["p_value"]
    people = fm.contrast_tests(fm.fit_lmm(stats), "condition").to_frame().set_index("gene")
    gene = pooled[people["p_value"] > 0.15].idxmin()
    counts = sim.adata[:, gene].X
    values = np.log2(
        1 + np.asarray(counts.todense() if hasattr(counts, "todense") else counts).ravel()
    )
    obs = sim.adata.obs.assign(value=values)
    rng = np.random.default_rng(1)
    for place, (_, person) in enumerate(obs.groupby("subject", observed=True)):
        colour = PALETTE[1] if person["condition"].iloc[0] == "B" else PALETTE[0]
        jitter = place + rng.uniform(-0.3, 0.3, len(person))
        spread = person["value"] + rng.normal(0, 0.06, len(person))
        ax.scatter(jitter, spread, s=2, color=colour, alpha=0.25, linewidths=0, rasterized=True)
        ax.scatter(
            [place], [person["value"].mean()], s=90, color=colour, edgecolor="white", zorder=3
        )
    cells, subjects = pooled[gene], people.loc[gene, "p_value"]
    ax.set(xticks=[], ylabel="log₂(1 + count)", xlabel="ten people: five and five")
    power = int(np.ceil(np.log10(cells)))
    ax.set_title(f"One of them: p < 10$^{{{power}}}$ if cells count, {subjects:.2f} if people do")
    ax.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Simulate, test, draw."""
    sim = fm.simulate_counts(SPEC, seed=4)
    groups = fm.summarise(sim.adata, ["subject", "cell_type", "condition"], ["log(libsize)"])
    rates, gene = (Figure(figsize=(5.5, 3.7), layout="constrained") for _ in range(2))
    draw_shares(rates.subplots(), shares(groups))
    draw_gene(gene.subplots(), sim, groups)
    for name, figure in {"rates": rates, "gene": gene}.items():
        _, pixels = save_figure(figure, Path(__file__).with_name(f"landing-{name}"))
        pixels.unlink()  # SVG is enough


if __name__ == "__main__":
    main()
