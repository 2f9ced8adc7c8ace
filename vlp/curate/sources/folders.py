"""A folder of images: captions in files of the same name, or classes as the names of subfolders."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import ClassVar

from vlp.curate.sources.columns import Columns
from vlp.curate.sources.rows import Row, Rows, caption_members, listed_units, sources
from vlp.curate.sources.splits import refuse_mixed
from vlp.curate.sources.tables import JSON, Table
from vlp.data.pixels.decode import EXTENSIONS
from vlp.ground.paths import is_hidden
from vlp.ground.types import RecipeError

# Formats that training does not read are listed and counted, not overlooked.
OTHERS = ("gif", "bmp", "tif", "tiff", "avif", "heic", "jxl", "jp2")
IMAGES = (*EXTENSIONS, *OTHERS)
REGIONS = "regions"  # the key of a JSON file that holds captions of parts of its image
NUMBERED = re.compile(r"(?:\d+[._ -]+|n\d{8}[-_ ]+)(?=.*[^\W\d_])")
YEAR = re.compile(r"(?:19|20)\d\d\D")
NO_CLASSES = {
    *("image", "images", "img", "imgs", "jpegimages", "mask", "masks", "label", "labels", "annotation", "annotations")
}
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


@sources.register("folder")
class Folder:
    """Images below a folder, in order of their paths.

    Args:
        path: The folder.
        columns: Which key of JSON files is the caption.

    Raises:
        RecipeError: No image, no captions and no subfolders, or a table that should be packed instead.
    """

    rank: ClassVar[int] = 3

    @classmethod
    def takes(cls, path: Path) -> bool:
        """Whether it is a folder, and holds more than shards."""
        return path.is_dir() and not holds_shards(path)

    def __init__(self, path: Path, columns: Columns):
        self.path = path
        captioned = next((captions for _, captions in walk(path) if captions), None)
        self.is_labelled = captioned is None
        self.classes = () if self.is_labelled else None
        self.caption_keys = {"txt": 1.0}
        if captioned is None:
            self._check_labels()
        self._check_splits()
        self.numbering = self._numbering() if self.is_labelled else None
        record = next((captions["json"] for _, captions in walk(path) if "json" in captions), None)
        keys = [] if record is None else _json_keys(record)
        if record is not None:
            self.caption_keys[f"json.{columns.caption_of(keys, str(record))}"] = 1.0
        self.regions = f"json.{REGIONS}" if REGIONS in keys else None

    def units(self, size: int) -> Iterator[Rows]:
        """Yield the images, `size` at a time."""
        return listed_units(self._rows(), size)

    def _rows(self) -> Iterator[Row]:
        for number, (image, captions) in enumerate(walk(self.path)):
            name = image.relative_to(self.path)
            label = self._class(name.parent.name) if self.is_labelled else None
            yield Row(number, str(name), image, captions=caption_members(label or None), files=captions)

    def folders_of_classes(self) -> dict[str, list[Path]]:
        """Return the folders whose images are of one class, by its name."""
        found: dict[str, list[Path]] = {}
        for folder in sorted({image.parent for image, _ in walk(self.path)}):
            found.setdefault(self._class(folder.name), []).append(folder)
        return found

    def _class(self, folder: str) -> str:
        """Return the name of a class whose images lie in a folder."""
        name = folder if self.numbering is None else self.numbering.sub("", folder)
        return name.replace("_", " ")

    def _numbering(self) -> re.Pattern[str] | None:
        """Return what numbers all classes.

        Raises:
            RecipeError: A folder is called by what is in it.
        """
        names = {image.parent.name for image, _ in walk(self.path)}
        if no_class := next((name for name in sorted(names) if name.lower() in NO_CLASSES), None):
            raise RecipeError(
                f"{self.path}: a folder of images is called '{no_class}', which is no class: pack the folder whose "
                "subfolders are named after classes, put a caption beside each image, or rename it"
            )
        return numbering_of(names)

    def _check_splits(self) -> None:
        """Refuse a folder of several splits."""
        refuse_mixed("images", self.path, (image.parent for image, _ in walk(self.path)))

    def _check_labels(self) -> None:
        tables = _tables(self.path)
        if tables:
            raise RecipeError(
                f"{self.path}: the captions stand in {'a table' if len(tables) == 1 else 'tables'}; pack "
                f"{' or '.join(map(str, tables[:5]))} instead"
            )
        found = [image for image, _ in islice(walk(self.path), 10_000)]
        if not found:
            raise RecipeError(f"{self.path}: no images ({', '.join(EXTENSIONS)}) and no parquet files in this folder")
        parents = {image.parent for image in found}
        if len(parents) == 1:
            where = "" if self.path in parents else f" (all lie in one folder, {parents.pop().name}, which is no class)"
            raise RecipeError(
                f"{self.path}: {found[0].name} has no caption{where}; put a {found[0].stem}.txt or .json beside "
                "each image, sort the images into subfolders named after their classes, or pack a table"
                f"{_such_as(self.path)}"
            )


def numbering_of(folders: Collection[str]) -> re.Pattern[str] | None:
    """Return what numbers all folders of classes in front of their names, as in `001.Black_footed_Albatross`.

    So that a name says what is seen. None where some folder has no number and no synset of WordNet (`n02085620-`), no
    letter behind it, or where the numbers are years.
    """
    is_numbered = all(NUMBERED.match(name) and not YEAR.match(name) for name in folders)
    return NUMBERED if folders and is_numbered else None


def _such_as(folder: Path) -> str:
    """Name a file that may be a table, as COCO's are, whose name does not say so."""
    found = (path for pattern in ("*", "*/*") for path in sorted(folder.glob(pattern)) if path.is_file())
    like = next((path for path in found if JSON in path.suffixes or path.suffixes[-2:-1] in ([".csv"], [".tsv"])), None)
    return "" if like is None else f" (perhaps {like})"


