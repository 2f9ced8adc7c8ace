"""How settings are said: their sentences in a documentation, their kinds and their defaults in words."""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

SCALARS = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    type(None): "null",
    object: "anything",
}


def body_of(documented: Any) -> str:
    """Return a documentation without what its sections `Args` and `Raises` say."""
    text = inspect.getdoc(documented) or ""
    return re.sub(r"^(Args|Raises):\n(?:(?:    .*)?\n?)*", "", text, flags=re.MULTILINE).strip()


@cache
def sentences_of(documented: Any) -> dict[str, str]:
    """Map the settings that a documentation explains, under `Args`, to what it says of them."""
    section = re.search(r"^Args:\n((?:(?:    .*)?\n?)*)", inspect.getdoc(documented) or "", flags=re.MULTILINE)
    found: dict[str, str] = {}
    name = ""
    for line in section.group(1).splitlines() if section else ():
        if match := re.fullmatch(r"    (\w+): (.*)", line):
            name, found[match.group(1)] = match.groups()
        elif line.strip():
            found[name] += f" {line.strip()}"
    return found


def kind_of(annotation: Any) -> str:
    """Return a type in the words of YAML."""
    if annotation in SCALARS:
        return SCALARS[annotation]
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return kind_of(inner[0])
    if origin is typing.Literal:
        return ", ".join(map(str, inner))
    if origin in (typing.Union, types.UnionType):
        kinds = dict.fromkeys(kind_of(option) for option in inner)
        return " or ".join(sorted(kinds, key=lambda kind: kind == "null"))
    if (origin in (tuple, list) and inner[-1] is Ellipsis) or origin is list:
        return f"list of {kind_of(inner[0])}"
    if origin is tuple:
        return f"[{', '.join(map(kind_of, inner))}]"
    if origin is dict:
        return f"mapping, each to: {kind_of(inner[1])}"
    return "section" if isinstance(annotation, type) and issubclass(annotation, BaseModel) else str(annotation)


def default_of(field: Any) -> str:
    """Return a default as a recipe would spell it; `required` where there is none."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "its own defaults" if isinstance(value, BaseModel) else json.dumps(value, default=list)
