"""Where the numbers are that the tests compare with, and real counts where there are any."""

from __future__ import annotations

from pathlib import Path

# Simulated inputs and what other programs print for them; a README each says how they were made.
DATA = Path(__file__).resolve().parent / "data"
# Optional, beside the project: data that are not the project's to pass on.
BESIDE = Path(__file__).resolve().parents[2] / "shared"


def lme4_cases() -> dict[str, Path]:
    """Folders of the data sets that lmer fitted: the project's, then lme4's own where they are."""
    roots = (DATA / "lme4", BESIDE / "reference" / "lme4")
    files = [path for root in roots for path in sorted(root.glob("*/case.json"))]
    return {path.parent.name: path.parent for path in files}


def real_counts(*names: str) -> list[Path]:
    """Files of real counts beside the project, those of `names` that are there."""
    paths = [BESIDE / "data" / f"{name}.h5ad" for name in names]
    return [path for path in paths if path.exists()]
