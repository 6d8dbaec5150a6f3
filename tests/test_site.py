"""The pages that are made when the site is built, and that it needs nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import flashmm

ROOT = Path(__file__).resolve().parents[1]
CONFIG = (ROOT / "mkdocs.yml").read_text()


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs" / "site_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_has_a_place_in_the_api(pages):
    shown = [name for page in pages.API for name in pages.offered(page)]
    assert {name for name in shown if name.count(".") == 1} == {
        f"flashmm.{name}" for name in flashmm.__all__
    }
    assert len(shown) == len(set(shown))
    assert "flashmm.plots.volcano_plot" in shown
    listed = pages.api_list()
    assert "[`flashmm.de`](analysis.md#flashmm.de.de) | Test differential expression" in listed


@pytest.mark.parametrize(
    ("text", "source", "page", "led"),
    [
        ("[a](b.md#c)", "docs/how-to/a.md", "how-to/a.md", "[a](b.md#c)"),
        ("[a](../config/README.md#x)", "docs/a.md", "a.md", "[a](configuration.md#x)"),
        ("[a](../../SECURITY.md)", "docs/how-to/a.md", "how-to/a.md", "[a](../security.md)"),
        ("[a](docs/model.md)", "CHANGELOG.md", "changelog.md", "[a](model.md)"),
        ("[the `x`](../flashmm/lmm.py)", "docs/a.md", "a.md", "the `x`"),
        ("[a](x.ipynb)", "docs/notebooks/index.md", "notebooks/index.md", "[a](x.md)"),
        ("```\n[a](../x)\n```", "docs/a.md", "a.md", "```\n[a](../x)\n```"),
        ("| `(1 \\| s)` | b |", "docs/a.md", "a.md", "| `(1 | s)` | b |"),
    ],
)
def test_links_and_tables_are_those_of_the_site(pages, monkeypatch, text, source, page, led):
    monkeypatch.delenv("FLASHMM_REPOSITORY", raising=False)
    assert pages.with_links(text, source, page) == led


def test_files_of_the_repository_are_linked_where_it_is_known(pages, monkeypatch):
    monkeypatch.setenv("FLASHMM_REPOSITORY", "https://host/project")
    led = pages.with_links("[a](../flashmm/lmm.py#L3)", "docs/a.md", "a.md")
    assert led == "[a](https://host/project/blob/main/flashmm/lmm.py#L3)"


def test_nothing_is_fetched_when_a_page_is_looked_at():
    config = yaml.safe_load(CONFIG)
    assert config["theme"]["font"] is False
    assert not re.findall(r"https?://", CONFIG)
    # the plugin "offline", for a search of pages opened as files, would load a script of others
    assert config["extra"]["polyfills"] == ["iframe-worker.js"]
    assert (ROOT / "docs" / "iframe-worker.js").exists()
    assert {next(iter(p)) if isinstance(p, dict) else p for p in config["plugins"]} == {
        "search",
        "offline",
        "mkdocstrings",
    }
    sources = [*(ROOT / "docs").rglob("*.md"), ROOT / "docs" / "style.css"]
    fetching = r"!\[[^\]]*\]\(https?:|<script|@import|url\(http"
    assert not [path.name for path in sources if re.search(fetching, path.read_text())]


def test_every_page_is_found_from_the_menu(pages):
    nav = yaml.safe_load(CONFIG)["nav"]
    for part in nav:
        for title, items in part.items():
            if title == "How to":
                items[:] = [item for item in items if "how-to/batches.md" not in str(item)]
    config = pages.on_config(SimpleNamespace(nav=nav))
    assert "how-to/batches.md" in dict(item for p in config.nav for item in p.items())["How to"]
    there = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    made = {*pages.GUIDES.values(), *(f"api/{page}.md" for page in pages.API), "api/compat.md"}
    made |= {f"notebooks/{path.stem}.md" for path in (ROOT / "docs/notebooks").glob("*.ipynb")}
    assert set(re.findall(r"[\w/-]+\.md", repr(config.nav))) == there | made
