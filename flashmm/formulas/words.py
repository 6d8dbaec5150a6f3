"""What a formula may hold: its functions, its words, and the refusal of everything else."""

from __future__ import annotations

import ast
import keyword
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from formulaic import transforms as formulaic_transforms

from flashmm.options import FormulaError

ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "log": np.log,
    "log1p": np.log1p,
    "log2": np.log2,
    "sqrt": np.sqrt,
}
DATA_DEPENDENT: dict[str, Callable[..., Any]] = {
    "scale": formulaic_transforms.scale,
    "center": formulaic_transforms.center,
    "poly": formulaic_transforms.poly,
    "bs": formulaic_transforms.basis_spline,
    "cr": formulaic_transforms.natural_cubic_spline,
}
CONTRASTS: dict[str, Any] = {
    "treatment": formulaic_transforms.ContrastsRegistry.treatment,
    "sum": formulaic_transforms.ContrastsRegistry.sum,
    "helmert": formulaic_transforms.ContrastsRegistry.helmert,
    "diff": formulaic_transforms.ContrastsRegistry.diff,
    "poly": formulaic_transforms.ContrastsRegistry.poly,
}
ALLOWED: tuple[str, ...] = (*ELEMENTWISE, *DATA_DEPENDENT, "C")
RULE = (
    "A formula may hold column names (in backticks where they are not plain words), 0, 1, "
    "+ - : * / ^ ( ), the functions "
    + ", ".join(ALLOWED)
    + ", and inside C "
    + ", ".join(f"contr.{name}" for name in CONTRASTS)
    + "."
)

# More than any honest formula has, so that a hostile one cannot exhaust the machine.
_MAX_CHARACTERS = 10_000

ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}

# The words of a formula. A string literal may hold no quote, backslash or backtick.
_WORDS = re.compile(
    r"""(?P<quoted>`[^`\n]+`)
      | (?P<string>"[^"'\\`\n]*"|'[^'"\\`\n]*')
      | (?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)
      | (?P<name>[^\W\d]\w*)
      | (?P<bar>\|\|?)
      | (?P<space>\s+)
      | (?P<other>.)""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Words:
    """A formula cut into words: (kind, text) pairs."""

    text: str
    words: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, text: str) -> Words:
        """Cut `text`, refusing what no formula holds."""
        if not isinstance(text, str):
            raise FormulaError(f"a formula is a string; found {type(text).__name__}.")
        if len(text) > _MAX_CHARACTERS:
            raise FormulaError(f"a formula of {len(text)} characters; at most {_MAX_CHARACTERS}.")
        flat = re.sub(r"[\r\n\t]+", " ", text).strip()
        words = tuple((str(m.lastgroup), m.group()) for m in _WORDS.finditer(flat))
        for kind, word in words:
            _check_word(flat, kind, word)
        for (kind, word), (_, after) in pairwise(words):
            if kind == "number" and re.match(r"[xXbBoO_]", after):  # 0x1, 1_0: numbers of Python
                raise refused(flat, f"the number `{word}{after}`", "Numbers are decimal.")
        return cls(flat, words)


def _check_word(text: str, kind: str, word: str) -> None:
    """Refuse words that could only be code, with a message better than a syntax error's."""
    reserved = keyword.iskeyword(word) and word not in ("True", "False", "None")
    if kind == "name" and (reserved or word.startswith("__")):
        raise refused(text, f"`{word}`", "A column of that name goes in backticks.")
    if kind == "other" and (word in "{}%;\\\"'`@&$!?#" or not word.isprintable()):
        raise refused(text, f"the character {word!r}")


def refused(text: str, found: str, hint: str = "") -> FormulaError:
    """Return the error for text that no formula may hold, with the rule of what it may."""
    shown = text if len(text) <= 200 else text[:200] + " ..."
    return FormulaError(" ".join(filter(None, (f"formula {shown!r}: found {found}.", hint, RULE))))
