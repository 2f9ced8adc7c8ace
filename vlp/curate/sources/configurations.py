"""Configurations of a clone of the hub, several data sets in one folder, which are never joined unasked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from vlp.curate.sources.splits import is_split, split_of_file
from vlp.ground.types import RecipeError

CARD = "README.md"
FENCE = "---"


def of_configuration(folder: Path, files: Sequence[Path], wanted: str) -> list[Path]:
    """Return the files of one configuration: as the card of the data set names them, or else by their folders.

    Args:
        files: All that are below the folder.
        wanted: Names with `+` between them; empty where nobody chose.

    Raises:
        RecipeError: There are several and nobody chose, or none of that name.
    """
    found = _told(folder, files) or _beside_each_other(folder, files)
    if wanted and not found:
        raise RecipeError(f"--configuration {wanted}: {folder} has no configurations")
    known = ", ".join(f"{name} ({len(parts)})" for name, parts in found.items())
    names = wanted.split("+") if wanted else list(found)
    for name in names:
        if name not in found:
            raise RecipeError(f"--configuration {wanted}: {folder} has no '{name}' (known: {known})")
    if len(names) > 1 and not wanted:
        raise RecipeError(
            f"{folder}: files of several configurations: {known}; choose with --configuration NAME, or several: "
            f"{'+'.join(names[:2])}"
        )
    return sorted({file for name in names for file in found[name]}) if names else list(files)


def _told(folder: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the files of each configuration that the card names, without those of which nothing is here."""
    here, found = set(files), dict[str, list[Path]]()
    for each in _configurations(folder / CARD):
        below = folder / str(each.get("data_dir") or "")
        patterns = list(_patterns(each.get("data_files"))) or (["**/*"] if each.get("data_dir") else [])
        matched = {path for pattern in patterns for path in _glob(below, pattern)}
        if here & matched:
            found[str(each.get("config_name", "default"))] = sorted(here & matched)
    return found


def _configurations(card: Path) -> list[Mapping[str, Any]]:
    """Return what the head of a card says of configurations; nothing where it cannot be read."""
    try:
        _, fence, rest = card.read_text(encoding="utf-8-sig").partition(f"{FENCE}\n")
        head = YAML(typ="safe").load(rest.partition(f"\n{FENCE}")[0]) if fence else None
    except (OSError, ValueError, YAMLError):
        return []
    told = head.get("configs") if isinstance(head, dict) else None
    return [each for each in told if isinstance(each, dict)] if isinstance(told, list) else []


def _patterns(told: Any) -> Iterator[str]:
    """Yield the patterns of files: one, a list of them, by split, or a list of splits with theirs."""
    if isinstance(told, str):
        yield told
    elif isinstance(told, list):
        for each in told:
            yield from _patterns(each.get("path") if isinstance(each, dict) else each)
    elif isinstance(told, dict):
        for each in told.values():
            yield from _patterns(each)


def _glob(folder: Path, pattern: str) -> Iterator[Path]:
    try:
        for path in folder.glob(pattern.strip("/")):
            yield from path.rglob("*") if path.is_dir() else [path]
    except (OSError, ValueError, NotImplementedError):  # an address, or no pattern
        return


def _beside_each_other(folder: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Return files by the folder that they are in, where several have a split of one name; nothing elsewhere."""
    found: dict[str, list[Path]] = {}
    splits: dict[str, set[str]] = {}
    for file in files:
        place = file.relative_to(folder)
        top = place.parts[0]
        if len(place.parts) < 2 or is_split(top):
            return {}
        found.setdefault(top, []).append(file)
        splits.setdefault(top, set()).add(split_of_file(Path(*place.parts[1:])))
    named = [names - {""} for names in splits.values()]
    is_several = any(one & other for place, one in enumerate(named) for other in named[place + 1 :])
    return found if is_several else {}
