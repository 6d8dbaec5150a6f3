"""Mistakes in configs, sheets and files of counts: what is said of them before any rule runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml

from flashmm.workflow.cells_check import check_cells
from flashmm.workflow.config_files import check_config_files
from flashmm.workflow.plan import read_plan
from flashmm.workflow.sheets import ConfigError, Schemas
from flashmm.workflow.wording import in_yaml

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = Schemas.in_folder(ROOT / "workflow" / "schemas")

# A config that can be run: a mistake replaces one of its lines, or adds some.
BASE = """
methods: {m: {fixed: ~ log(libsize) + condition, random: subject, within: cell_type}}
datasets: {cells: {counts: cells.h5ad}}
"""


def mistakes() -> Iterator[tuple[str, str]]:
    """Yield the lines of each mistake and what is said of it."""
    text = (Path(__file__).parent / "mistakes.txt").read_text()
    for block in re.split(r"\n\n+", text):
        lines, arrow, said = block.partition("\n-> ")
        if arrow:
            yield lines, said.strip()


MISTAKES = list(mistakes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Cells of six subjects in two conditions and two cell types; some values are missing."""
    folder = tmp_path_factory.mktemp("mistakes")
    rows = np.arange(480)
    obs = pd.DataFrame(
        {
            "subject": np.char.add("S", (rows % 6).astype(str)),
            "condition": np.where(rows % 2, "stim", "ctrl"),
            "cell_type": np.where(rows < 240, "B", "NK"),
            "answer": np.where(rows % 2, "yes", "no"),
            "age": np.where(rows == 7, np.nan, 30.0 + rows % 6),
            "libsize": 1000.0,
        },
        index=np.char.add("c", rows.astype(str)),
    )
    obs.loc[obs.index[300], "answer"] = np.nan
    ad.AnnData(np.ones((480, 2), dtype=np.float32), obs).write_h5ad(folder / "cells.h5ad")
    (folder / "broken.h5ad").write_bytes(b"not a file of cells")
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def said_of(lines: str) -> str:
    """What ends the run of a config, as the workflow reads it; nothing where it can be run."""
    changed = {line.partition(":")[0] for line in lines.splitlines()}
    kept = [line for line in BASE.split("\n") if line.partition(":")[0] not in changed]
    text = "\n".join([*kept, lines])
    Path("config.yaml").write_text(text)
    try:
        check_config_files(["config.yaml"])
        check_cells(read_plan(yaml.safe_load(text), SCHEMAS))
    except ConfigError as error:
        return str(error)
    return ""


def test_configs_without_a_mistake(here):
    assert said_of("") == ""
    assert said_of("benchmark: {scenarios: {s: {n_cells: 100}}}") == ""
    assert said_of("by: [subject, condition, cell_type, answer]\nmissing: drop") == ""
    assert said_of("reference: {condition: stim}\ntest: condition[T.ctrl]") == ""


def test_there_are_many():
    assert len(MISTAKES) >= 80


@pytest.mark.parametrize(("lines", "said"), MISTAKES, ids=[said for _, said in MISTAKES])
def test_a_mistake(here, lines, said):
    found = said_of(lines)
    if said.endswith("..."):
        found = found[: len(said) - 3] + "..."
    assert found == said


# A sheet of methods, and what is said of it.
SHEETS = [
    ("", "the file is empty; its first line names the columns"),
    ("# only a comment\n", "the file is empty; its first line names the columns"),
    ("name\tfixed\n", "no rows below the names of the columns"),
    ("name,fixed\nm,~ 1\n", "the columns are separated by commas; save the sheet tab-separated"),
    (
        "name;fixed\nm;~ 1\n",
        "the columns are separated by semicolons; save the sheet tab-separated",
    ),
    ("name  fixed\nm  ~ 1\n", "the columns are separated by spaces; save the sheet tab-separated"),
    ("name\tfixed\tfixed\n", "2 columns have the name 'fixed'; each needs one of its own"),
    ("name\tfixed\nm\t~ 1\tx\n", "line 2 ('m') has 3 cells, and there are 2 columns"),
    ("name\t\tfixed\nm\tx\t~ 1\n", "line 2 ('m') has a cell in a column without a name"),
    ("name\tfixed\nm ~ 1\n", "line 2 ('m ~ 1') has no tab; the columns are 'name', 'fixed'"),
    (
        'name\tfixed\nm\t"~ 1\n',
        'line 2: a cell begins with a quote that does not close at its end: "~ 1; leave the '
        "quotes out",
    ),
    (
        'name\tfixed\nm\t"~" 1\n',
        'line 2: a cell begins with a quote that does not close at its end: "~" 1; leave the '
        "quotes out",
    ),
    (
        b"name\tfixed\nm\t~ gr\xf6\xdfe\n",
        "line 2 is not text in UTF-8 (byte 0xf6); save the sheet as tab-separated text in UTF-8",
    ),
    (
        "name\tfixed\n".encode("utf-16"),
        "line 1 is not text in UTF-8 (byte 0xff); save the sheet as tab-separated text in UTF-8",
    ),
    (
        "fixed\trandom\n~ 1\tsubject\n",
        "no column is called 'name'; the first line names the columns, and has 'fixed', 'random'",
    ),
    (
        "name\tfixed\n\t~ 1\n",
        "a row without a name: 'name': '' is not allowed; expected letters, digits, - and _",
    ),
    ("name\tfixed\nm\t~ 1\nm\t~ 1\n", "the name 'm' is used twice"),
    ("name\tfixed\trandm\nm\t~ 1\tx\n", "m: unknown key 'randm'; did you mean 'random'?"),
    (
        "name\tfixed\tmax_iter\nm\t~ 1\tten\n",
        "m: 'max_iter': 'ten' is not allowed; expected the limit of the iterations per gene",
    ),
    (
        "name\tfixed\tmin_counts\nm\t~ 1\tNaN\n",
        "m: min_counts: nan is not allowed; expected a finite number",
    ),
]


@pytest.mark.parametrize(("sheet", "said"), SHEETS, ids=[said for _, said in SHEETS])
def test_a_wrong_sheet(here, sheet, said):
    Path("methods.tsv").write_bytes(sheet if isinstance(sheet, bytes) else sheet.encode())
    assert said_of("methods: methods.tsv") == f"methods.tsv: {said}"


def test_sheets_as_spreadsheets_write_them(here):
    row = 'm\t"~ log(libsize) + condition"\tsubject\tcell_type\t\t'
    text = "\ufeffname\tfixed\trandom\twithin\t\t\r\n# a comment\r\n\r\n" + row + "\r\n"
    Path("methods.tsv").write_bytes(text.encode())
    assert said_of("methods: methods.tsv") == ""


@pytest.mark.parametrize(
    ("python", "yaml_words"),
    [
        ("set reference={'condition': 'ctrl'}.", "set reference: {condition: ctrl}."),
        ("by=['subject', 'cell type']", "by: [subject, 'cell type']"),
        ("use missing='drop' to leave", "use missing: drop to leave"),
        ("moderate=True does not go with ddf='jackknife'.", "moderate: true does not go with "
         "ddf: jackknife."),
        ("lfc=0.5; a == b, x<=3, 'a=b'", "lfc: 0.5; a == b, x<=3, 'a=b'"),
    ],
)  # fmt: skip
def test_messages_in_the_words_of_a_config(python, yaml_words):
    assert in_yaml(python) == yaml_words
