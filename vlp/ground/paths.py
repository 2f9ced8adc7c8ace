"""Where recipes, dataset cards and evaluation tasks lie: the working directory first, then what the package ships."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from vlp.ground.registry import nearest
from vlp.ground.types import RecipeError

NOUNS = {"recipes": "recipe", "data": "card", "eval": "task"}
PLURALS = {"recipes": "recipes", "data": "cards", "eval": "tasks"}
BASE = "base"  # what other recipes extend, and nobody trains
MOST_SHOWN = 12
COPIES = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN")
PACKAGE = Path(__file__).resolve().parent.parent


def is_hidden(path: Path) -> bool:
    """Whether a file, or a folder above it, is one that its system does not show, as `._name` of macOS elsewhere, or a
    folder of copies that an archive of macOS or a disk station has made.

    Args:
        path: Relative to what was looked through.
    """
    return any(part.startswith(".") or part in COPIES for part in path.parts)


def folders(noun: str) -> Iterator[Path]:
    """Yield the existing folders of a noun (`recipes`, `data`, `eval`), nearest first."""
    seen: set[Path] = set()
    for root in (Path.cwd(), PACKAGE / "shipped", PACKAGE.parent):
        folder = (root / noun).resolve()
        if folder.is_dir() and folder not in seen:
            seen.add(folder)
            yield folder


def cards(noun: str, within: str = "") -> dict[str, Path]:
    """Map every card name of a noun to its YAML file; the working directory wins.

    Args:
        within: A folder of the noun, for the cards in there.
    """
    found: dict[str, Path] = {}
    for folder in folders(noun):
        for path in sorted((folder / within).glob("*.yaml")):
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
        raise RecipeError(f"there is no {NOUNS[noun]} '{name}'{nearest(name, known)} ({_what_there_is(noun, known)})")
    return known[name]


def _what_there_is(noun: str, known: Iterable[str]) -> str:
    names = sorted(name for name in known if name != BASE)
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    where = f"a path to a YAML file works too; see vlp list {PLURALS[noun]}"
    return f"there {'are' if len(names) != 1 else 'is'}: {', '.join(names[:MOST_SHOWN]) or 'none'}{more}; {where}"


def is_file(path: Path) -> bool:
    """Whether a file is there; a name that the system does not take, as it is too long, names none."""
    try:
        return path.is_file()
    except OSError:
        return False


def find_file(noun: str, name: str) -> Path:
    """Return an existing file given as a path from here, or from a folder of the noun.

    Raises:
        RecipeError: No such file; names the nearest one.
    """
    path = Path(name)
    beside = [folder / (path.relative_to(noun) if path.parts[:1] == (noun,) else path) for folder in folders(noun)]
    for candidate in [path, *beside]:
        if is_file(candidate):
            return candidate
    known = [
        str(file.relative_to(folder.parent))
        for folder in folders(noun)
        for file in folder.rglob("*.yaml")
        if file.stem != BASE
    ]
    raise RecipeError(f"there is no file '{name}'{nearest(name, known)}")
