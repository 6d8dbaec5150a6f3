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


@pytest.fixture
def changed(tmp_path, monkeypatch):
    """Names of the scripts whose digest differs after a file is given other content."""

    def digests(files):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "pack")
        provenance._imported.cache_clear()
        provenance._content.cache_clear()
        names = ("fit", "report")
        return {name: source_digest(tmp_path / "scripts" / f"{name}.py") for name in names}

    before = digests(FILES)
    yield lambda name, content: {
        script
        for script, digest in digests(FILES | {name: content}).items()
        if digest != before[script]
    }
    provenance._imported.cache_clear()
    provenance._content.cache_clear()


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
