"""Where recipes, dataset cards and evaluation tasks lie: the working directory first, then what the package ships."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlp.registry import nearest
from vlp.types import RecipeError

PACKAGE = Path(__file__).resolve().parent


def folders(noun: str) -> Iterator[Path]:
    """Yield the existing folders of a noun (`recipes`, `data`, `eval`), nearest first."""
    seen: set[Path] = set()
    for root in (Path.cwd(), PACKAGE / "shipped", PACKAGE.parent):
        folder = (root / noun).resolve()
        if folder.is_dir() and folder not in seen:
            seen.add(folder)
            yield folder


def cards(noun: str) -> dict[str, Path]:
    """Map every card name of a noun to its YAML file; the working directory wins."""
    found: dict[str, Path] = {}
    for folder in folders(noun):
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def find_card(noun: str, name: str) -> Path:
    """Return the YAML file of a card, given its name or a path.

    Raises:
        RecipeError: No such card; names the nearest one.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return find_file(noun, name)
    known = cards(noun)
    if name not in known:
        where = ", ".join(str(folder) for folder in folders(noun)) or "no folder"
        raise RecipeError(f"no card '{name}' in {where}{nearest(name, known)}")
    return known[name]


def find_file(noun: str, name: str) -> Path:
    """Return an existing file given as a path from here, or from a folder of the noun.

    Raises:
        RecipeError: No such file; names the nearest one.
    """
    path = Path(name)
    beside = [folder / (path.relative_to(noun) if path.parts[:1] == (noun,) else path) for folder in folders(noun)]
    for candidate in [path, *beside]:
        if candidate.is_file():
            return candidate
    known = [str(file.relative_to(folder.parent)) for folder in folders(noun) for file in folder.rglob("*.yaml")]
    raise RecipeError(f"no file '{name}'{nearest(name, known)}")
