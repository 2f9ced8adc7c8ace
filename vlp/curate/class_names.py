"""What the classes of an evaluation set are called, and what its source calls them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from vlp.curate.sources.folders import Folder
from vlp.curate.sources.rows import Source
from vlp.data import Captions
from vlp.data.faults import BadSampleError
from vlp.evaluators.layout import CLASS_NAMES, read_lines
from vlp.ground.paths import find_file
from vlp.ground.types import RecipeError

ROWS_AT_ONCE = 1000


def known_classes(source: Source) -> tuple[str, ...] | None:
    """Return the classes that a source knows; none where it has captions."""
    classes: tuple[str, ...] | None = getattr(source, "classes", None)
    return classes


def names_of_classes(source: Source, to: Path, given: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return names of classes, and what the source calls them where that is something else.

    The names are those given, those of a split that is there, those of the source, or all that stand in it.

    Args:
        to: Folder of the set.
        given: File of names; empty where nobody gave one.

    Raises:
        RecipeError: A name stands twice, the source has numbers alone, or a number in it may be a name as well.
    """
    known = known_classes(source)
    if given:
        path = find_file("eval", given)
        pairs = [line.rpartition("\t") for line in read_lines(path)]
        words = tuple(_spaced(word) for word, tab, _ in pairs if tab)
        if words and len(words) < len(pairs):
            raise RecipeError(f"{path}: {len(words)} of {len(pairs)} lines have a tab; all must, or none")
        names = _distinct([name for *_, name in pairs], str(path))
        return names, _distinct(words, str(path)) or _words(names, known, str(path))
    if (to / CLASS_NAMES).is_file():
        names = read_lines(to / CLASS_NAMES)
        return names, _words(names, known, str(to / CLASS_NAMES))
    if known:
        names = _distinct(known, "the source")
        return names, _words(names, known, "the source")
    names = tuple(sorted(set(_texts(source))))
    _check_told(names)
    numbers = list(filter(_is_number, names))
    if not names:
        raise RecipeError(
            "no row names a class; name the column with --columns caption=NAME, or the classes with --class-names"
        )
    if numbers:
        raise RecipeError(
            f"classes are numbers ({', '.join(numbers[:5])}): write their names into a file, a line each, that of "
            "number 0 first, and name it with --class-names FILE"
        )
    return names, ()


def _words(names: Sequence[str], known: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """Return what the source calls classes whose names are numbers of other classes, as in `1`, `2`, `3`.

    Raises:
        RecipeError: It may mean either.
    """
    other = next((name for place, name in enumerate(names) if _is_number(name) and int(name) != place), None)
    if other is None:
        return ()
    if known is None:
        raise RecipeError(
            f"{where}: a class is called '{other}', and is not number {other}: what stands in the source may be names "
            "or numbers; write what the source calls each class and a tab before each name, in a file that "
            "--class-names names"
        )
    return tuple(names)  # folders and features of a dataset say names


def _check_told(names: Sequence[str]) -> None:
    """Refuse names that are several, as in `cat|dog` beside `dog`, or one in two spellings, as in `Cat` and `cat`."""
    spelled: dict[str, str] = {}
    for name in names:
        if (other := spelled.setdefault(name.lower(), name)) != name:
            raise RecipeError(
                f"'{other}' and '{name}' would be two classes: write them alike, or name all classes with --class-names"
            )
        pieces = [piece.strip() for piece in re.split(r"[|;,]", name)]
        if len(pieces) > 1 and set(pieces) & set(names):
            raise RecipeError(
                f"'{name}' looks like {len(pieces)} classes in one cell: write a list there, such as "
                f"{json.dumps(pieces)}, for --kind multilabel; or name all classes with --class-names"
            )


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def check_folders(source: Folder) -> None:
    """Refuse folders that become one class unasked, such as `n02012849-crane` and `n03126707-crane`."""
    several = next(((name, found) for name, found in source.folders_of_classes().items() if len(found) > 1), None)
    if several is not None:
        name, folders = several
        raise RecipeError(
            f"{', '.join(map(str, folders[:5]))}: folders of one class, '{name}': rename all but one, or move their "
            "images together"
        )


def _texts(source: Source) -> Iterator[str]:
    """Yield what stands under the images; rows that say nothing are for the pack to judge."""
    for rows in source.units(ROWS_AT_ONCE):
        for row in rows:
            try:
                yield from Captions().all(row.texts(source.caption_keys))
            except BadSampleError:
                continue


def _spaced(word: str) -> str:
    return " ".join(word.split())


def _distinct(names: Sequence[str], where: str) -> tuple[str, ...]:
    found = tuple(map(_spaced, names))
    twice = sorted(name for name, times in Counter(found).items() if times > 1)
    if twice:
        raise RecipeError(f"{where}: two classes are called '{twice[0]}'; give each a name of its own")
    return found
