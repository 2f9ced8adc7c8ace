"""The rooms of the house, the floors they lie on, and who imports whom."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "vlp"
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = (
    ("ground",),
    ("html", "attacks", "pairs", "towers", "data", "step"),
    ("evaluators", "objectives", "strategies"),
    ("recipe",),
    ("plan",),
    ("run",),
    ("embeddings",),
    ("train", "evaluate", "export", "report", "curate"),
    ("merging", "stages", "robust"),
    ("commands",),
    ("cli",),
)
"""Rooms of `vlp/`, from the ground up; `docs/architecture.md` shows the same."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}


def room_of(module: str) -> str:
    return module.split(".")[1]


def imported_by(tree: ast.AST) -> set[str]:
    """Return the modules of this package that code imports, at its top or within a function."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {
                whole if (whole := f"{node.module}.{alias.name}") in MODULES else node.module for alias in node.names
            }
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.startswith("vlp.")}


@cache
def trees() -> dict[Path, ast.Module]:
    """Return the syntax of each file; parsed once, when somebody asks."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


@cache
def imports() -> dict[str, set[str]]:
    """Return which modules each module imports."""
    return {module: imported_by(trees()[path]) for module, path in MODULES.items()}