def _tables(folder: Path) -> list[Path]:
    """Return the tables in a folder and its subfolders, those with a usual name first."""
    found = (path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.is_file())
    files = sorted(path for path in found if not is_hidden(path.relative_to(folder)))
    tables = [path for path in files if path.name in METADATA]
    return tables or [
        path
        for path in files
        if path.suffix.lower() == ".parquet" or (Table.takes(path) and path.suffix.lower() != JSON)
    ]


def holds_shards(folder: Path) -> bool:
    """Whether a folder holds shards, and no image that lies outside of them."""
    return any(folder.glob("*.tar")) and not holds_images(folder)


def holds_images(folder: Path) -> bool:
    """Whether there is an image below a folder."""
    return next(walk(folder), None) is not None


def walk(folder: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[tuple[Path, dict[str, Path]]]:
    """Yield each image with its caption files, folder by folder, names in order; hidden files are left out.

    Args:
        above: The folders above this one; a link that leads back to one of them is not followed.
    """
    try:
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        with os.scandir(folder) as found:
            entries = sorted(
                (entry for entry in found if not is_hidden(Path(entry.name))), key=lambda entry: entry.name
            )
    except OSError as error:
        raise RecipeError(f"cannot list {folder}: {error.strerror}") from error
    names = {entry.name for entry in entries}
    for entry in entries:
        path = folder / entry.name
        if _is_folder(entry):
            yield from walk(path, (*above, here))
        elif path.suffix[1:].lower() in IMAGES:
            sides = {kind: (f"{path.stem}.{kind}", f"{path.stem}.{kind.upper()}") for kind in ("txt", "json")}
            beside = {kind: next((name for name in both if name in names), None) for kind, both in sides.items()}
            yield path, {kind: folder / name for kind, name in beside.items() if name is not None}


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _json_keys(path: Path) -> list[str]:
    try:
        record = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"{path}: not JSON ({error}); repair the first record, so that its keys can be read"
        ) from error
    if not isinstance(record, dict):
        raise RecipeError(f'{path}: expected a mapping such as {{"caption": "a red boat"}}')
    return list(record)
