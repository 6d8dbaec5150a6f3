"""Files of gene sets."""

from __future__ import annotations

import pytest

import flashmm as fm


def test_sets_of_a_file(tmp_path):
    path = tmp_path / "sets.gmt"
    path.write_text("A\thttp://a\tG1\tG2\tG1\n\nB\t\tG3\t\n")
    assert fm.read_gmt(path) == {"A": ("G1", "G2"), "B": ("G3",)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no gene sets"),
        ("A\tnote\n", "line 1: a set is a name"),
        ("A\tx\tG1\n\tx\tG1\n", "line 2"),
        ("A\tx\tG1\nA\tx\tG2\n", "two sets named 'A'"),
        ("name,genes\n", "separated by tabs"),
    ],
)
def test_what_is_refused(tmp_path, text, words):
    path = tmp_path / "sets.gmt"
    path.write_text(text)
    with pytest.raises(fm.InputError, match=words):
        fm.read_gmt(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(fm.InputError, match="no file"):
        fm.read_gmt(tmp_path / "sets.gmt")
