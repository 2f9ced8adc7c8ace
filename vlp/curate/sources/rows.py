"""One row of a source: where its image and its captions are, and what they say once they are read."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

from vlp.curate.sources.image_paths import status_of
from vlp.curate.sources.spelled_lists import listed
from vlp.data import Captions
from vlp.data.faults import BadSampleError, Reason
from vlp.data.pixels.decode import MOST_BYTES, check_bytes, decode_image, format_of
from vlp.data.samples import Sample
from vlp.ground.registry import Registry

JSON_KEY = "caption"
EXTENSION_OF = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


@dataclass(frozen=True)
class Row:
    """An image and its captions before anything of them is read.

    Args:
        number: Place in the source; the key of the sample.
        name: What the quarantine file calls it.
        image: The file of the image, where it is one.
        data: The encoded image, where the source itself holds it.
        captions: Members with captions that the source itself holds: extension to bytes.
        files: Members with captions that are files.
        fault: Why the row cannot be used, where its source knows already.
        num_rows: Rows of the source that it stands for: several may have the same image.
    """

    number: int
    name: str
    image: Path | None = None
    data: bytes | None = None
    captions: Mapping[str, bytes] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    fault: tuple[Reason, str] | None = None
    num_rows: int = 1

    def members(self, caption_keys: Mapping[str, float]) -> dict[str, bytes]:
        """Return the members of the sample, by extension, checked as the stream will check them.

        Raises:
            BadSampleError: Training could not use it.
        """
        texts = self.texts(caption_keys)
        Captions().first(texts)
        return {**{kind: texts.read(kind) for kind in texts.members}, **self.image_member()}

    def texts(self, caption_keys: Mapping[str, float]) -> Sample:
        """Return the sample without its image, as a reader of captions takes it.

        Raises:
            BadSampleError: The row cannot be used, or a file with captions cannot be read.
        """
        if self.fault is not None:
            raise BadSampleError(*self.fault)
        files = {kind: read_file(path, "missing_caption") for kind, path in self.files.items()}
        return cast(Sample, _InMemory({**self.captions, **files}, caption_keys))

    def image_member(self) -> dict[str, bytes]:
        """Return the encoded image under the extension that its content asks for.

        Raises:
            BadSampleError: There is none, or training cannot decode it.
        """
        data = self._image_bytes()
        kind = image_kind(data)
        decode_image(data)
        return {kind: data}

    def _image_bytes(self) -> bytes:
        if self.image is not None:
            data = read_file(self.image, "missing_image")
        elif self.data:
            data = self.data
        else:
            raise BadSampleError("missing_image", "the row has no image")
        return data

    def fingerprint(self) -> str:
        """Return a text that changes when the row, or the size or time of one of its files, does."""
        files = [path for path in (self.image, *self.files.values()) if path is not None]
        known = (self.number, self.name, sorted(self.captions.items()), self.fault, self.num_rows)
        return repr((*known, [status_of(path) for path in files]))


class Rows(Protocol):
    """Some consecutive rows of a source; small to send to a process."""

    def __iter__(self) -> Iterator[Row]: ...

    def fingerprint(self) -> str:
        """Return a checksum of the rows that is cheap to compute."""


@dataclass(frozen=True)
class ListedRows:
    """Rows that hold no pixels."""

    rows: Sequence[Row]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def fingerprint(self) -> str:
        """Return a checksum of the rows and of the sizes and times of their files."""
        return hashlib.sha256("\n".join(row.fingerprint() for row in self.rows).encode(errors="replace")).hexdigest()


def listed_units(rows: Iterator[Row], size: int) -> Iterator[ListedRows]:
    """Yield rows, `size` at a time."""
    while chunk := list(islice(rows, size)):
        yield ListedRows(chunk)


class Source(Protocol):
    """Anything that can be packed: made of a path and `Columns`; its keyword-only arguments are flags of `pack`.

    A source whose captions are names of classes says so in an attribute `classes`: all of them in the order of their
    numbers, or none where the names alone order them. One that has captions of regions says where they will be in an
    attribute `regions`, as a card does, and one that knows the shares of its captions has `captions`, as a card too.
    They are absent or null elsewhere.

    Args:
        rank: Sources are asked in this order whether they take a path.
    """

    rank: ClassVar[int]

    @classmethod
    def takes(cls, path: Path) -> bool:
        """Whether a file or folder that is there is one of these."""

    @property
    def caption_keys(self) -> Mapping[str, float]:
        """Where captions will be in the shards, as a card says it."""

    def units(self, size: int) -> Iterator[Rows]:
        """Yield all rows in order, `size` at a time."""


sources: Registry[Source] = Registry("source", "vlp.curate.sources")


@dataclass(frozen=True)
class _InMemory:
    """What `Captions` needs of a sample."""

    contents: Mapping[str, bytes]
    caption_keys: Mapping[str, float]

    @property
    def members(self) -> Mapping[str, bytes]:
        return self.contents

    def size(self, extension: str) -> int:
        return len(self.contents[extension])

    def read(self, extension: str) -> bytes:
        return self.contents[extension]


def caption_members(value: Any) -> dict[str, bytes]:
    """Return the member for a caption of a table: a text becomes `.txt`, anything else `.json`, nothing none.

    A text that spells out a list of texts is that list. What is no caption goes into the record as it is, for the
    reader of captions to judge.
    """
    value = listed(value)
    if value is None or value in ("", []):
        return {}
    if isinstance(value, bytes):
        return {"txt": value}
    if isinstance(value, str):
        return {"txt": value.encode(errors="surrogatepass")}
    value = [_decoded(text) for text in value] if isinstance(value, list) else value
    content = json.dumps({JSON_KEY: value}, ensure_ascii=False, default=_no_text, skipkeys=True)
    return {"json": content.encode(errors="surrogatepass")}


def _decoded(text: Any) -> Any:
    try:
        return text.decode() if isinstance(text, bytes) else text
    except UnicodeDecodeError:
        return text


def _no_text(value: Any) -> dict[str, str]:
    return {"type": type(value).__name__}


def image_kind(data: bytes) -> str:
    """Return the extension that the content asks for, whatever the file was called.

    Raises:
        BadSampleError: None of the formats that training reads, or too large.
    """
    check_bytes(len(data))
    found = format_of(data)
    if not found:
        raise BadSampleError("corrupt_image", "neither JPEG, PNG nor WebP" if data else "empty file")
    return EXTENSION_OF[found]


def read_file(path: Path, reason: Reason) -> bytes:
    """Return the content of a file, cut behind the size that `image_kind` refuses.

    Raises:
        BadSampleError: With `reason`, where it cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadSampleError(reason, f"{path}: no file")
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)
    # ValueError: a NUL in a path that a table gave.
    except (OSError, ValueError) as error:
        raise BadSampleError(reason, f"{path}: {getattr(error, 'strerror', None) or error}") from error
