"""The digest of the code behind a result."""

from __future__ import annotations

import pytest

from flashmm.storage import provenance
from flashmm.storage.provenance import source_digest

FILES = {
    "pack/__init__.py": '"""The pack."""\nfrom pack.plots import draw\n',
    "pack/model.py": '"""Fits."""\nfrom pack.words import NAMES\n\ndef fit():\n    return NAMES\n',
    "pack/words.py": "NAMES = 1\n",
    "pack/plots/__init__.py": "from pack.plots.page import draw\n",
    "pack/plots/page.py": "def draw():\n    return 2\n",
    "pack/plots/templates/page.html.j2": "<p>",
    "scripts/fit.py": "from job import job\n\nfrom pack.model import fit\n",
    "scripts/report.py": "from pack.plots import draw\n",
    "scripts/job.py": "def job():\n    from pack import words\n",
}


def forget() -> None:
    """Be as a process that has just begun."""
    for function in (
        provenance._imported,
        provenance._module,
        provenance._source,
        provenance._kept,
    ):
        function.cache_clear()


@pytest.fixture
def changed(tmp_path, monkeypatch):
    """Names of the scripts whose digest differs after a file is given other content."""

    def digests(files):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "pack")
        forget()
        names = ("fit", "report")
        return {name: source_digest(tmp_path / "scripts" / f"{name}.py") for name in names}

    before = digests(FILES)
    yield lambda name, content: {
        script
        for script, digest in digests(FILES | {name: content}).items()
        if digest != before[script]
    }
    forget()


@pytest.mark.parametrize(
    ("name", "content", "scripts"),
    [
        ("pack/words.py", "NAMES = 2\n", {"fit"}),
        ("pack/words.py", "# a comment\nNAMES = 1\n", set()),
        ("pack/model.py", FILES["pack/model.py"].replace("Fits.", "Fits models."), set()),
        ("pack/plots/page.py", "def draw():\n    return 3\n", {"report"}),
        ("pack/plots/templates/page.html.j2", "<div>", {"report"}),
        ("scripts/job.py", "def job():\n    from pack import words, model\n", {"fit"}),
        ("scripts/report.py", "from pack.plots import draw\ndraw()\n", {"report"}),
    ],
)
def test_a_result_depends_on_what_its_script_imports(changed, name, content, scripts):
    assert changed(name, content) == scripts


def test_the_whole_package_has_a_digest():
    assert len(source_digest()) == 12


def test_what_is_found_of_a_source_is_kept(changed, tmp_path, monkeypatch):
    kept = list((tmp_path / "pack/__pycache__").iterdir())
    assert len(kept) == 1 and kept[0].suffix == ".json"
    before = source_digest(tmp_path / "scripts/fit.py")
    parsed = []
    found = provenance._found
    monkeypatch.setattr(provenance, "_found", lambda content: parsed.append(1) or found(content))
    forget()
    assert source_digest(tmp_path / "scripts/fit.py") == before and not parsed
    for spoilt in ("", "[1]", '{"a": 1}', '{"a": ["b"]}'):
        kept[0].write_text(spoilt)
        forget()
        assert source_digest(tmp_path / "scripts/fit.py") == before and parsed


def test_a_package_that_cannot_be_written_to_has_a_digest(changed, tmp_path, monkeypatch):
    before = source_digest(tmp_path / "scripts/fit.py")
    monkeypatch.setattr(provenance, "_place", lambda: tmp_path / "no/folder/here.json")
    forget()
    assert source_digest(tmp_path / "scripts/fit.py") == before
