"""Whether a config is data alone: ``python -m flashmm.workflow.check_config FILE``.

Snakemake hands a config to the template engine YTE before any line of a workflow runs: with the
key ``__use_yte__`` it executes Python that stands in the config, also in a dry run. A config of
somebody else is therefore looked at before Snakemake sees it; `make report` does so.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from flashmm.options import InputError
from flashmm.storage.files import PathLike, reading, require_regular

# Keys that YTE acts on; it evaluates texts that begin with a question mark.
_KEYS = ("__use_yte__", "__definitions__", "__variables__")
_MARK = "?"
# More than any config needs; an alias counts as what it stands for.
MOST_BYTES, MOST_VALUES = 10**7, 10**6


def check_config(path: PathLike) -> None:
    """Raise an InputError unless a config is plain YAML or JSON of a bounded size.

    Parameters
    ----------
    path : path
        The config. Nothing of it is executed.

    Raises
    ------
    InputError
        It holds what the template engine YTE would execute, tags of Python objects, aliases that
        stand for more than `MOST_VALUES` values or for themselves, or it is no mapping, too large,
        or no regular file.
    """
    require_regular(path)
    size = Path(path).stat().st_size
    if size > MOST_BYTES:
        raise InputError(f"'{path}' has {size} bytes; a config has {MOST_BYTES} at most.")
    try:
        with reading(path):
            text = Path(path).read_text("utf-8")
        config = _parsed(text, path)
        _refuse_many(config, path)
        _refuse_code(config, path)
    except RecursionError:
        raise InputError(f"'{path}' is nested too deeply.") from None


def _refuse_code(config: Any, path: PathLike) -> None:
    """Raise an InputError for a key or text that YTE acts on."""
    if not isinstance(config, dict):
        raise InputError(f"'{path}' is no config: it holds no keys at its top.")
    for place, text in _texts(config):
        if text in _KEYS or text.startswith(_MARK):
            where = f" (at {': '.join(place)})" if place else ""
            raise InputError(
                f"'{path}' holds {text[:60]!r}{where}, which Snakemake would execute as Python "
                "(YTE) before the workflow begins. Take it out: a config of flashmm is data alone."
            )


def _parsed(text: str, path: PathLike) -> Any:
    """Read JSON or YAML as Snakemake does, but without tags, which may make Python objects."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # a date such as 2001-99-99 is a ValueError
        said = " ".join(str(error).split())
        raise InputError(f"'{path}' is no plain YAML or JSON: {said}") from None


def _refuse_many(config: Any, path: PathLike) -> None:
    """Raise an InputError for aliases that stand for themselves, or for too much all together."""
    sizes: dict[int, int] = {}

    def size(value: Any) -> int:
        if not isinstance(value, dict | list):
            return 1
        if id(value) not in sizes:
            sizes[id(value)] = MOST_VALUES + 1  # until it is known: a part of itself
            inside = value.values() if isinstance(value, dict) else value
            sizes[id(value)] = 1 + sum(map(size, inside))
        return sizes[id(value)]

    if size(config) > MOST_VALUES:
        raise InputError(
            f"'{path}' stands for more than {MOST_VALUES} values: its aliases (*name) multiply. "
            "Write out what is meant."
        )


def _texts(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield all keys and texts, each with the keys that lead to it."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, inside in value.items():
            yield place, str(key)
            yield from _texts(inside, (*place, str(key)))
    elif isinstance(value, list):
        for inside in value:
            yield from _texts(inside, place)


def main(paths: list[str]) -> int:
    """Check configs; the exit code is 1, with a line on standard error, where one is refused."""
    for path in paths:
        try:
            check_config(path)
        except InputError as error:
            print(f"flashmm: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
