"""Formulas as checked syntax trees: Python's parser reads the words, nothing is executed."""

from __future__ import annotations

import ast
import keyword
from dataclasses import dataclass

from flashmm.formulas.words import ALLOWED, ARITHMETIC, CONTRASTS, ELEMENTWISE, Words, refused
from flashmm.options import FormulaError

# Bounds that no honest formula meets, so that a hostile one cannot exhaust the machine.
_MAX_TERMS = 5_000
_MAX_POWER = 10
_MAX_BASIS = 50
_BASES = ("poly", "bs", "cr")

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


@dataclass(frozen=True)
class Factor:
    """A column or an allowed call, as it stands in a formula.

    `name` is the text that formulaic would give it; `node` its checked syntax tree, where a name
    that is not a plain word keeps its backticks.
    """

    name: str
    node: ast.expr
    columns: frozenset[str]


def read_tree(words: Words) -> tuple[ast.expr, bytes]:
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
            raise refused(words.text, f"more than {_MAX_TERMS} terms")
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise refused(words.text, "text that cannot be read") from error
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
        return refused(text, f"the operator {type(node.op).__name__} here")
    what = _FOUND.get(type(node), "")
    shown = node.func if isinstance(node, ast.Call) else node
    hint = ""
    if isinstance(node, ast.Attribute):
        hint = "A column whose name holds a dot goes in backticks."
    return refused(text, f"{what} `{ast.unparse(shown)[:80]}`".strip(), hint)


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
                raise refused(text, f"the power {power}", f"Powers go from 1 to {_MAX_POWER}.")
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
        raise refused(text, f"`{ast.unparse(node)}`", f"{node.func.id} takes one column.")
    if node.func.id == "C" and not isinstance(node.args[0], ast.Name):
        raise refused(text, f"`{ast.unparse(node)}`", "C takes a column first.")
    if node.func.id in _BASES:
        _check_basis(node, text)
    coding = node.func.id == "C"
    for given in [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "contrasts")]:
        if coding and isinstance(given, ast.Constant) and given.value is not None:
            hint = "C takes a coding second, such as contr.sum."
            raise refused(text, f"`{ast.unparse(node)}`", hint)
    for argument in node.args[coding:]:
        _check_argument(argument, text, coding)
    for option in _keywords(node, text):
        if not (node.func.id in _BASES and _is_text(option.value)):  # constraints="center"
            _check_argument(option.value, text, coding)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _check_basis(node: ast.Call, text: str) -> None:
    """Bound the size of a basis: knots are listed, degree and df are small whole numbers."""
    if called(node.args[0]) & set(_BASES):
        hint = "A basis is made of a column of numbers, not of another basis."
        raise refused(text, f"`{ast.unparse(node)[:80]}`", hint)
    sizes = [*node.args[1:], *(k.value for k in node.keywords if k.arg in ("df", "degree"))]
    for size in sizes:
        constant = size.value if isinstance(size, ast.Constant) else None
        small = isinstance(constant, int) and 0 <= constant <= _MAX_BASIS
        if not (small or isinstance(size, ast.List | ast.Tuple)):
            hint = f"Degrees and df are whole numbers up to {_MAX_BASIS}."
            raise refused(text, f"`{ast.unparse(size)}` in {call_name(node)}()", hint)


def call_name(call: ast.Call) -> str:
    """Return the name of the function of a checked call; "" for a coding (contr.*)."""
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _keywords(node: ast.Call, text: str) -> list[ast.keyword]:
    for argument in node.keywords:
        if argument.arg is None or argument.arg.startswith("_"):
            raise refused(text, f"the argument `{argument.arg or '**'}`")
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
        case ast.BinOp(op=op) if type(op) in ARITHMETIC:
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


def factor_of(node: ast.expr) -> Factor:
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
