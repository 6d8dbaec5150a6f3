"""Files of relatedness that claim more than they hold, or hold what nobody can compute with."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import flashmm as fm
from flashmm.options import InputError


def array_of(shape: str) -> bytes:
    """The header of a `.npy` file of numbers, without the numbers."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def test_arrays_that_claim_terabytes(tmp_path: Path) -> None:
    ids = io.BytesIO()
    np.save(ids, np.array(["a", "b"]))
    path = tmp_path / "k.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("ids.npy", ids.getvalue())
        file.writestr("K.npy", array_of("(10000000, 10000000)"))
    with pytest.raises(InputError, match=r"k\.npz' cannot be read"):
        fm.read_kinship_file(path)


def test_tables_without_content(tmp_path: Path) -> None:
    path = tmp_path / "k.parquet"
    path.touch()
    with pytest.raises(InputError, match=r"k\.parquet' cannot be read"):
        fm.read_kinship_file(path)
    pd.DataFrame().to_parquet(path)
    with pytest.raises(InputError, match=r"k\.parquet' cannot be read"):
        fm.read_kinship_file(path)


@pytest.mark.parametrize("value", [1e308, 1e200])
def test_values_whose_squares_are_no_numbers(value: float) -> None:
    Y, X = np.random.default_rng(0).normal(size=(5, 3)), np.ones((5, 1))
    K = np.eye(5)
    K[0, 1] = K[1, 0] = value
    with pytest.raises(InputError, match=r"K has values up to 1e\+\d+, whose squares"):
        fm.rotate_by_kinship(K, Y, X)
