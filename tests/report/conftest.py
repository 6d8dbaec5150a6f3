"""What the tests of pages share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flashmm.plots import style


@pytest.fixture(scope="module", autouse=True)
def coarse_figures() -> Iterator[None]:
    """Figures of pages are small and not laid out; how figures look is what tests/plots asks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "PNG_DPI", 30)
        patch.setitem(style.STYLE, "figure.constrained_layout.use", False)
        yield
