"""Files for programs, and the tables that they write."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import io, sparse

from flashmm.options import InputError
from flashmm.storage import programs
from flashmm.storage.programs import located, numbers, read_result, run_on_files

COPY = [sys.executable, "-S", "-c", "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"]


def test_a_table_goes_to_a_program_and_comes_back():
    table = pd.DataFrame({"gene": ['a"b', "NA", "007"], "p_value": [0.5, np.nan, 1.0]})
    answer = run_on_files([*COPY, "{table}", "{out}"], {"table": table}, {})
    assert answer.ended.code == 0
    assert answer.table is not None
    assert list(answer.table["gene"]) == ['a"b', "NA", "007"]
    np.testing.assert_array_equal(numbers(answer.table["p_value"]), table["p_value"])


@pytest.mark.filterwarnings("ignore:The default value for `spmatrix`")
def test_folders_matrices_and_values(tmp_path):
    matrix = sparse.random(30, 20, 0.3, random_state=1)
    matrix.data = np.arange(1, matrix.nnz + 1)
    script = tmp_path / "look.py"
    script.write_text(
        "import pathlib, shutil, sys\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        f"shutil.copy(folder / 'matrix.mtx', r'{tmp_path}')\n"
        "names = (folder / 'genes.tsv').read_text().split()[1:]\n"
        "text = 'gene,p_value\\n' + ''.join(f'{name},{sys.argv[2]}\\n' for name in names)\n"
        "pathlib.Path(sys.argv[3]).write_text(text)\n"
    )
    files = {"m": {"matrix": matrix, "genes": pd.DataFrame({"gene": ["a", "b"]})}}
    command = [sys.executable, "-S", str(script), "{m}", "{seed}", "{out}"]
    answer = run_on_files(command, files, {"seed": "1"})
    assert answer.table is not None and list(answer.table["p_value"]) == ["1", "1"]
    np.testing.assert_array_equal(io.mmread(tmp_path / "matrix.mtx").toarray(), matrix.toarray())


@pytest.mark.filterwarnings("ignore:The default value for `spmatrix`")
def test_a_matrix_is_written_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "_LINES_AT_ONCE", 7)
    matrix = sparse.coo_matrix(np.arange(20).reshape(4, 5))
    programs._write_matrix(tmp_path / "m.mtx", matrix)
    np.testing.assert_array_equal(io.mmread(tmp_path / "m.mtx").toarray(), matrix.toarray())


def test_names_that_no_text_can_hold():
    with pytest.raises(InputError, match="holds a tab or a line break"):
        run_on_files([*COPY, "{t}", "{out}"], {"t": pd.DataFrame({"gene": ["a\tb"]})}, {})


def test_tables_of_all_kinds(tmp_path):
    frame = pd.DataFrame({"gene": ["a"], "p_value": [0.25]})
    frame.to_parquet(tmp_path / "parquet")
    frame.to_csv(tmp_path / "comma", index=False)
    (tmp_path / "quoted").write_text('"gene"\t"p_value"\n"1"\t"a"\t0.25\n')  # of R's write.table
    for name in ("parquet", "comma", "quoted"):
        found = read_result(tmp_path / name)
        assert found is not None and list(found["gene"]) == ["a"]
        assert list(numbers(found["p_value"])) == [0.25]
    assert read_result(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"PAR1 is no table", b"a,b\n1,2,3\n1,2,3,4,5\n"]
)
def test_what_is_no_table(tmp_path, content):
    (tmp_path / "out").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a table"):
        read_result(tmp_path / "out")


def test_missing_numbers_are_missing_and_words_are_refused():
    found = numbers(pd.Series(["NA", "", " 0.5 ", "1e-300", "NaN"]))
    assert list(found.isna()) == [True, True, False, False, True] and found[3] == 1e-300
    with pytest.raises(ValueError, match="low"):
        numbers(pd.Series(["low"]))


def test_a_file_of_the_project_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(located("workflow/Snakefile")).is_file()
    assert located("--vanilla") == "--vanilla" and located("") == ""
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow" / "Snakefile").touch()
    assert located("workflow/Snakefile") == "workflow/Snakefile"
