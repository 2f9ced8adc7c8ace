"""Which files `pytest -k NAME` needs not import: those in which no test can have that name.

Imports are most of what an answer about one part takes. A test's name is made of its file's path, its class, its
function, its marks and its parameters. So a file whose text lacks the word holds no such test, unless parameters are
computed, or come from elsewhere: a list that is read from a registry has names that the file does not.
"""

from __future__ import annotations

import ast
import hashlib
import re
from functools import cache
from pathlib import Path

RULES = Path(__file__).read_text(encoding="utf-8")
OPERATORS = {"and", "or"}
remembered: dict[str, bool] = {}
"""What was found of files before, by their content: to parse all tests takes a second."""


def words_of(keyword: str) -> set[str] | None:
    """Return the words of which a test's name must have one, None where an expression is not read here.

    Digits at a word's end are left out: pytest counts parameters that have no name of their own.
    """
    words = {word.rstrip("0123456789") for word in re.findall(r"\w+", keyword.lower())}
    return None if {"not", ""} & words or not words - OPERATORS else words - OPERATORS


def may_hold(path: Path, words: frozenset[str]) -> bool:
    """Return whether a test of a file may have one of some words in its name."""
    text = path.read_text(encoding="utf-8")
    said = f"{path.as_posix()}\n{text}".lower()
    return any(word in said for word in words) or has_computed_names(text)


@cache
def has_computed_names(text: str) -> bool:
    """Return whether parameters of a file's tests are more than what stands there: `each_term` is all terms."""
    key = hashlib.sha256(f"{RULES}{text}".encode()).hexdigest()[:16]
    if key not in remembered:
        remembered[key] = _look_for_computed_names(text)
    return remembered[key]


def _look_for_computed_names(text: str) -> bool:
    if any(f"\n{name} = " not in text for name in re.findall(r"^@(each_\w+)", text, re.MULTILINE)):
        return True
    if "def pytest_generate_tests" in text:
        return True
    if not re.search(r"parametrize|params=", text):
        return False
    tree = ast.parse(text)
    stands = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            stands[node.targets[0].id] = node.value
    return any(not all(_is_plain(each, stands) for each in _parameters(node)) for node in ast.walk(tree))


def _parameters(node: ast.AST) -> list[ast.expr]:
    """Return what names of tests are made of, if a node says it."""
    called = _called(node)
    if called == "parametrize":
        return [*node.args[1:], *(each.value for each in node.keywords)]
    return [each.value for each in node.keywords if each.arg in ("params", "ids")] if called == "fixture" else []


def _called(node: ast.AST) -> str | None:
    """Return the name of what is called, if a node is a call."""
    if not isinstance(node, ast.Call):
        return None
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)


def _is_plain(node: ast.expr, stands: dict[str, ast.expr]) -> bool:
    """Return whether what is gone through for parameters stands in the file."""
    match node:
        case ast.List() | ast.Tuple() | ast.Set():
            return all(_has_plain_name(each) for each in node.elts)
        case ast.Dict():
            return all(each is not None and _has_plain_name(each) for each in node.keys)
        case ast.Name() if node.id in stands:
            return _is_plain(stands[node.id], {name: each for name, each in stands.items() if name != node.id})
        case ast.Call():
            return _called(node) == "range"
    return isinstance(node, ast.Constant)


def _has_plain_name(node: ast.expr) -> bool:
    """Return whether all words of what pytest calls a parameter stand in the file.

    Texts, functions and classes have names; what else there is gets a number.
    """
    match node:
        case ast.List() | ast.Tuple():
            return all(_has_plain_name(each) for each in node.elts)
        case ast.Call() if _called(node) == "param":
            return all(_has_plain_name(each) for each in (*node.args, *(each.value for each in node.keywords)))
        case ast.Call():
            return bool(re.match("float$|range$|[A-Z].*[a-z]", _called(node) or ""))
    return not isinstance(node, ast.Starred | ast.JoinedStr | ast.Subscript | ast.IfExp)
