"""Groups of few cells, which stay where they are when sums are given away."""

from __future__ import annotations

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

import flashmm as fm
from flashmm.options import InputError

BY = ["subject", "cell_type"]


def cells(sizes: dict[tuple[str, str], int], seed: int = 1) -> ad.AnnData:
    """Counts with this number of cells of each subject and cell type."""
    rows = [key for key, size in sizes.items() for _ in range(size)]
    obs = pd.DataFrame(rows, columns=BY, index=[f"c{i}" for i in range(len(rows))])
    counts = np.random.default_rng(seed).poisson(2.0, size=(len(rows), 4)).astype(float)
    return ad.AnnData(counts, obs, pd.DataFrame(index=[f"g{i}" for i in range(4)]))


SIZES = {("ann", "T"): 9, ("ann", "rare"): 2, ("bob", "T"): 10, ("secret", "T"): 3}


def test_small_groups_are_withheld_with_a_note():
    adata = cells(SIZES)
    with pytest.warns(fm.FlashmmWarning, match="2 of 4 groups are withheld, with 5 of 24 cells"):
        groups = fm.summarise(adata, BY, minimum_cells=9)
    assert groups.obs["n_cells"].tolist() == [9, 10]
    assert list(groups.obs["cell_type"].cat.categories) == ["T"]
    whole = fm.summarise(adata, BY)
    kept = whole.obs["n_cells"].to_numpy() >= 9
    np.testing.assert_array_equal(groups.sum, whole.sum[kept])
    assert "fewer than 9 cells each" in groups.notes[-1]


@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
def test_nothing_of_them_is_in_the_file(tmp_path):
    fm.write_groups(fm.summarise(cells(SIZES), BY), tmp_path / "g.h5ad", minimum_cells=9)
    assert b"ann" in (tmp_path / "g.h5ad").read_bytes()
    texts: list[str] = []
    with h5py.File(tmp_path / "g.h5ad") as file:
        file.visititems(
            lambda name, item: texts.append(str(item[()])) if hasattr(item, "shape") else None
        )
    assert "ann" in " ".join(texts) and "secret" not in " ".join(texts)
    assert b"secret" not in (tmp_path / "g.h5ad").read_bytes()
    assert "2 of 4 groups are withheld" in " ".join(fm.read_groups(tmp_path / "g.h5ad").notes)


def test_groups_that_are_large_enough_stay_as_they_are():
    groups = fm.summarise(cells(SIZES), BY, minimum_cells=2)
    assert groups.n_groups == 4 and not groups.notes


def test_sites_that_withhold_and_merge_equal_the_groups_that_all_would_give():
    first, second = cells(SIZES), cells({("eve", "T"): 12, ("eve", "rare"): 1}, seed=2)
    with pytest.warns(fm.FlashmmWarning):
        merged = fm.merge([fm.summarise(part, BY, minimum_cells=9) for part in (first, second)])
        pooled = fm.summarise([first, second], BY, minimum_cells=9)
    pd.testing.assert_frame_equal(merged.obs, pooled.obs)
    np.testing.assert_allclose(merged.sumsq, pooled.sumsq, rtol=1e-12)
    assert sum("withheld" in text for text in merged.notes) == 2


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"minimum_cells": 0}, "below 1"),
        ({"minimum_cells": 2.5}, "must be a whole number"),
        ({"minimum_cells": True}, "must be a whole number"),
        ({"minimum_cells": 99}, "no group has so many cells, the largest has 10"),
        ({"minimum_cells": 5, "shard": (1, 2)}, "Merge the ranges first"),
    ],
)
def test_minima_that_cannot_be(asked, said):
    with pytest.raises(InputError, match=said):
        fm.summarise(cells(SIZES), BY, **asked)
