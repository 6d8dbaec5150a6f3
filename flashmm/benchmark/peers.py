"""Pseudobulk tests of packages of R, by the scripts of `workflow/methods`."""

from __future__ import annotations

from pathlib import Path

from flashmm.benchmark.comparison import comparison_of, design_table, groups_files
from flashmm.benchmark.data import DataSet, MethodResult, Request
from flashmm.benchmark.external import run_command
from flashmm.options import InputError, note
from flashmm.storage.processes import Limits

#: Program to its script and what the script is told more.
PROGRAMS = {
    "edgeR-QL": ("edger.R",),
    "limma-voom": ("voom.R",),
    "voom-qw": ("voom.R", "weights"),
    "DESeq2": ("deseq2.R",),
}
#: Genes with fewer counts in a cell type are not tested.
MIN_COUNTS = 20


def peer(
    data: DataSet,
    request: Request,
    *,
    program: str = "edgeR-QL",
    min_counts: float = MIN_COUNTS,
    timeout: float = 600,
) -> MethodResult:
    """Tests of another package, per cell type, through Rscript."""
    script, *more = PROGRAMS[program]
    asked = comparison_of(
        data.groups, request.factor, subject=request.subject, cell_type=request.cell_type
    )
    path = Path(str(data.peers)) / script
    command = ["Rscript", "--vanilla", str(path), "{groups}", "{design}", "{out}", *more]
    verdict = run_command(
        [*command, f"min_counts={min_counts:g}"],
        asked,
        {
            "groups": lambda: groups_files(data.groups, asked),
            "design": lambda: design_table(asked, seed=request.seed, threads=1),
        },
        limits=Limits(timeout),
        seed=request.seed,
    )
    if verdict.status != "ok":
        raise InputError(f"{program} is {verdict.status}: {verdict.message}.")
    frame = verdict.tests.dropna(subset=["p_value"])
    # as the same effect is called in the joint model
    types = frame[request.cell_type].astype(str)
    joint = [
        f"{request.cell_type}[{level}]:{contrast}"
        for level, contrast in zip(types, frame["contrast"], strict=True)
    ]
    tests = frame.drop(columns=request.cell_type).assign(contrast=joint)
    said = tuple(note(line) for line in verdict.log if line.endswith("not tested."))
    return MethodResult(tests, notes=said)
