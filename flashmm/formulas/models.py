"""Models and covariates from text: fixed terms, random terms, products."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from formulaic import Formula
from formulaic.errors import FormulaicError

from flashmm.formulas.trees import Factor, called, factor_of, plain_name, read_tree
from flashmm.formulas.words import ELEMENTWISE, Words, refused
from flashmm.options import FormulaError

Term = tuple[Factor, ...]  # the empty term is the intercept

_KEPT = 256  # texts that are read once; a model is asked for its terms again and again


@dataclass(frozen=True)
class _Bar:
    """`(left | right)` or `(left || right)`, cut into words."""

    text: str
    left: Words
    right: Words
    independent: bool


@dataclass(frozen=True)
class RandomTerm:
    """Columns that group the cells, and the terms whose coefficients vary between the groups."""

    text: str
    columns: tuple[str, ...]
    slopes: tuple[Term, ...] = ((),)
    independent: bool = True


def _one_sided(words: Words) -> Words:
    """Return the words after a leading `~`; there is no other."""
    body = words.words[1:] if words.words[:1] == (("other", "~"),) else words.words
    if ("other", "~") in body:
        raise FormulaError(
            f"formula {words.text!r}: formulas are one-sided, ~ followed by the terms; the "
            "response is the expression of each gene and is not named."
        )
    return Words(words.text, body)


def _split_bars(words: Words) -> tuple[Words, dict[str, _Bar]]:
    """Put a placeholder in the place of every `(left | right)`."""
    kept: list[tuple[str, str]] = []
    opened: list[int] = []
    marks: dict[int, int] = {}
    bars: dict[str, _Bar] = {}
    for kind, word in words.words:
        if kind == "bar":
            if not opened or opened[-1] in marks:
                raise refused(words.text, f"`{word}`", "A random term is written (1 | subject).")
            marks[opened[-1]] = len(kept)
        if (kind, word) == ("other", "("):
            opened.append(len(kept))
        kept.append((kind, word))
        if (kind, word) == ("other", ")") and opened and (start := opened.pop()) in marks:
            bar = _bar(kept[start:], marks.pop(start) - start)
            alias = f"_bar_{len(bars)}_"
            bars[alias] = bar
            kept[start:] = [("space", " "), ("name", alias), ("space", " ")]
    return Words(words.text, tuple(kept)), bars


def _bar_outside(words: Words) -> bool:
    """Return whether a bar stands outside all parentheses."""
    depth = 0
    for kind, word in words.words:
        depth += {"(": 1, ")": -1}.get(word, 0)
        if kind == "bar" and depth == 0:
            return True
    return False


def _bar(words: list[tuple[str, str]], middle: int) -> _Bar:
    text = "".join(word for _, word in words)
    left, right = (Words(text, tuple(w)) for w in (words[1:middle], words[middle + 1 : -1]))
    return _Bar(text, left, right, words[middle][1] == "||")


@lru_cache(_KEPT)
def _terms(words: Words) -> tuple[Term, ...]:
    """Terms of a formula in formulaic's order, the intercept first unless it is removed.

    formulaic sees a placeholder for each column and each call; equal ones share it.
    """
    tree, source = read_tree(words)
    factors: dict[str, Factor] = {}
    aliases: dict[str, str] = {}
    try:
        leaves = _leaves(tree)
    except RecursionError as error:
        raise refused(words.text, "more terms than can be read") from error
    for leaf in reversed(leaves):
        factor = factor_of(leaf)
        alias = aliases.setdefault(factor.name, f"v{len(aliases)}")
        factors[alias] = factor
        source = source[: leaf.col_offset] + alias.encode() + source[leaf.end_col_offset :]
    try:
        formula = Formula(source.decode().replace("@", ":"))
    except (FormulaicError, RecursionError, TypeError) as error:
        message = str(error).splitlines()[0]
        raise refused(words.text, f"text that is no formula ({message})") from error
    return tuple(tuple(factors[f.expr] for f in t.factors if f.expr != "1") for t in formula)


def _leaves(node: ast.expr) -> list[ast.expr]:
    """Outermost columns and calls, from left to right."""
    if isinstance(node, ast.Name | ast.Call):
        return [node]
    children = (c for c in ast.iter_child_nodes(node) if isinstance(c, ast.expr))
    return [leaf for child in children for leaf in _leaves(child)]


def read_model(
    fixed: str, random: str | Sequence[str] | None
) -> tuple[list[Term], list[RandomTerm]]:
    """Read the fixed formula and the random terms, wherever these are written."""
    words, bars = _split_bars(_one_sided(Words.of(fixed)))
    terms = _terms(words)
    placeholders = [t[0].name for t in terms if len(t) == 1 and t[0].name in bars]
    held = [f.name for t in terms for f in t if f.name in bars]
    if sorted(held) != sorted(bars) or len(placeholders) != len(bars):
        raise FormulaError(f"formula {fixed!r}: random terms in bars can only be added to others.")
    if bars and random:
        raise FormulaError(f"formula {fixed!r} has random terms in bars, so leave `random` out.")
    items = [random] if isinstance(random, str) else list(random or ())
    groupings = [term for bar in bars.values() for term in _bar_terms(bar)]
    groupings += [term for item in items for term in _random_item(item)]
    if not groupings:
        raise FormulaError(
            "a mixed model needs a random term: random=['subject'], or (1 | subject) in the "
            "formula."
        )
    return [t for t in terms if not any(f.name in bars for f in t)], groupings


def read_fixed(formula: str) -> list[Term]:
    """Read a formula that holds fixed effects only."""
    words, bars = _split_bars(_one_sided(Words.of(formula)))
    if bars:
        raise FormulaError(f"formula {formula!r}: random terms have no place here.")
    return list(_terms(words))


def _random_item(text: str) -> list[RandomTerm]:
    """Read an entry of `random`: "a", "a:b", "a/b", "x || a", "(1 | a)" or "~ 0 + a"."""
    whole = Words.of(text)
    words = _one_sided(whole)
    if not any(kind == "bar" for kind, _ in words.words):
        return _one_sided_item(words) if words.words != whole.words else _groupings(words)
    if _bar_outside(words):
        words = Words(text, (("other", "("), *words.words, ("other", ")")))
    rest, bars = _split_bars(words)
    if {w for k, w in rest.words if k != "space"} - set(bars) - {"+"}:
        raise FormulaError(f"random term {text!r}: fixed terms belong into the fixed formula.")
    return [term for bar in bars.values() for term in _bar_terms(bar)]


def _one_sided_item(words: Words) -> list[RandomTerm]:
    """Read `~ 0 + a` or `~ 0 + a:b`, a formula of one term without intercept."""
    terms = _terms(words)
    if len(terms) != 1 or not all(isinstance(f.node, ast.Name) for f in terms[0]) or not terms[0]:
        raise FormulaError(
            f"random term {words.text!r}: write ~ 0 + subject, one formula for each random term."
        )
    return [RandomTerm(words.text, tuple(f.name for f in terms[0]))]


def _bar_terms(bar: _Bar) -> list[RandomTerm]:
    slopes = _terms(bar.left)
    if not slopes:
        raise FormulaError(f"random term {bar.text!r}: nothing varies; write (1 | subject).")
    return [RandomTerm(bar.text, g.columns, slopes, bar.independent) for g in _groupings(bar.right)]


def _groupings(words: Words) -> list[RandomTerm]:
    """Read the grouping of a random term: columns joined by `:`; `a/b` is a and a:b."""
    tree, _ = read_tree(words)

    def columns(node: ast.expr) -> list[tuple[str, ...]]:
        match node:
            case ast.Name():
                return [(plain_name(node.id),)]
            case ast.BinOp(op=ast.Div()):
                outer, inner = columns(node.left), columns(node.right)
                return outer + [outer[-1] + names for names in inner]
            case ast.BinOp(op=ast.MatMult()):
                left, right = columns(node.left), columns(node.right)
                if len(left) == len(right) == 1:
                    return [left[0] + right[0]]
        raise FormulaError(
            f"random term {words.text!r}: a grouping is a column, columns joined by `:`, or a/b "
            "for a and a:b; further random terms are further entries of the list."
        )

    return [RandomTerm(words.text, tuple(dict.fromkeys(names))) for names in columns(tree)]


@lru_cache(_KEPT)
def read_covariate(expr: str) -> tuple[Factor, ...]:
    """Read a covariate, a column or call or a product of them by `:`."""
    tree, _ = read_tree(Words.of(expr))

    def factors(node: ast.expr) -> tuple[Factor, ...]:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            return factors(node.left) + factors(node.right)
        if not isinstance(node, ast.Name | ast.Call):
            raise FormulaError(
                f"covariate {expr!r}: a covariate is a column, a call such as log(x), "
                "or a product of these written a:b."
            )
        return (factor_of(node),)

    found = factors(tree)
    learned = set().union(*(called(f.node) for f in found)) - set(ELEMENTWISE)
    if learned:
        raise FormulaError(
            f"covariate {expr!r}: {', '.join(sorted(learned))} would differ between files. Store "
            "the plain covariate; scale() and center() of it can then stand in a formula."
        )
    return found
