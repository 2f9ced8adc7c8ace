"""Small faults that people make: every place of a source file where one could stand, and the file with it."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

MOST_SHOWN = 90  # characters of each side of a change

COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "&"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
}
OTHER_CALLS = {
    one: other
    for pair in (
        *(("min", "max"), ("minimum", "maximum"), ("amin", "amax"), ("argmin", "argmax"), ("any", "all")),
        *(("floor", "ceil"), ("sum", "mean"), ("zeros", "ones"), ("zeros_like", "ones_like")),
        *(("new_zeros", "new_ones"), ("startswith", "endswith"), ("partition", "rpartition")),
    )
    for one, other in (pair, pair[::-1])
}
# methods whose result has the kind of what they are called on
LEFT_OUT = frozenset(
    (
        *("clamp", "clamp_min", "clamp_max", "abs", "exp", "log", "log1p", "expm1", "sqrt", "square", "neg", "relu"),
        *("sigmoid", "tanh", "detach", "flip", "roll", "t", "lower", "casefold", "strip", "rstrip", "resolve"),
    )
)
REMOVED = (ast.AugAssign, ast.Raise, ast.Continue, ast.Break, ast.Delete)
Change = tuple[str, int, int, str]


@dataclass(frozen=True)
class Mutant:
    """One fault in one file.

    Args:
        path: The file, from the root of the project.
        scope: Class and function around it.
        operator: Its kind.
        start: First byte that it replaces.
        stop: First byte after those.
        text: What stands there instead.
        name: Says the same in a later version of the file, as long as the place itself did not change.
    """

    path: str
    scope: str
    operator: str
    line: int
    start: int
    stop: int
    text: str
    name: str

    def apply(self, source: str) -> str:
        """Return the file with the fault."""
        data = source.encode()
        return (data[: self.start] + self.text.encode() + data[self.stop :]).decode()


def mutants_of(path: str, source: str) -> list[Mutant]:
    """Return every mutant of a file, in the order of its lines."""
    text = _Text(source)
    places = [
        (change, scope, node)
        for scope, node in _walk(ast.parse(source), "")
        for kind, changes in CHANGES.items()
        if isinstance(node, kind)
        for change in changes(text, node)
    ]
    seen: Counter[str] = Counter()
    found = []
    for (operator, start, stop, new), scope, node in sorted(places, key=lambda place: place[0][1:]):
        name = f"{scope or 'module'}: {text.show(start, stop, new)}"
        seen[name] += 1
        name += f" #{seen[name]}" if seen[name] > 1 else ""
        found.append(Mutant(path, scope, operator, node.lineno, start, stop, new, name))
    return found


class _Text:
    """The bytes of a file by the places that its nodes name."""

    def __init__(self, source: str):
        self.data = source.encode()
        self.starts = [0]
        for line in self.data.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def span(self, node: Any) -> tuple[int, int]:
        """Return the first byte of a node, and the first after it."""
        return self.starts[node.lineno - 1] + node.col_offset, self.starts[node.end_lineno - 1] + node.end_col_offset

    def __getitem__(self, place: slice) -> str:
        return self.data[place].decode()

    def show(self, start: int, stop: int, new: str) -> str:
        """Return the lines of a change as they were and as they are, of bounded length."""
        first = max(each for each in self.starts if each <= start)
        last = min((each for each in self.starts if each >= stop), default=len(self.data))
        cut = max(0, start - first - MOST_SHOWN // 2)
        texts = self[first:last], self[first:start] + new + self[stop:last]
        return " -> ".join(" ".join(each[cut:].split())[:MOST_SHOWN] for each in texts)


def _walk(node: ast.AST, scope: str) -> Iterator[tuple[str, Any]]:
    """Yield every node that runs, with its scope; nothing that only people and type checkers read."""
    for field, value in ast.iter_fields(node):
        if field in UNREAD.get(type(node), ()):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, SKIPPED) or _is_for_type_checkers(child):
                continue
            yield scope, child
            inner = f"{scope}.{child.name}".lstrip(".") if isinstance(child, SCOPES) else scope
            yield from _walk(child, inner)


SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
SKIPPED = (ast.Import, ast.ImportFrom, ast.Assert, ast.JoinedStr)  # python 3.11 misplaces what is inside an f-string
UNREAD: dict[type[ast.AST], tuple[str, ...]] = {
    ast.FunctionDef: ("decorator_list", "returns"),
    ast.AsyncFunctionDef: ("decorator_list", "returns"),
    ast.ClassDef: ("decorator_list", "bases", "keywords"),
    ast.arg: ("annotation",),
    ast.AnnAssign: ("annotation",),
    ast.Raise: ("exc", "cause"),
}


def _is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _between(text: _Text, operator: str, left: Any, right: Any, old: str, new: str) -> Iterator[Change]:
    """Change the sign between two operands."""
    first, last = text.span(left)[1], text.span(right)[0]
    found = re.search(re.escape(old), text[first:last])
    if found:
        yield operator, first + found.start(), first + found.end(), new


def _comparison(text: _Text, node: ast.Compare) -> Iterator[Change]:
    for sign, (left, right) in zip(node.ops, pairwise([node.left, *node.comparators]), strict=True):
        yield from _between(text, "comparison", left, right, *COMPARISONS[type(sign)])


def _arithmetic(text: _Text, node: ast.BinOp) -> Iterator[Change]:
    if type(node.op) in ARITHMETIC:
        yield from _between(text, "arithmetic", node.left, node.right, *ARITHMETIC[type(node.op)])


def _in_place(text: _Text, node: ast.AugAssign) -> Iterator[Change]:
    if type(node.op) in ARITHMETIC:
        old, new = ARITHMETIC[type(node.op)]
        yield from _between(text, "arithmetic", node.target, node.value, f"{old}=", f"{new}=")


def _logic(text: _Text, node: ast.BoolOp) -> Iterator[Change]:
    words = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
    for left, right in pairwise(node.values):
        yield from _between(text, "logic", left, right, *words)


def _sign(text: _Text, node: ast.UnaryOp) -> Iterator[Change]:
    start, stop = text.span(node)
    yield "sign", start, stop, text[slice(*text.span(node.operand))]


def _constant(text: _Text, node: ast.Constant) -> Iterator[Change]:
    start, stop = text.span(node)
    if isinstance(node.value, bool):
        yield "constant", start, stop, str(not node.value)
    elif isinstance(node.value, int | float):
        yield "constant", start, stop, repr(node.value + 1)
        if node.value >= 1:
            yield "constant", start, stop, repr(node.value - 1)


def _condition(text: _Text, node: ast.If | ast.While | ast.IfExp) -> Iterator[Change]:
    if isinstance(node.test, ast.Name | ast.Attribute | ast.Call | ast.NamedExpr | ast.Subscript):
        start, stop = text.span(node.test)
        yield "condition", start, stop, f"(not ({text[start:stop]}))"


def _call(text: _Text, node: ast.Call) -> Iterator[Change]:
    word = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    stop = text.span(node.func)[1]
    if word in OTHER_CALLS:
        yield "other call", stop - len(word), stop, OTHER_CALLS[word]
    if word in LEFT_OUT and isinstance(node.func, ast.Attribute):
        start, end = text.span(node)
        yield "call left out", start, end, text[start : stop - len(word)].rstrip().removesuffix(".")


def _statement(text: _Text, node: ast.stmt) -> Iterator[Change]:
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.YieldFrom)
    is_kept = isinstance(node, ast.Assign) and all(isinstance(at, ast.Attribute | ast.Subscript) for at in node.targets)
    if is_call or is_kept or isinstance(node, REMOVED):
        yield "statement left out", *text.span(node), "pass"


def _return(text: _Text, node: ast.Return) -> Iterator[Change]:
    if node.value is not None and not isinstance(node.value, ast.Constant):
        yield "return", *text.span(node.value), "None"


CHANGES: dict[type[ast.AST] | tuple[type[ast.AST], ...], Callable[[_Text, Any], Iterator[Change]]] = {
    ast.Compare: _comparison,
    ast.BinOp: _arithmetic,
    ast.AugAssign: _in_place,
    ast.BoolOp: _logic,
    ast.UnaryOp: _sign,
    ast.Constant: _constant,
    (ast.If, ast.While, ast.IfExp): _condition,
    ast.Call: _call,
    ast.stmt: _statement,
    ast.Return: _return,
}
