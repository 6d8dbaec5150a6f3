"""Times of other programs that are not in this run: measured once, on 2 cores of another machine.

Some of them cannot be installed from a package registry, others take too long to run each time.
They are set beside the table for orientation, and enter no ratio.
"""

from __future__ import annotations

from common import markdown_table

STUDY = "20,000 cells, 25 subjects, p = 25"
FIGURES = (
    ("R FLASHMM", f"6,000 genes, {STUDY}: summarise, in memory", "3.6 s, 2.9 GB"),
    ("R FLASHMM", f"6,000 genes, {STUDY}: fit", "9.4 s"),
    ("R FLASHMM", "two components, 25 + 20 levels", "3.1 s per 1,000 genes"),
    ("R FLASHMM", "two components, 200 + 30 levels", "46 ms per gene"),
    ("R FLASHMM", "1,000 subjects", "1.6 s per gene"),
    ("lme4", "one component; two", "0.16 s; 0.36 s per gene"),
    ("statsmodels MixedLM", "one component", "0.9 s per gene"),
    ("dream, on the pseudobulk", "", "0.09 s per gene"),
    ("nebula", "", "0.11 to 0.59 s per gene"),
    ("limma-voom, edgeR, DESeq2, on the pseudobulk", "6,000 genes", "5 s, 10 s, 30 s"),
    ("pydeseq2, on the pseudobulk", "6,000 genes", "159 s"),
    (
        "FLASH-MM, as its authors report",
        "500,000 cells, 11,596 genes, 259 donors, 29 cell types, 46 batches",
        "about two hours; others more than two days",
    ),
)


def quoted() -> str:
    """The table."""
    return markdown_table(["program", "what", "time"], FIGURES)
