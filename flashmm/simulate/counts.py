"""Simulate counts of many subjects, cell types and conditions from a negative binomial model.

For gene g in a cell of subject s and cell type t,

    y ~ NB(mean = mu, size = size_g),  variance mu + mu² / size_g,
    log mu = log mean_gt + (log libsize − its mean over cells) + a_sg + b_stg + c_scg
             + log_fc_gt · treated,

with a ~ N(0, f_g · subject_variance), b ~ N(0, f_g · subject_cell_type_variance), c ~ N(0, f_g ·
subject_condition_variance) per subject and condition, and natural logarithms. Means of types differ
for markers (log mean_gt = log mean_g + marker_log_fc), or as they do in a reference; f_g is 1, or
log-normal with `variance_spread`.
The model is that of FLASHMM's ``simuRNAseq`` (Xu et al., Nat Commun 17:2384, 2026) with the
components b and c, the markers and f added. The offset and the effects have mean zero on the log
scale, so `mean_g` is the expected count of a cell with the geometric mean library size and no
effects.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse
from tqdm.auto import tqdm

from flashmm.kernels.threads import workers
from flashmm.options import checked
from flashmm.shown import Shown
from flashmm.simulate.plan import BLOCK_CELLS, Plan, make_plan
from flashmm.simulate.seeds import Seed
from flashmm.simulate.spec import SimulationSpec, require_distribution
from flashmm.simulate.values import check_whole, plain
from flashmm.simulate.writer import in_order, write_cells
from flashmm.storage.files import PathLike, file_digest, package_version
from flashmm.storage.workspace import require_disk

BYTES_PER_COUNT, BYTES_PER_CELL = 2.0, 50.0  # of a file, compressed: what is needed at least


@dataclass(frozen=True, eq=False, repr=False)
class Simulation(Shown):
    """Simulated counts and what is true about them.

    Attributes
    ----------
    adata : AnnData (cells, genes)
        `X`: whole counts as CSR float32, the form in which scanpy reads and writes counts. `obs`:
        categories `subject`, `cell_type`, `condition`, and `libsize`, the target library size (not
        the realised total). `var`: `mean` and `dispersion` of each gene, `reference_gene` with a
        reference, and as far as the spec asks for them `marker_of` (a cell type, or missing),
        `exclusive`, `variance_factor`, `module`. `varm["mean_by_type"]`, where types differ:
        (genes, types) means in the order of the categories of `cell_type`. `uns["flashmm"]`:
        `truth`, `reference`, `treated`, and JSON texts of the rest.
        Backed by the file when the simulation was written to one.
    truth : DataFrame
        `gene`, `cell_type`, `log_fc` (natural log) of the DE pairs; every other pair is null.
    reference : DataFrame
        `gene`, `mean`, `dispersion` of the genes that were drawn from. The dispersion is the *size*
        of the negative binomial: variance = mean + mean² / dispersion.
    treated : str
        The condition in which the effects act.
    spec : SimulationSpec
    seed : int or sequence of int or SeedSequence
    notes : tuple of str
        What was decided on the way, such as genes left out.
    path : Path or None
        The file that holds the counts; None when they are in memory.
    """

    adata: anndata.AnnData
    truth: pd.DataFrame
    reference: pd.DataFrame
    treated: str
    spec: SimulationSpec
    seed: Seed
    notes: tuple[str, ...] = ()
    path: Path | None = None


@checked
def simulate_counts(
    spec: SimulationSpec,
    seed: Seed,
    *,
    path: PathLike | None = None,
    chunk_cells: int = 4_096,
    threads: int = 2,
    progress: bool | None = None,
) -> Simulation:
    """Simulate counts, in memory or straight into an .h5ad file.

    The design, the effects and the counts come from separate random streams (the counts from one
    per 256 cells), so that changing the DE genes leaves the cells as they are, and the result
    depends neither on `chunk_cells` and `threads` nor on where it is kept.

    Parameters
    ----------
    spec : SimulationSpec
    seed : int, sequence of int, or numpy.random.SeedSequence
        The same spec and seed give the same counts.
    path : path of an .h5ad file, optional
        Write there while drawing, and return an AnnData backed by it: memory then holds the cells
        that are drawn ahead and the sheet of cells, whatever the number of cells. The file appears
        when it is complete.
    chunk_cells : int
        Cells to draw ahead of the writing, rounded up to whole blocks of 256 cells.
    threads : int
        Threads that draw and compress.
    progress : bool, optional
        Whether to show a progress bar; None shows it on a terminal.

    Returns
    -------
    Simulation

    Raises
    ------
    InputError
        The seed, the reference or a number that the reference cannot serve; another distribution
        than "nb"; or the disk of `path` has no room for the counts, before they are drawn.
    """
    check_whole("chunk_cells", chunk_cells, 1)
    check_whole("threads", threads, 1)
    require_distribution(spec, "nb", "simulate_gaussian_groups")
    plan = make_plan(spec, seed)
    if path is not None:
        require_disk(path, _stored_size(plan), "simulated counts")
    about = {"flashmm": _self_description(plan)}
    sheet = anndata.AnnData(obs=plan.obs, var=plan.var, varm=plan.varm, uns=about)
    with workers(threads) as pool:
        blocks = draw_blocks(plan, pool, max(threads, -(-chunk_cells // BLOCK_CELLS)), progress)
        if path is None:
            sheet.X = sparse.vstack(list(blocks), format="csr")
        else:
            sheet = write_cells(sheet, blocks, pool, Path(path))
    return Simulation(
        adata=sheet,
        truth=plan.truth,
        reference=plan.background.reference,
        treated=spec.treated_condition,
        spec=spec,
        seed=seed,
        notes=plan.notes,
        path=None if path is None else Path(path),
    )


def draw_blocks(
    plan: Plan, pool: Executor, ahead: int, progress: bool | None
) -> Iterator[sparse.csr_matrix]:
    """Draw the counts of all blocks of cells, in their order and at most `ahead` of the taker."""
    disable = None if progress is None else not progress
    with tqdm(total=len(plan.obs), desc="simulate", unit="cells", disable=disable) as bar:
        for block in in_order(pool, plan.block, range(plan.n_blocks), ahead):
            yield block
            bar.update(block.shape[0])


def _stored_size(plan: Plan) -> float:
    """Bytes of the file, by the nonzero counts of a cell without effects."""
    mean, size = plan.var["mean"].to_numpy(), plan.var["dispersion"].to_numpy()
    per_cell = -np.expm1(-size * np.log1p(mean / size)).sum()  # Σ P(y > 0)
    return len(plan.obs) * (BYTES_PER_COUNT * per_cell + BYTES_PER_CELL)


def _self_description(plan: Plan) -> dict[str, Any]:
    """What a file says about itself, under `uns["flashmm"]`."""
    reference = plan.background.reference
    return {
        "truth": plan.truth.set_axis(plan.truth.index.astype(str), axis=0),
        "reference": reference.set_axis(reference.index.astype(str), axis=0),
        "treated": plan.spec.treated_condition,
        "spec": json.dumps(plan.spec.describe()),
        "provenance": json.dumps(_provenance(plan)),
        "notes": np.array(plan.notes, dtype=object),
    }


def _provenance(plan: Plan) -> dict[str, Any]:
    reference = plan.spec.reference
    digest = file_digest(reference) if isinstance(reference, str | os.PathLike) else None
    types = dict(zip(plan.spec.cell_types, plan.background.types, strict=False))
    return {
        "flashmm": package_version(),
        "seed": plain(plan.seed),
        "reference_sha256": digest,
        **({"reference_cell_types": types} if types else {}),
    }
