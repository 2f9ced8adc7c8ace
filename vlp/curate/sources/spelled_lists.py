"""Lists of captions that a table spells out in one cell, as JSON, Python and NumPy write them."""

from __future__ import annotations

import ast
import io
import json
import tokenize
from collections.abc import Sequence
from typing import Any

BESIDE_TEXTS = {tokenize.NEWLINE, tokenize.NL, tokenize.ENDMARKER}


def listed(value: Any) -> Any:
    """Return the list that a text spells out; anything else as it is."""
    found = spelled_list(value) if isinstance(value, str) else None
    return value if found is None else found


def spelled_list(text: str) -> list[str] | None:
    """Return the texts of a list of nothing but texts; None for anything else, such as a caption in brackets."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        return _texts(json.loads(text))
    except (ValueError, RecursionError):
        return _of_literals(text)


def _texts(values: Any) -> list[str] | None:
    is_list = isinstance(values, list) and values and all(isinstance(value, str) for value in values)
    return list(values) if is_list else None


def _of_literals(text: str) -> list[str] | None:
    """Read what Python writes, and NumPy, which leaves out the commas: to Python that would be one text."""
    try:
        tokens = [
            each for each in tokenize.generate_tokens(io.StringIO(text).readline) if each.type not in BESIDE_TEXTS
        ]
        inside = tokens[1:-1]
        if not _are_texts_and_commas(inside):
            return None
        return _texts([ast.literal_eval(each.string) for each in inside if each.type == tokenize.STRING])
    except (ValueError, SyntaxError, tokenize.TokenError):
        return None


def _are_texts_and_commas(tokens: Sequence[tokenize.TokenInfo]) -> bool:
    return all(each.type == tokenize.STRING or each.string == "," for each in tokens)
