"""Make the notebooks of this folder from their scripts, and execute them.

``python docs/notebooks/run.py`` writes those whose script has changed, ``--all`` every one, and
``--check`` says which are stale. A script is cells after lines ``# %%``; those of
``# %% [markdown]`` are text behind ``# ``.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

FOLDER = Path(__file__).resolve().parent
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def cells(script: str) -> list[tuple[str, str]]:
    """Kind ("markdown" or "code") and text of each cell of a script."""
    parts = re.split(r"^# %%(.*)\n", script, flags=re.MULTILINE)[1:]
    return [
        ("markdown", re.sub(r"^# ?", "", text.strip("\n"), flags=re.MULTILINE))
        if "[markdown]" in kind
        else ("code", text.strip("\n"))
        for kind, text in zip(parts[::2], parts[1::2], strict=True)
    ]


def is_current(script: Path) -> bool:
    """Whether the notebook of a script has its cells."""
    path = script.with_suffix(".ipynb")
    if not path.exists():
        return False
    held = nbformat.read(path, as_version=4).cells
    return [(cell.cell_type, cell.source) for cell in held] == cells(script.read_text())


def executed(script: Path) -> nbformat.NotebookNode:
    """Notebook of a script with its outputs, run in an empty folder; warnings are left out."""
    kinds = {"markdown": new_markdown_cell, "code": new_code_cell}
    book = new_notebook(
        cells=[
            kinds[kind](text, id=f"{script.stem}-{number}")
            for number, (kind, text) in enumerate(cells(script.read_text()))
        ],
        metadata={"kernelspec": KERNEL, "language_info": {"name": "python"}},
    )
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(book, timeout=600, resources={"metadata": {"path": folder}})
        client.record_timing = False
        client.execute()
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    return book


def scripts() -> list[Path]:
    """Scripts that are notebooks."""
    return [path for path in sorted(FOLDER.glob("*.py")) if path != Path(__file__).resolve()]


def main() -> None:
    """Execute what is not current, or say what is not."""
    found = [path for path in scripts() if "--all" in sys.argv or not is_current(path)]
    if "--check" in sys.argv:
        names = ", ".join(path.name for path in found)
        sys.exit(f"Notebooks are older than {names}: make site" if found else None)
    for script in found:
        print(f"executing {script.name}", flush=True)
        nbformat.write(executed(script), script.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
