"""Compiled code has a folder, also where the package and the home cannot be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flashmm.storage import compiled
from flashmm.storage.compiled import VARIABLE, cache_compiled_code


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package, a home and a folder for temporary files; the first two are not writable."""
    for name in ("package", "home", "tmp"):
        (tmp_path / name).mkdir()
    writable = os.access

    def access(path: Path, mode: int) -> bool:
        return Path(path).name == "tmp" and writable(path, mode)

    monkeypatch.setattr(os, "access", access)
    monkeypatch.setattr(compiled, "_users_folder", lambda: tmp_path / "home" / "numba")
    monkeypatch.setattr(compiled.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delitem(compiled.sys.modules, "numba", raising=False)
    return tmp_path


def test_a_private_folder_among_temporary_ones(folders: Path) -> None:
    cache_compiled_code(folders / "package")
    folder = Path(os.environ[VARIABLE])
    assert folder == folders / "tmp" / f"flashmm-compiled-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_may_have_written_is_not_used(folders: Path) -> None:
    planted = folders / "tmp" / f"flashmm-compiled-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    cache_compiled_code(folders / "package")
    folder = Path(os.environ[VARIABLE])
    assert folder != planted
    assert folder.stat().st_mode & 0o777 == 0o700


def test_nothing_is_named_where_there_is_a_folder(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name == "home")
    cache_compiled_code(folders / "package")
    assert os.environ[VARIABLE] == ""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv(VARIABLE, "chosen")
    cache_compiled_code(folders / "package")
    assert os.environ[VARIABLE] == "chosen"
