"""Splits of a source, which are never mixed unasked: what is tested on would be trained on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlp.curate.sources.columns import plain
from vlp.ground.types import RecipeError

NAMES = re.compile(
    r"((rest|mini)?(train(ing)?|val(id(ation)?)?|dev|test(ing)?|eval)|unlabel(l)?ed)([-_]?\d{2,4})?", re.I
)
PART = re.compile(r"(.+?)-\d+-of-\d+(-[0-9a-f]+)?")
NUMBER = re.compile(r"[-_.]\d+$")


def is_split(name: str) -> bool:
    """Whether a folder, or a value of a column, is called as splits are: `train`, `val2017`."""
    return NAMES.fullmatch(name.strip()) is not None


def split_of_file(path: Path) -> str:
    """Return the split that a file of rows is of, by its name or that of a folder above it; nothing where none is.

    Clones of the hub say `train-00000-of-00002`, older ones with a checksum behind, its conversions
    `default/partial-train/0000`, others `train_0`, `train/part-0` and `split=train/0`.

    Args:
        path: Relative to the data set.
    """
    if found := PART.fullmatch(path.stem):
        return found[1]
    for name in (path.stem, *reversed(path.parent.parts)):
        plain_name = NUMBER.sub("", name).removeprefix("split=").removeprefix("partial-")
        if is_split(plain_name):
            return plain_name
    return ""


def refuse_mixed(noun: str, path: Path, folders: Iterable[Path]) -> None:
    """Look for folders that lie beside each other and are called as splits are.

    Args:
        noun: What is to be one data set.
        path: Where it is.
        folders: In which its parts are.

    Raises:
        RecipeError: Two do.
    """
    beside: dict[Path, set[Path]] = {}
    for folder in {folder.relative_to(path) for folder in set(folders)}:
        for each in (folder, *folder.parents):
            if is_split(each.name):
                beside.setdefault(each.parent, set()).add(each)
    splits = next((sorted(found) for _, found in sorted(beside.items()) if len(found) > 1), None)
    if splits is not None:
        places = ", ".join(str(path / split) for split in splits)
        raise RecipeError(f"{path}: {noun} of several splits; pack one of them instead: {places}")


def column_of_splits(names: Iterable[str]) -> str:
    """Return the column that may name splits; nothing where there is none."""
    return next((name for name in names if plain(name) == "split"), "")


def count_splits(column: str, values: Iterable[Any]) -> tuple[str, Counter[str]]:
    """Return a column that may name splits, and its rows of each; nothing where no value is called as splits are."""
    counts = Counter(map(str, values if column else ()))
    return (column, counts) if any(map(is_split, counts)) else ("", Counter())


def chosen_splits(counts: Mapping[str, int], wanted: str, path: Path) -> frozenset[str]:
    """Return the splits to read of those that a table names.

    Args:
        counts: Rows of each; none where no column names splits.
        wanted: Names with `+` between them; empty where nobody chose.

    Raises:
        RecipeError: There are several and nobody chose, or none of that name.
    """
    if wanted and not counts:
        raise RecipeError(f"--split {wanted}: {path} has no splits: no column is called split")
    known = ", ".join(f"{name or 'none'} ({count:,})" for name, count in counts.items())
    names = frozenset(wanted.split("+")) if wanted else frozenset(counts)
    for name in sorted(names - counts.keys()):
        raise RecipeError(f"--split {wanted}: {path} has no split '{name}' (known: {known})")
    if len(names) > 1 and not wanted:
        raise RecipeError(f"{path}: rows of several splits: {known}; choose with --split NAME, or several: train+val")
    return names
