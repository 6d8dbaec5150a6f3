"""The text of formulas: read, checked, and evaluated without `eval`.

Formulas come from config files of other people, so no part of their text is ever executed:

1. `Words` cuts the text, and `_read` turns it into Python's syntax tree and walks it against a
   short list of what may stand there: columns, the operators of formulas, the functions `ALLOWED`.
2. formulaic, which knows R's operators, sees the formula with every column and every call replaced
   by a placeholder, and gives back the terms (`read_model`).
3. `evaluate` is a small interpreter of the checked trees of these columns and calls.
"""

from __future__ import annotations

import ast
import keyword
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from formulaic import Formula
from formulaic import transforms as formulaic_transforms
from formulaic.errors import FormulaicError

from flashmm.options import FormulaError, InputError

# --------------------------------------------------------------------------------------------
# What a formula may hold
# --------------------------------------------------------------------------------------------

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
_RULE = (
    "A formula may hold column names (in backticks where they are not plain words), 0, 1, "
    "+ - : * / ^ ( ), the functions "
    + ", ".join(ALLOWED)
    + ", and inside C "
    + ", ".join(f"contr.{name}" for name in CONTRASTS)
    + "."
)

# Bounds that no honest formula meets, so that a hostile one cannot exhaust the machine.
_MAX_CHARACTERS = 10_000
_MAX_TERMS = 5_000
_MAX_POWER = 10
_MAX_BASIS = 50
_BASES = ("poly", "bs", "cr")

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_FOUND: dict[type[ast.AST], str] = {
    ast.Attribute: "attribute access",
    ast.Subscript: "a subscript",
    ast.Lambda: "a lambda",
    ast.ListComp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.GeneratorExp: "a comprehension",
    ast.Dict: "braces",
    ast.Set: "braces",
    ast.JoinedStr: "a formatted string",
    ast.Compare: "a comparison",
    ast.BoolOp: "a boolean operator",
    ast.IfExp: "a conditional",
    ast.NamedExpr: "an assignment",
    ast.Starred: "a star argument",
    ast.Call: "a call of",
    ast.Constant: "the constant",
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
class Factor:
    """A column or an allowed call, as it stands in a formula.

    `name` is the text that formulaic would give it; `node` its checked syntax tree, where a name
    that is not a plain word keeps its backticks.
    """

    name: str
    node: ast.expr
    columns: frozenset[str]


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
        return cls(flat, words)


def _check_word(text: str, kind: str, word: str) -> None:
    """Refuse words that could only be code, with a message better than a syntax error's."""
    reserved = keyword.iskeyword(word) and word not in ("True", "False", "None")
    if kind == "name" and (reserved or word.startswith("__")):
        raise _refused(text, f"`{word}`", "A column of that name goes in backticks.")
    if kind == "other" and (word in "{}%;\\\"'`@&$!?#" or not word.isprintable()):
        raise _refused(text, f"the character {word!r}")


def _refused(text: str, found: str, hint: str = "") -> FormulaError:
    shown = text if len(text) <= 200 else text[:200] + " ..."
    return FormulaError(" ".join(filter(None, (f"formula {shown!r}: found {found}.", hint, _RULE))))


# --------------------------------------------------------------------------------------------
# Reading: text -> checked syntax tree
# --------------------------------------------------------------------------------------------


def _read(words: Words) -> tuple[ast.expr, bytes]:
    """Parse the words as a Python expression and check it; the source that it was read from too.

    `:` becomes `@` and `^` becomes `**`, which Python can parse; names that Python would alter or
    refuse become aliases while it reads, and get their own text (with backticks) back afterwards.
    """
    aliases: dict[str, str] = {}
    source = "".join(_python_word(kind, word, aliases) for kind, word in words.words).strip()
    try:
        tree = ast.parse(source, mode="eval").body
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                node.id = aliases.get(node.id, node.id)
        _check_terms(tree, words.text)
        if _n_terms(tree) > _MAX_TERMS:
            raise _refused(words.text, f"more than {_MAX_TERMS} terms")
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise _refused(words.text, "text that cannot be read") from error
    return tree, source.encode()


def _python_word(kind: str, word: str, aliases: dict[str, str]) -> str:
    aliased = not word.isascii() or word.startswith("_quoted_")
    if kind == "quoted" or (kind == "name" and aliased):
        name = word.strip("`")
        plain = name.isidentifier() and not keyword.iskeyword(name)
        alias = f"_quoted_{len(aliases)}_"
        aliases[alias] = name if plain else f"`{name}`"
        return alias
    return {"space": " ", "other": {":": "@", "^": "**"}.get(word, word)}.get(kind, word)


def _found(text: str, node: ast.AST) -> FormulaError:
    """Return the error for a node that may not stand where it does, naming what it is."""
    if isinstance(node, ast.BinOp):
        return _refused(text, f"the operator {type(node.op).__name__} here")
    what = _FOUND.get(type(node), "")
    shown = node.func if isinstance(node, ast.Call) else node
    hint = ""
    if isinstance(node, ast.Attribute):
        hint = "A column whose name holds a dot goes in backticks."
    return _refused(text, f"{what} `{ast.unparse(shown)[:80]}`".strip(), hint)


def _check_terms(node: ast.expr, text: str, added: bool = True) -> None:
    """Check the part of a tree where operators have the meaning of formulas.

    Only what is `added` to the formula may be 0 or 1; these are no factors.
    """
    match node:
        case ast.Name():
            return
        case ast.Constant(value=value) if added and type(value) is int and value in (0, 1):
            return
        case ast.Call():
            _check_call(node, text)
        case ast.BinOp(op=ast.Add() | ast.Sub()):
            _check_terms(node.left, text, added)
            _check_terms(node.right, text, added)
        case ast.BinOp(op=ast.Mult() | ast.Div() | ast.MatMult()):
            _check_terms(node.left, text, added=False)
            _check_terms(node.right, text, added=False)
        case ast.BinOp(op=ast.Pow(), right=ast.Constant(value=int(power))):
            if not 1 <= power <= _MAX_POWER:
                raise _refused(text, f"the power {power}", f"Powers go from 1 to {_MAX_POWER}.")
            _check_terms(node.left, text, added=False)
        case ast.UnaryOp(op=ast.UAdd() | ast.USub()):
            _check_terms(node.operand, text, added)
        case _:
            raise _found(text, node)


def _n_terms(node: ast.expr) -> int:
    """Bound the number of terms that a checked tree expands to."""
    match node:
        case ast.BinOp(op=ast.Pow(), right=ast.Constant(value=int(power))):
            return int(_n_terms(node.left) ** power)
        case ast.BinOp():
            left, right = _n_terms(node.left), _n_terms(node.right)
            both = left * right if isinstance(node.op, ast.Mult | ast.MatMult) else 0
            return left + right + both
        case ast.UnaryOp():
            return _n_terms(node.operand)
    return 1


def _check_call(node: ast.Call, text: str) -> None:
    if not (isinstance(node.func, ast.Name) and node.func.id in ALLOWED):
        raise _found(text, node)
    if not node.args or (node.func.id in ELEMENTWISE and len(node.args) + len(node.keywords) > 1):
        raise _refused(text, f"`{ast.unparse(node)}`", f"{node.func.id} takes one column.")
    if node.func.id == "C" and not isinstance(node.args[0], ast.Name):
        raise _refused(text, f"`{ast.unparse(node)}`", "C takes a column first.")
    if node.func.id in _BASES:
        _check_basis(node, text)
    coding = node.func.id == "C"
    for argument in node.args[coding:]:
        _check_argument(argument, text, coding)
    for option in _keywords(node, text):
        if not (node.func.id in _BASES and _is_text(option.value)):  # constraints="center"
            _check_argument(option.value, text, coding)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _check_basis(node: ast.Call, text: str) -> None:
    """Bound the size of a basis: knots are listed, degree and df are small whole numbers."""
    sizes = [*node.args[1:], *(k.value for k in node.keywords if k.arg in ("df", "degree"))]
    for size in sizes:
        constant = size.value if isinstance(size, ast.Constant) else None
        small = isinstance(constant, int) and 0 <= constant <= _MAX_BASIS
        if not (small or isinstance(size, ast.List | ast.Tuple)):
            hint = f"Degrees and df are whole numbers up to {_MAX_BASIS}."
            raise _refused(text, f"`{ast.unparse(size)}` in {call_name(node)}()", hint)


def call_name(call: ast.Call) -> str:
    """Return the name of the function of a checked call; "" for a coding (contr.*)."""
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _keywords(node: ast.Call, text: str) -> list[ast.keyword]:
    for argument in node.keywords:
        if argument.arg is None or argument.arg.startswith("_"):
            raise _refused(text, f"the argument `{argument.arg or '**'}`")
    return node.keywords


def _check_argument(node: ast.expr, text: str, coding: bool) -> None:
    """Check an argument, where operators are arithmetic; `coding` after the column of C()."""
    match node:
        case ast.Name() if not coding:
            return
        case ast.Constant(value=bool() | int() | float() | None):
            return
        case ast.Constant(value=str()) if coding:
            return
        case ast.Attribute(value=ast.Name(id="contr"), attr=name) if coding and name in CONTRASTS:
            return
        case ast.Call(func=ast.Attribute() as function) if coding:
            _check_argument(function, text, coding)
            for argument in (*node.args, *(k.value for k in _keywords(node, text))):
                _check_argument(argument, text, coding)
        case ast.Call() if not coding and call_name(node) != "C":
            _check_call(node, text)
        case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
            _check_argument(node.left, text, coding)
            _check_argument(node.right, text, coding)
        case ast.UnaryOp(op=ast.UAdd() | ast.USub()):
            _check_argument(node.operand, text, coding)
        case ast.List() | ast.Tuple():
            for item in node.elts:
                _check_argument(item, text, coding)
        case _:
            raise _found(text, node)


def plain_name(name: str) -> str:
    """Return a column's name without the backticks that its syntax tree keeps."""
    return name[1:-1] if name.startswith("`") else name


def _factor(node: ast.expr) -> Factor:
    """Describe a checked column or call."""
    functions = {id(c.func) for c in ast.walk(node) if isinstance(c, ast.Call)}
    codings = {id(a.value) for a in ast.walk(node) if isinstance(a, ast.Attribute)}
    columns = frozenset(
        plain_name(n.id)
        for n in ast.walk(node)
        if isinstance(n, ast.Name) and id(n) not in functions | codings
    )
    name = plain_name(node.id) if isinstance(node, ast.Name) else ast.unparse(node)
    if not columns:
        raise FormulaError(f"`{name}` names no column.")
    return Factor(name, node, columns)


def called(node: ast.expr) -> set[str]:
    """Return the names of the functions that a checked tree calls."""
    return {call_name(c) for c in ast.walk(node) if isinstance(c, ast.Call)} - {""}


def quoted_name(name: str) -> str:
    """Return a column's name as a formula takes it, in backticks unless it is a plain word."""
    return name if name.isidentifier() and not keyword.iskeyword(name) else f"`{name}`"


# --------------------------------------------------------------------------------------------
# Reading models and covariates: fixed terms, random terms, products
# --------------------------------------------------------------------------------------------

Term = tuple[Factor, ...]  # the empty term is the intercept


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
                raise _refused(words.text, f"`{word}`", "A random term is written (1 | subject).")
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


def _terms(words: Words) -> list[Term]:
    """Terms of a formula in formulaic's order, the intercept first unless it is removed.

    formulaic sees a placeholder for each column and each call; equal ones share it.
    """
    tree, source = _read(words)
    factors: dict[str, Factor] = {}
    aliases: dict[str, str] = {}
    for leaf in reversed(_leaves(tree)):
        factor = _factor(leaf)
        alias = aliases.setdefault(factor.name, f"v{len(aliases)}")
        factors[alias] = factor
        source = source[: leaf.col_offset] + alias.encode() + source[leaf.end_col_offset :]
    try:
        formula = Formula(source.decode().replace("@", ":"))
    except (FormulaicError, RecursionError, TypeError) as error:
        message = str(error).splitlines()[0]
        raise _refused(words.text, f"text that is no formula ({message})") from error
    return [tuple(factors[f.expr] for f in t.factors if f.expr != "1") for t in formula]


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
    return _terms(words)


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
    slopes = tuple(_terms(bar.left))
    if not slopes:
        raise FormulaError(f"random term {bar.text!r}: nothing varies; write (1 | subject).")
    return [RandomTerm(bar.text, g.columns, slopes, bar.independent) for g in _groupings(bar.right)]


def _groupings(words: Words) -> list[RandomTerm]:
    """Read the grouping of a random term: columns joined by `:`; `a/b` is a and a:b."""
    tree, _ = _read(words)

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


def read_covariate(expr: str) -> tuple[Factor, ...]:
    """Read a covariate, a column or call or a product of them by `:`."""
    tree, _ = _read(Words.of(expr))

    def factors(node: ast.expr) -> tuple[Factor, ...]:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            return factors(node.left) + factors(node.right)
        if not isinstance(node, ast.Name | ast.Call):
            raise FormulaError(
                f"covariate {expr!r}: a covariate is a column, a call such as log(x), "
                "or a product of these written a:b."
            )
        return (_factor(node),)

    found = factors(tree)
    learned = set().union(*(called(f.node) for f in found)) - set(ELEMENTWISE)
    if learned:
        raise FormulaError(
            f"covariate {expr!r}: {', '.join(sorted(learned))} would differ between files. Store "
            "the plain covariate; scale() and center() of it can then stand in a formula."
        )
    return found


# --------------------------------------------------------------------------------------------
# Evaluating a checked tree
# --------------------------------------------------------------------------------------------

_Column = Callable[..., Any]  # (name, labels=False) -> values; numbers unless labels are asked for


def _evaluate(node: ast.expr, column: _Column, states: dict[str, Any]) -> Any:
    """Value of a checked tree.

    `column` gives the values of a named column. `states` keeps what data-dependent transforms
    learn the first time (means, knots), so that a second evaluation applies it to other rows.
    """

    def value(child: ast.expr) -> Any:
        return _evaluate(child, column, states)

    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return column(plain_name(node.id))
        case ast.Attribute():
            return CONTRASTS[node.attr]
        case ast.List() | ast.Tuple():
            return [value(item) for item in node.elts]
        case ast.UnaryOp():
            return -value(node.operand) if isinstance(node.op, ast.USub) else value(node.operand)
        case ast.BinOp():
            left, right = np.float64(1) * value(node.left), np.float64(1) * value(node.right)
            return _ARITHMETIC[type(node.op)](left, right)
        case ast.Call():
            options = {str(k.arg): value(k.value) for k in node.keywords}
            name = call_name(node)
            if name == "C":
                labels = column(plain_name(node.args[0].id), labels=True)  # type: ignore[attr-defined]
                return _coded(labels, *map(value, node.args[1:]), **options)
            if name in DATA_DEPENDENT:
                options["_state"] = states.setdefault(ast.dump(node), {})
            function = (ELEMENTWISE | DATA_DEPENDENT).get(name) or value(node.func)
            return function(*map(value, node.args), **options)
    raise FormulaError(f"`{ast.unparse(node)}` has no value. {_RULE}")


def _coded(labels: pd.Series, *contrasts: Any, **options: Any) -> Any:
    """Return `labels` marked as categorical for formulaic, every label among the `levels`."""
    levels = options.get("levels")
    strange = [] if levels is None else sorted(set(labels.unique()) - set(levels), key=str)
    if strange:
        raise FormulaError(
            f"C({labels.name}, levels=...): the levels {strange} occur but are not listed."
        )
    return formulaic_transforms.C(labels, *contrasts, **options)


def evaluate(factor: Factor, column: _Column, states: dict[str, Any]) -> Any:
    """Value of a factor, with the errors of the functions that it calls made readable."""
    try:
        with np.errstate(all="ignore"):
            return _evaluate(factor.node, column, states)
    except (TypeError, ValueError, LookupError, ArithmeticError) as error:
        if isinstance(error, FormulaError | InputError):
            raise
        raise FormulaError(f"`{factor.name}` cannot be evaluated: {error}") from error
