"""Tables as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flashmm.io.tables import read_provenance, read_table, write_table
from flashmm.options import InputError
from flashmm.storage.files import package_version


def test_tables_come_back_as_they_were(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "gene": ["A", "B", "C"],
            "estimate": [0.1, np.nan, 1e-300],
            "n": [1, 2, 3],
            "status": pd.Categorical(["ok", "boundary", "ok"]),
        },
        index=[5, 1, 9],
    )
    write_table(frame, tmp_path / "t.parquet", tsv=tmp_path / "t.tsv.gz")
    pd.testing.assert_frame_equal(
        read_table(tmp_path / "t.parquet"), frame.reset_index(drop=True), check_exact=True
    )
    text = pd.read_csv(tmp_path / "t.tsv.gz", sep="\t")
    np.testing.assert_array_equal(text["estimate"], frame["estimate"])
    assert list(text.columns) == list(frame.columns)

    write_table(frame, tmp_path / "u.parquet", tsv=tmp_path / "u.tsv")
    assert (tmp_path / "u.tsv").read_text().splitlines()[2] == "B\tNA\t2\tboundary"
    assert (tmp_path / "t.parquet").read_bytes() == (tmp_path / "u.parquet").read_bytes()
    assert len(list(tmp_path.iterdir())) == 4


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file '.*t\.parquet'"):
        read_table(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_text("gene")
    with pytest.raises(InputError, match=r"t\.parquet' cannot be read"):
        read_table(tmp_path / "t.parquet")


def test_tables_carry_what_made_them(tmp_path):
    frame = pd.DataFrame({"gene": ["a", "b"], "p_value": [0.1, np.nan]})
    write_table(frame, tmp_path / "t.parquet", provenance={"rule": "test", "params": {"ddf": None}})
    made = read_provenance(tmp_path / "t.parquet")
    assert made == {"flashmm": package_version(), "rule": "test", "params": {"ddf": None}}
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet"), frame)
    frame.to_parquet(tmp_path / "other.parquet")
    assert read_provenance(tmp_path / "other.parquet") == {}


@pytest.mark.parametrize("name", ["=1+1", "+1", "-A1", "@sum", '=HYPERLINK("http://x")'])
def test_names_that_spreadsheets_take_for_formulas_come_back_as_they_are(name, tmp_path):
    """Documented in SECURITY.md: a changed name would be another gene."""
    frame = pd.DataFrame({"gene": [name, "A"], "p_value": [0.1, 0.2]})
    write_table(frame, tmp_path / "t.parquet", tsv=tmp_path / "t.tsv")
    assert list(pd.read_csv(tmp_path / "t.tsv", sep="\t")["gene"]) == [name, "A"]
    assert list(read_table(tmp_path / "t.parquet")["gene"]) == [name, "A"]
