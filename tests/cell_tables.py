"""A table of cells with awkward names, for tests of formulas and designs."""

from __future__ import annotations

import numpy as np
import pandas as pd


def make_cells(seed: int = 0, n: int = 300) -> pd.DataFrame:
    """Unbalanced cells of six subjects, nested in conditions, with awkward names."""
    rng = np.random.default_rng(seed)
    subject = rng.choice([f"S{i}" for i in range(6)], n, p=[0.4, 0.2, 0.2, 0.1, 0.05, 0.05])
    number = np.array([int(s[1:]) for s in subject])
    types = ["T, CD4+", "B cells", "CD14+ Monocytes"]
    cells = pd.DataFrame(
        {
            "subject": subject,
            "cell_type": pd.Categorical(rng.choice(types, n, p=[0.6, 0.3, 0.1]), categories=types),
            "condition": np.where(number < 3, "ctrl", "stim"),
            "age": 20.0 + 7 * number + (number == 2),
            "plate.id": pd.Categorical(number % 2),
            "flag": number > 2,
            "libsize": rng.integers(500, 5000, n),
            "m": rng.normal(2, 1, n),
            "percent.mito": rng.gamma(2, 1, n),
        }
    )
    return cells.set_axis([f"cell{i}" for i in range(n)])


CELLS = make_cells()
