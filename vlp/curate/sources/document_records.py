"""Interleaved documents: a folder of JSON files, or a file with one on each line, beside the images that they name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from vlp.curate.sources.columns import Columns
from vlp.curate.sources.image_paths import status_of
from vlp.curate.sources.rows import Row, Rows, image_kind, listed_units, read_file, sources
from vlp.curate.sources.splits import refuse_mixed
from vlp.curate.sources.tables import LINES
from vlp.data import Captions
from vlp.data.faults import BadSampleError
from vlp.data.pixels.decode import decode_image
from vlp.data.texts.document_layouts import image_names, is_document, passages
from vlp.data.texts.sample_texts import LARGEST_JSON
from vlp.ground.paths import is_hidden

MEMBER = "json"


@dataclass(frozen=True)
class DocumentRow(Row):
    """A document before anything of it is read: its one text is a JSON record.

    Args:
        folder: What the names of its images are relative to.
    """

    folder: Path = Path()

    def members(self, caption_keys: Mapping[str, float]) -> dict[str, bytes]:
        """Return the document and those of its images that are there, named by their numbers in its list.

        Raises:
            BadSampleError: Training could not use it: it is no document, one of its images cannot be decoded, or it has
                no image with a text behind it.
        """
        content = self.texts(caption_keys).read(MEMBER)
        record = _parsed(content)
        images = {}
        for number, path in self._images(record).items():
            data = read_file(path, "missing_image")
            images[number] = f"{number}.{image_kind(data)}", data
            decode_image(data)
        found = passages(record, images.__contains__, lambda text: Captions().tidy(text, MEMBER), 0.0)
        shown = [passage for passage in found if passage.image is not None]
        if not shown:
            raise BadSampleError("missing_image", f"{self.name}: none of the images that it names is in {self.folder}")
        if not any(passage.text for passage in shown):
            raise BadSampleError("empty_caption", f"{self.name}: no text behind any of its images")
        return {MEMBER: content, **dict(images.values())}

    def fingerprint(self) -> str:
        """Return a text that changes when the document, or the size or time of one of its files, does."""
        try:
            content = self.texts({}).read(MEMBER)
            files = list(self._images(_parsed(content)).values())
        except BadSampleError as bad:
            content, files = bad.detail.encode(), []
        return repr((self.number, self.name, content, [status_of(path) for path in files]))

    def _images(self, record: Mapping[str, Any]) -> dict[int, Path]:
        """Return the files of the images that are there; an address is none, nor is a path out of the folder."""
        names = {number: name for number, name in image_names(record).items() if _leads_inside(name)}
        return {number: self.folder / name for number, name in names.items() if _is_file(self.folder / name)}


@sources.register("documents")
class DocumentRecords:
    """Documents in the layout of OBELICS or MMC4, beside their images, whose names are relative to their folder.

    Args:
        path: A folder of JSON files, or a file of JSON lines.
        _columns: Documents have none.

    Raises:
        RecipeError: Its folders are several splits.
    """

    caption_keys: ClassVar[Mapping[str, float]] = {MEMBER: 1.0}
    rank: ClassVar[int] = 1

    @classmethod
    def takes(cls, path: Path) -> bool:
        """Whether the first record is a document."""
        if path.is_dir():
            first = next((file for file in path.rglob("*.json") if not is_hidden(file.relative_to(path))), None)
            return first is not None and _begins_as_document(first, whole=True)
        return path.is_file() and path.suffix.lower() in LINES and _begins_as_document(path, whole=False)

    def __init__(self, path: Path, _columns: Columns):
        self.path = path
        if path.is_dir():
            refuse_mixed("documents", path, (file.parent for file in _files(path)))

    def units(self, size: int) -> Iterator[Rows]:
        """Yield the documents, `size` at a time, in order of their names or lines."""
        return listed_units(self._rows(), size)

    def _rows(self) -> Iterator[DocumentRow]:
        if self.path.is_dir():
            for number, file in enumerate(_files(self.path)):
                name = str(file.relative_to(self.path))
                yield DocumentRow(number, name, files={MEMBER: file}, folder=file.parent)
            return
        with self.path.open("rb") as lines:
            for number, line in enumerate(line for line in lines if line.strip()):
                name = f"document {number + 1}"
                yield DocumentRow(number, name, captions={MEMBER: line.strip()}, folder=self.path.parent)


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*.json") if not is_hidden(path.relative_to(folder)))


def _begins_as_document(path: Path, *, whole: bool) -> bool:
    try:
        with path.open("rb") as file:
            return is_document(json.loads(file.read() if whole else file.readline()))
    except (OSError, ValueError, RecursionError):
        return False


def _parsed(content: bytes) -> dict[str, Any]:
    if len(content) > LARGEST_JSON:
        raise BadSampleError("bad_caption", f"{len(content)} bytes, more than {LARGEST_JSON}")
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadSampleError("bad_caption", f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise BadSampleError("bad_caption", "not a mapping")
    return record


def _leads_inside(name: str) -> bool:
    """Whether a name, which comes from the web, is none of a file elsewhere."""
    path = PurePosixPath(name)
    return "://" not in name and not path.is_absolute() and ".." not in path.parts


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a NUL in a name
        return False
