"""Messages of the package in the words of a config: `reference: {condition: ctrl}`, no Python."""

from __future__ import annotations

import re

# An argument with a value that is text, a list, a mapping, or a plain word or number.
_ARGUMENT = re.compile(
    r"(?<![\w.{'\"])([a-z]\w*)=(?=(\[[^\[\]]*\]|\{[^{}]*\}|'[^']*'|\"[^\"]*\"|\w[\w.]*))\2(?!=)"
)
_QUOTED = re.compile(r"(['\"])([A-Za-z_][\w.-]*)\1")
_WORDS = {"True": "true", "False": "false", "None": "null"}


def in_yaml(text: str) -> str:
    """Write the arguments that a message names as keys of a config.

    Parameters
    ----------
    text : str
        A message that may hold ``reference={'condition': 'ctrl'}`` or ``missing='drop'``.

    Returns
    -------
    str
        The message with ``reference: {condition: ctrl}`` and ``missing: drop``.
    """
    return _ARGUMENT.sub(lambda found: f"{found[1]}: {_value(found[2])}", text)


def _value(text: str) -> str:
    """A literal as YAML has it; quotes stay where a word needs them."""
    return _WORDS.get(text, _QUOTED.sub(r"\2", text))
