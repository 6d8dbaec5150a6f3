"""R's lists: results whose items are attributes too."""

from __future__ import annotations

from typing import Any


class RList(dict[str, Any]):
    """A dictionary whose items are attributes too, and whose names may be written with dots."""

    def __missing__(self, name: str) -> Any:
        """Look `a.b` up as `a_b`."""
        key = name.replace(".", "_")
        if key == name:
            raise KeyError(name)
        return self[key]

    def __getattr__(self, name: str) -> Any:
        """Return the item of that name."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None
