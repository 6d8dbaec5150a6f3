"""Pages of the site that are made when it is built (a hook of MkDocs).

The API from the faces of the rooms, the notebooks, and the guides that stand beside `docs/` in the
repository. Links from a page to a file of the repository lead to the page that is made of it, or,
where ``FLASHMM_REPOSITORY`` says where the repository is, to the file there; else they are text.
"""

from __future__ import annotations

import ast
import base64
import importlib
import inspect
import json
import os
import posixpath
import re
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import flashmm

ROOT = Path(__file__).resolve().parents[1]
# Files of the repository that are pages of the site too.
GUIDES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "config/README.md": "configuration.md",
}
# Pages of the API: the title, and the rooms whose names they have.
API = {
    "analysis": ("The analysis and its fits", ("de", "lmm", "within")),
    "cells": ("Cells and groups", ("cells",)),
    "design": ("Designs and contrasts", ("design",)),
    "tests": ("Tests", ("inference",)),
    "notebook": ("What tables can do", ("notebook",)),
    "plots": ("Figures", ("plots",)),
    "files": ("Files", ("io",)),
    "subjects": ("Kinship and several traits", ("kinship", "multitrait", "subject_level")),
    "benchmarks": ("Simulation and benchmarks", ("simulate", "benchmark")),
    "errors": ("Errors and statuses", ("options",)),
}
# Functions of other programs under their own names, each a module.
COMPAT = ("flashmm_r", "lmmlite", "glimix")
_LINK = re.compile(r"(!?)\[((?:[^\]\[]|\[[^\]\[]*\])*)\]\(([^)\s]+)\)")
_FENCED = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put pages that the menu does not name at the end of a part: "How to", or "Guides".

    Where ``FLASHMM_SITE`` says where the site will stand, its page for dead links finds its style.
    """
    if place := os.environ.get("FLASHMM_SITE"):
        config.site_url = place
    named = set(re.findall(r"[\w/-]+\.md", repr(config.nav)))
    parts = {title: pages for part in config.nav for title, pages in part.items()}
    for path in sorted((ROOT / "docs").rglob("*.md")):
        place = path.relative_to(ROOT / "docs").as_posix()
        if place not in named:
            parts["How to" if place.startswith("how-to/") else "Guides"].append(place)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made: guides, notebooks, the API."""
    made: dict[str, str | bytes] = {
        page: (ROOT / source).read_text() for source, page in GUIDES.items()
    }
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        made |= notebook_page(path)
    made |= {f"api/{page}.md": api_page(page) for page in API}
    made["api/compat.md"] = compat_page()
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to the pages that are made, and fill the list of the API."""
    if page.file.src_uri == "api/index.md":
        markdown = markdown.replace("<!-- names -->", api_list())
    guides = {made: source for source, made in GUIDES.items()}
    source = guides.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return with_links(markdown, source, page.file.src_uri)


def with_links(markdown: str, source: str, page: str) -> str:
    """Text of a file of the repository, with links and tables as a page of the site has them."""

    def led(link: re.Match[str]) -> str:
        picture, text, target = link.groups()
        path, sign, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", target):
            return link[0]
        found = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        found = f"docs/{GUIDES[found]}" if found in GUIDES else found
        if found.startswith("docs/notebooks/") and found.endswith(".ipynb"):
            found = found.removesuffix("ipynb") + "md"
        if found.startswith("docs/"):
            place = posixpath.relpath(found, posixpath.dirname(f"docs/{page}"))
        elif repository := os.environ.get("FLASHMM_REPOSITORY"):
            place = f"{repository}/blob/main/{found}"
        else:
            return text
        return f"{picture}[{text}]({place}{sign}{anchor})"

    parts = _FENCED.split(markdown)
    return "".join(part if "```" in part else _LINK.sub(led, with_bars(part)) for part in parts)


def with_bars(markdown: str) -> str:
    """Text whose tables have bars in code as they are: other readers want them escaped."""

    def bare(row: re.Match[str]) -> str:
        return re.sub(r"`[^`]*`", lambda code: code[0].replace(r"\|", "|"), row[0])

    return re.sub(r"^\|.*$", bare, markdown, flags=re.MULTILINE)


# The API


def offered(page: str) -> dict[str, str]:
    """Names of a page of the API, as a user writes them, and where each is defined.

    Those of `flashmm` itself come first, then those that only a room offers.
    """
    rooms = API[page][1]
    first = {
        f"flashmm.{name}": defined(place, name)
        for name, place in flashmm._places.items()
        if name in flashmm.__all__ and place.split(".")[1] in rooms
    }
    others = {
        f"flashmm.{room}.{name}": defined(place, name)
        for room in rooms
        for name, place in places(f"flashmm.{room}").items()
    }
    known = set(first.values())
    return first | {name: place for name, place in others.items() if place not in known}


def defined(place: str, name: str) -> str:
    """Where a name is defined that a face may import from another face."""
    further = places(place)
    return defined(further[name], name) if name in further else f"{place}.{name}"


def places(module: str) -> dict[str, str]:
    """Module of each name that a face imports on demand; other modules are no faces."""
    found = getattr(importlib.import_module(module), "_places", {})
    return found if isinstance(found, dict) else {}


def api_page(page: str) -> str:
    """Page of the API: its names with their docstrings."""
    documented = [
        f"::: {place}\n    options:\n      heading: {name}\n      toc_label: {name}"
        for name, place in offered(page).items()
    ]
    return "\n\n".join([f"# {API[page][0]}", *documented])


def compat_page() -> str:
    """Page of other programs' functions."""
    text = [f"# Other programs' functions\n\n{inspect.getdoc(flashmm.compat)}"]
    for module in COMPAT:
        text.append(
            f"::: flashmm.compat.{module}\n    options:\n      heading: flashmm.compat.{module}"
        )
    return "\n\n".join(text)


