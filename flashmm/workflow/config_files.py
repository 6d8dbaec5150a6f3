"""What the text of a config says and its values no longer show.

Of two equal keys YAML keeps the last, and it reads names such as `1` and `no` as a number and a
truth value. Snakemake has read the file by then; it is looked at again here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from flashmm.workflow.sheet_files import ConfigError

# What YAML 1.1 reads plain words as, beside text.
_KINDS = {
    "tag:yaml.org,2002:bool": "a truth value",
    "tag:yaml.org,2002:int": "a number",
    "tag:yaml.org,2002:float": "a number",
    "tag:yaml.org,2002:null": "nothing",
    "tag:yaml.org,2002:timestamp": "a date",
}
# Words that YAML 1.1 takes for truth values, though few who write them as a level know.
_SURPRISING = frozenset(("yes", "no", "on", "off"))
# Keys whose values are names of levels.
_LEVELS = frozenset(("reference", "keep", "traits"))


def check_config_files(paths: Iterable[str | Path]) -> None:
    """Refuse a config whose text says something else than its values.

    Parameters
    ----------
    paths : iterable of path
        Config files, YAML or JSON. What cannot be parsed is left to who reads it for its values.

    Raises
    ------
    ConfigError
        A key stands twice in a mapping, YAML reads a key as something else than text, or a level
        is a word such as `no`; with the line.
    """
    for path in paths:
        for fault in _faults(Path(path)):
            raise ConfigError(f"{path}: {fault}")


def _faults(path: Path) -> Iterator[str]:
    try:
        root = yaml.compose(path.read_text("utf-8-sig"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return
    if root is not None:
        yield from _Reader().faults(root, ())


@dataclass
class _Reader:
    """Goes through the nodes of a file, through one that several places share once."""

    seen: set[int] = field(default_factory=set)

    def faults(self, node: yaml.Node, place: tuple[str, ...]) -> Iterator[str]:
        """Yield the faults of a node and of those below it."""
        if id(node) in self.seen:
            return
        self.seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield from _faults_of_keys(node, place)
            for key, value in node.value:
                yield from self.faults(value, (*place, str(key.value)))
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                yield from self.faults(item, place)
        elif _is_plain(node) and node.value.lower() in _SURPRISING and _LEVELS & set(place):
            yield _misread(node, place)


def _faults_of_keys(node: yaml.MappingNode, place: tuple[str, ...]) -> Iterator[str]:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            yield f"line {line}: {_said(place)}a list or mapping stands where a name is needed"
        elif _is_plain(key) and key.tag in _KINDS:
            yield _misread(key, place)
        elif key.value in lines:
            yield (
                f"line {line}: {_said(place)}{key.value!r} is there twice, first in line "
                f"{lines[key.value]}; YAML would keep the last one only"
            )
        else:
            lines[key.value] = line


def _is_plain(node: yaml.Node) -> bool:
    """Whether a value stands without quotes."""
    return isinstance(node, yaml.ScalarNode) and node.style is None


def _misread(node: yaml.Node, place: tuple[str, ...]) -> str:
    return (
        f"line {node.start_mark.line + 1}: {_said(place)}YAML reads the name {node.value} as "
        f"{_KINDS[node.tag]}; put it into quotes: '{node.value}'"
    )


def _said(place: tuple[str, ...]) -> str:
    return "".join(f"{key}: " for key in place)
