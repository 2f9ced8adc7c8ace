"""What the drawing of the house shows: rooms, their words, and which imports do not follow from others."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache

from tests.house import FLOORS, MODULES, imports, room_of

GROUND = "ground"


@dataclass(frozen=True)
class Room:
    """A package or a module of `vlp/`.

    Args:
        words: How its docstring begins.
        takes_parts: Whether a part of it is found by its name, so that anybody can add one.
    """

    name: str
    words: str
    takes_parts: bool


@cache
def rooms() -> dict[str, Room]:
    """Return all rooms by name."""
    return {name: _read(name) for floor in FLOORS for name in floor}


def arrows() -> list[tuple[str, str]]:
    """Return who imports whom, without what follows from other arrows, and without the ground, which all import."""
    direct = {name: _imported(name) for name in rooms()}

    @cache
    def reached(name: str) -> frozenset[str]:
        return frozenset(direct[name]).union(*(reached(other) for other in direct[name]))

    return sorted(
        (upper, lower)
        for upper, others in direct.items()
        for lower in others - {GROUND}
        if not any(lower in reached(other) for other in others - {lower})
    )


def _imported(name: str) -> set[str]:
    found = {room_of(other) for module in _modules(name) for other in imports()[module]}
    return found - {name}


def _modules(name: str) -> list[str]:
    return [module for module in MODULES if module != "vlp" and room_of(module) == name]


def _read(name: str) -> Room:
    modules = _modules(name)
    docstring = ast.get_docstring(ast.parse(MODULES[f"vlp.{name}"].read_text(encoding="utf-8"))) or ""
    takes_parts = any(_makes_a_registry(module) for module in modules)
    words = re.split(r"[.;](?:\s|$)", " ".join(docstring.replace("`", "").split()))[0]
    return Room(name, words, takes_parts)


def _makes_a_registry(module: str) -> bool:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return any(isinstance(called, ast.Name) and called.id == "Registry" for called in calls)
