"""What there is to name on a command line: recipes, tasks, attacks, cards, models with their weights, runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import open_clip

from vlp.evaluators.suites import suite_files
from vlp.evaluators.variants import families
from vlp.ground import paths
from vlp.ground.types import RecipeError
from vlp.ground.yaml import read_yaml
from vlp.robust.attack_file import attack_files
from vlp.run.checkpoint import LOCK, candidates
from vlp.towers.sources import dual_encoders

RUNS = "runs"
MOST_VARIANTS = 6


def list_things(what: str, part: str = "") -> list[str]:
    """Return a line for each thing whose name contains `part`.

    Args:
        what: `recipes`, `tasks`, `suites`, `attacks`, `cards`, `models` or `runs`.

    Raises:
        RecipeError: There are none.
    """
    found = [(name, note) for name, note in LISTS[what]() if part.lower() in name.lower()]
    if not found:
        raise RecipeError(f"there are no {what}" + (f" with '{part}' in their names" if part else " here"))
    width = max(len(name) for name, _ in found)
    return [f"{name:{width}}  {note}".rstrip() for name, note in found]


def _of_yaml(noun: str) -> Iterator[tuple[str, str]]:
    for name, path in sorted(paths.cards(noun).items()):
        if name != paths.BASE:
            yield name, _first_comment(path)


def _tasks() -> Iterator[tuple[str, str]]:
    """Yield a line for each file; variants of a task share one."""
    for path, names in families():
        first, *others = names
        if not others:
            yield first, _first_comment(path)
            continue
        variants = [name.removeprefix(f"{path.stem}-") for name in names if name != path.stem]
        shown = ", ".join(variants[:MOST_VARIANTS]) + (", ..." if len(variants) > MOST_VARIANTS else "")
        name = f"{path.stem}[-VARIANT]" if first == path.stem else f"{path.stem}-VARIANT"
        yield name, f"{_first_comment(path)} (variants: {shown})"


def _suites() -> Iterator[tuple[str, str]]:
    for name, path in sorted(suite_files().items()):
        yield name, _first_comment(path)


def _attacks() -> Iterator[tuple[str, str]]:
    for name, path in sorted(attack_files().items()):
        yield name, _first_comment(path)


def _cards() -> Iterator[tuple[str, str]]:
    for name, path in sorted(paths.cards("data").items()):
        try:
            card = read_yaml(path)
        except RecipeError as error:
            yield name, f"({error})"
            continue
        if "shards" not in card:
            continue
        count = card.get("samples")
        facts = [f"{count:,} pairs" if isinstance(count, int) else "", str(card.get("licence", "") or "")]
        yield name, "; ".join(fact for fact in facts if fact) or _first_comment(path)


def _models() -> Iterator[tuple[str, str]]:
    for name in dual_encoders():
        yield name, ", ".join(open_clip.list_pretrained_tags_by_model(name))


def _runs() -> Iterator[tuple[str, str]]:
    for path in sorted(Path(RUNS).glob(f"*/{LOCK}")):
        run = path.parent
        newest = next(iter(candidates(run)), None)
        yield str(run), f"newest checkpoint: {newest.name}" if newest else "no checkpoint"


def _first_comment(path: Path) -> str:
    try:
        line = path.read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, UnicodeDecodeError):
        return ""
    return line.lstrip("# ").strip() if line.startswith("#") else ""


LISTS: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {
    "recipes": lambda: _of_yaml("recipes"),
    "tasks": _tasks,
    "suites": _suites,
    "attacks": _attacks,
    "cards": _cards,
    "models": _models,
    "runs": _runs,
}
