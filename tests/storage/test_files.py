"""Files are written whole or not at all; digests and the version of the package."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import flashmm
from flashmm.options import DesignError, InputError
from flashmm.storage import files
from flashmm.storage.files import atomic_path, file_digest, package_version, reading


def test_errors_of_our_own_pass_while_a_file_is_read() -> None:
    with pytest.raises(DesignError, match="constant"), reading("fit.h5ad"):
        raise DesignError("the subject column is constant")


def test_atomic_path_writes_in_place(tmp_path: Path) -> None:
    target = tmp_path / "new" / "table.tsv.gz"
    with atomic_path(target) as path:
        path.write_text("all")
        assert path.parent == target.parent
        assert path.name.endswith("table.tsv.gz")
        assert not target.exists()
    assert target.read_text() == "all"
    assert [path.name for path in target.parent.iterdir()] == ["table.tsv.gz"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_path_leaves_nothing_half_written(
    error: type[BaseException], tmp_path: Path
) -> None:
    target = tmp_path / "table.tsv"
    target.write_text("old")

    def interrupted() -> None:
        with atomic_path(target) as path:
            path.write_text("ha")
            raise error

    with pytest.raises(error):
        interrupted()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["table.tsv"]


def test_file_digest(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content" * 100_000)
    assert file_digest(tmp_path / "file") == hashlib.sha256(b"content" * 100_000).hexdigest()
    with pytest.raises(InputError, match="no file"):
        file_digest(tmp_path / "nowhere")


def test_package_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", lambda name: f"{name} 9")
    assert package_version.__wrapped__() == "flashmm 9"
    monkeypatch.setattr(metadata, "version", absent)
    assert package_version.__wrapped__() == "0+unknown"


def test_the_package_says_the_version_that_is_installed() -> None:
    assert flashmm.__version__ == package_version()


def test_file_identity(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"some" * 100)
    assert files.file_identity(path) == file_digest(path)
    with pytest.raises(InputError, match="no file"):
        files.file_identity(tmp_path / "nowhere")
    content = np.random.default_rng(0).bytes(5 * 2**20)
    seen = set()
    for changed in (content, content[:-1], b"x" + content[1:], content[:-1] + b"x"):
        path.write_bytes(changed)
        seen.add(files.file_identity(path))
    assert len(seen) == 4


@pytest.mark.parametrize("how", ["replaced", "touched", "removed"])
def test_a_file_that_changes_while_it_is_in_use(how: str, tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    for file in (path, other):
        file.write_text("text")
    with files.unchanged(path, other):
        pass
    with pytest.raises(InputError, match=r"a' was replaced or changed"), files.unchanged(path):
        if how == "replaced":
            os.replace(other, path)
        elif how == "touched":
            os.utime(path, ns=(0, 1))
        else:
            path.unlink()


def test_what_a_killed_writer_has_left_is_removed_by_the_next(tmp_path: Path) -> None:
    code = """
import os, sys
from flashmm.storage.files import atomic_path
with atomic_path(sys.argv[1]) as path:
    path.write_text("half")
    os._exit(9)
"""
    target = tmp_path / "table [1].tsv"
    command = [sys.executable, "-c", code, str(target)]
    assert subprocess.run(command, cwd=Path(flashmm.__file__).parents[1]).returncode == 9
    (left,) = tmp_path.iterdir()
    other = tmp_path / left.name.replace("table", "other")
    other.touch()  # of another file: whoever writes that removes it
    with atomic_path(target) as first, atomic_path(target) as second:
        assert not left.exists()
        first.write_text("first")  # two that are at work leave each other alone
        second.write_text("second")
    assert target.read_text() == "first"
    assert sorted(tmp_path.iterdir()) == sorted([other, target])
