"""Files of cells that are made here from other cells, as AnnData keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anndata as ad
import numpy as np

from flashmm.storage.files import PathLike, atomic_path


def write_cells(cells: ad.AnnData, path: PathLike, provenance: Mapping[str, Any]) -> None:
    """Write cells with what made them; the bytes follow from both alone.

    Parameters
    ----------
    cells : AnnData (cells, genes)
        Sparse counts; nothing of it changes.
    path : path
        The `.h5ad` file. It is there whole or not at all.
    provenance : mapping
        What made the cells, as JSON can hold it; ``uns["flashmm"]`` keeps it as text.
    """
    said = {"provenance": json.dumps(provenance), "notes": np.array([], dtype=object)}
    whole = ad.AnnData(cells.X, obs=cells.obs, var=cells.var, uns={**cells.uns, "flashmm": said})
    with atomic_path(path) as unfinished:
        whole.write_h5ad(unfinished, compression="gzip", compression_opts=1)