def api_list() -> str:
    """All names by page, each with the first line of its docstring."""
    text = []
    for page, (title, _) in API.items():
        rows = [
            f"| [`{name}`]({page}.md#{place}) | {summary(place)} |"
            for name, place in offered(page).items()
        ]
        text.append("\n".join([f"## [{title}]({page}.md)\n", "| | |", "|---|---|", *rows]))
    text.append(
        "## [Other programs' functions](compat.md)\n\n"
        "Those of FLASHMM, lmmlite and glimix-core under their own names, in `flashmm.compat`."
    )
    return "\n\n".join(text)


def summary(place: str) -> str:
    """First line of the docstring of what is defined somewhere."""
    module, _, name = place.rpartition(".")
    found = importlib.import_module(module)
    thing = getattr(found, name)
    said = inspect.getdoc(thing) if callable(thing) else data_docstring(found, name)
    return (said or "").split("\n", 1)[0].replace("|", "\\|")


def data_docstring(module: ModuleType, name: str) -> str:
    """Text that stands below the assignment of a name of a module."""
    statements = ast.parse(inspect.getsource(module)).body
    for statement, after in pairwise(statements):
        if isinstance(statement, ast.AnnAssign | ast.Assign) and isinstance(after, ast.Expr):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if name in {ast.unparse(target) for target in targets}:
                return inspect.cleandoc(ast.literal_eval(after.value))
    raise ValueError(f"{module.__name__}.{name} is offered and has no docstring")


# Notebooks


def notebook_page(path: Path) -> dict[str, str | bytes]:
    """Page of an executed notebook, and its pictures, by their names in the site."""
    text: list[str] = []
    made: dict[str, str | bytes] = {}
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            text.append(source)
            continue
        text.append(f"```python\n{source}\n```")
        for place, output in enumerate(cell["outputs"]):
            picture = f"{path.stem}-{number}-{place}.png"
            text.append(shown(output, picture))
            if image := output.get("data", {}).get("image/png"):
                made[f"notebooks/{picture}"] = base64.b64decode(image)
    made[f"notebooks/{path.stem}.md"] = "\n\n".join(text)
    return made


def shown(output: dict[str, Any], picture: str) -> str:
    """Text of a page for one output of a cell."""
    if output["output_type"] == "stream":
        return f"```text\n{''.join(output['text']).rstrip()}\n```"
    data = output["data"]
    if "image/png" in data:
        return f"![The figure that this cell draws]({picture})"
    if "text/html" in data:
        html = re.sub(r"\n\s*\n", "\n", "".join(data["text/html"]))
        return f'<div class="output">\n{html}\n</div>'
    return f"```text\n{''.join(data['text/plain'])}\n```"
