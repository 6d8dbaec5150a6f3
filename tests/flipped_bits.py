"""Copies of HDF5 files in which one bit of one dataset is another one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np


def flipped(path: Path, seed: int = 0) -> Iterator[tuple[str, Path]]:
    """Yield for each dataset its name and a copy of the file with one bit of it flipped."""
    rng = np.random.default_rng(seed)
    copy = path.with_name(f"flipped.{path.name}")
    with h5py.File(path, "r") as file:
        names = [name for name in _datasets(file) if file[name].size]
    for name in names:
        shutil.copyfile(path, copy)
        with h5py.File(copy, "r+") as file:
            _flip(file[name], rng)
        yield name, copy


def _datasets(file: h5py.File) -> list[str]:
    items: list[h5py.Group | h5py.Dataset] = []
    file.visititems(lambda _, item: items.append(item))
    return [item.name.strip("/") for item in items if isinstance(item, h5py.Dataset)]


def _flip(dataset: h5py.Dataset, rng: np.random.Generator) -> None:
    values = dataset[()]
    if dataset.dtype.kind == "O":
        texts = np.atleast_1d(values).astype(object)
        at = rng.choice([i for i, text in enumerate(texts.flat) if text])
        data = bytearray(texts.flat[at])
        data[rng.integers(len(data))] ^= 1
        texts.flat[at] = bytes(data)
        dataset[()] = texts if dataset.shape else texts[0]
        return
    plain = np.ascontiguousarray(np.atleast_1d(values))
    plain.view(np.uint8).reshape(-1)[rng.integers(plain.nbytes)] ^= 1 << rng.integers(8)
    if dataset.dtype.kind == "b":  # a truth value has one bit
        plain = ~np.atleast_1d(values)
    dataset[()] = plain if dataset.shape else plain[0]
