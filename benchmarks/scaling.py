"""A hundred million cells on paper, from what `make million` and `make bench` measured.

Every number is computed here from measured ones, with the arithmetic beside it; `million.py --docs`
writes both tables into docs/scaling.md.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from typing import Any

import common

CELLS, GENES, SHARE = 100_000_000, 20_000, 0.05
SUBJECTS, TYPES = 1_000, 30
SUMS = 4  # of y, y², counts, and log(libsize) y
CORES = (2, 16, 64, 256)
STUDY = "259 subjects × 29 types"  # of `make bench`, the largest nested model
STUDY_GROUPS = 259 * 29


def throughput(measures: Mapping[str, Any]) -> dict[str, float]:
    """What a stored value and a gene cost, from the measures of a run of `million.py`."""
    stored = measures["simulate"]["stored"]
    return {
        "bytes": measures["simulate"]["file_mb"] * 1e6 / stored,
        "simulate": measures["simulate"]["cpu"] / stored,
        "read": measures["read"]["seconds"] / stored,
        "summarise": measures["summarise"]["seconds"] / stored,
        "summarise_cpu": measures["summarise"]["cpu"] / stored,
    }


def measured(measures: Mapping[str, Any]) -> str:
    """The table of throughput."""
    cost, stored = throughput(measures), measures["simulate"]["stored"]
    lines = [
        ("values that are not zero", f"{stored:,}"),
        ("compressed file", f"{cost['bytes']:.2f} bytes per value"),
        ("simulate and write, CPU", f"{common.duration(cost['simulate'])} per value"),
        ("h5py merely reads", f"{common.duration(cost['read'])} per value"),
        ("summarise, 2 cores", f"{common.duration(cost['summarise'])} per value"),
        ("summarise, CPU", f"{common.duration(cost['summarise_cpu'])} per value"),
    ]
    return common.markdown_table(["measured at a million cells", ""], lines)


def projection(measures: Mapping[str, Any]) -> str:
    """The tables for a hundred million cells."""
    cost = throughput(measures)
    values = CELLS * GENES * SHARE
    file_gb = values * cost["bytes"] / 1e9
    cpu = values * cost["summarise_cpu"]
    groups_gb = SUBJECTS * TYPES * GENES * SUMS * 8 / 1e9
    lines = [
        ("values", f"{CELLS:,} cells × {GENES:,} genes × {SHARE:.0%}", f"{values:.3g}"),
        ("files", f"{values:.3g} × {cost['bytes']:.2f} bytes", f"{file_gb:,.0f} GB"),
        (
            "summarise, CPU",
            f"{values:.3g} × {common.duration(cost['summarise_cpu'])}",
            f"{cpu / 3600:.2f} hours of one core",
        ),
        (
            "group statistics",
            f"{SUBJECTS:,} subjects × {TYPES} types × {GENES:,} genes × {SUMS} sums × 8 bytes",
            f"{groups_gb:,.1f} GB",
        ),
        *model_lines(),
    ]
    table = common.markdown_table(["what", "arithmetic", ""], lines)
    head = ["cores", "summarise", "to be read", "group statistics of a core, by genes"]
    rows = [cores_line(n, cpu, file_gb, groups_gb) for n in CORES]
    return f"{table}\n{common.markdown_table(head, rows)}"


def cores_line(n: int, cpu: float, file_gb: float, groups_gb: float) -> list[str]:
    """What each of some cores has to do, and what the disks have to give."""
    wall = cpu / n
    return [
        str(n),
        f"{wall / 60:,.1f} min",
        f"{file_gb / wall:,.2f} GB/s",
        f"{groups_gb / n * 1e3:,.0f} MB",
    ]


def model_lines() -> list[tuple[str, str, str]]:
    """Fit and tests of all genes, from the largest nested model of `make bench`."""
    path = common.RESULTS / "bench.tsv"
    rows = list(csv.DictReader(path.open(), delimiter="\t")) if path.exists() else []
    lines = []
    for row in rows:
        if row["section"] == "nested" and STUDY in row["size"]:
            per_gene = float(row["cpu_seconds"]) / int(row["size"].split()[0].replace(",", ""))
            factor = SUBJECTS * TYPES / STUDY_GROUPS
            hours = per_gene * factor * GENES / 3600
            text = (
                f"{common.duration(per_gene)} of CPU per gene ({STUDY}) × "
                f"{SUBJECTS * TYPES:,} / {STUDY_GROUPS:,} groups × {GENES:,} genes"
            )
            lines.append((row["what"], text, f"{hours:.2f} hours of one core"))
    return lines
