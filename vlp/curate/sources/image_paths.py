"""Files of images that a table means."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from vlp.ground.types import RecipeError

NUMBER = re.compile(r"#\d+$")  # which caption of its image a line of Flickr8k's holds
MOST_FOLDERS = 10_000


def is_file(path: Path) -> bool:
    """Whether there is a file; no name is too odd or too long to ask for."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def find_folder(beside: Path, names: Sequence[str]) -> Path:
    """Return what the paths of a table are relative to, judged by the first of them.

    That is its folder, where it has one of the files; or else the folder within that has all of them, or the one within
    the folder above, as COCO has `val2017` beside `annotations`.
    """
    if not names or any(is_file(meant(beside, name)) for name in names):
        return beside
    folders = islice(_folders_around(beside), MOST_FOLDERS)
    return next((folder for folder in folders if all(is_file(meant(folder, name)) for name in names)), beside)


def _folders_around(folder: Path) -> Iterator[Path]:
    """Yield what lies one and two levels below a folder, then the folder above and what lies below that."""
    above = folder.resolve().parent
    for root in (folder, above):
        inner = _folders_in(root)
        yield from (above,) if root is above else ()
        yield from inner
        for each in inner:
            yield from _folders_in(each)


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError:
        return []


def local_path(folder: Path, name: Any, where: str) -> Path:
    """Return the file that a table means.

    Raises:
        RecipeError: An address, or no text.
    """
    if not isinstance(name, str):
        raise RecipeError(f"{where}: an image must be a path, not {type(name).__name__}; see --columns image=NAME")
    if "://" in name:
        raise RecipeError(f"{where}: '{name}' is an address; nothing is downloaded here: fetch the images first")
    return meant(folder, name)


def meant(folder: Path, name: str) -> Path:
    """Return the path of a name, spelled as the files are where another system wrote the table.

    Windows has backslashes, and does not tell `.JPG` from `.jpg`; macOS takes letters and their accents apart; people
    put spaces behind commas.
    """
    path = folder / name
    if is_file(path):
        return path
    found = (folder / each for each in _spellings(name.replace("\\", "/")))
    return next((each for each in found if is_file(each)), path)


def files_named(folder: Path, names: Iterable[Any]) -> Iterator[tuple[str, int, int]]:
    """Yield size and time of each file that a table names, as far as there is one."""
    for name in names:
        if isinstance(name, str) and name and "://" not in name and is_file(path := meant(folder, name)):
            yield status_of(path)


def status_of(path: Path) -> tuple[str, int, int]:
    """Return what tells a file from another one of its name: its size and time."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return str(path), -1, -1
    return str(path), status.st_size, status.st_mtime_ns


def _spellings(name: str) -> Iterator[str]:
    stem, dot, suffix = name.strip().rpartition(".")
    for each in (name, stem + dot + suffix, stem + dot + suffix.lower(), stem + dot + suffix.upper()):
        yield from (each, unicodedata.normalize("NFC", each), unicodedata.normalize("NFD", each))
