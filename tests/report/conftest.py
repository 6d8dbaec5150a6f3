"""What the tests of pages share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from coarse_figures import draw_coarsely
from pages import typed_inputs

from flashmm.report import write_report


@pytest.fixture(scope="module", autouse=True)
def coarse_figures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        draw_coarsely(patch)
        yield


@pytest.fixture(scope="session")
def typed_page(tmp_path_factory) -> Path:
    """A report of models per cell type, made from files."""
    folder = tmp_path_factory.mktemp("typed")
    with pytest.MonkeyPatch.context() as patch:
        draw_coarsely(patch)
        write_report(folder / "report.html", typed_inputs(folder))
    return folder / "report.html"
