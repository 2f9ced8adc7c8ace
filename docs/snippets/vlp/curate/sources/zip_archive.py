"""ZIP archives of images with a text file beside each."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from vlp.curate.sources.columns import Columns
from vlp.curate.sources.rows import Row, Rows, sources
from vlp.data.faults import BadSampleError, Reason, net
from vlp.data.pixels.decode import EXTENSIONS, MOST_BYTES
from vlp.ground.types import RecipeError


@sources.register("zip")
class ZipArchive:
    """Images of a ZIP archive, each with the text of its name: `a/1.jpg` with `a/1.txt`.

    Args:
        path: The archive.
        _columns: An archive has none.

    Raises:
        RecipeError: No whole archive.
    """

    caption_keys = {"txt": 1.0}
    rank: ClassVar[int] = 4

    @classmethod
    def takes(cls, path: Path) -> bool:
        """Whether it is a file with the suffix of one."""
        return path.is_file() and path.suffix.lower() == ".zip"

    def __init__(self, path: Path, _columns: Columns):
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (OSError, zipfile.BadZipFile) as error:
            raise RecipeError(f"{path}: not a whole ZIP archive ({error})") from error
        self.images = sorted(name for name in names if PurePosixPath(name).suffix[1:].lower() in EXTENSIONS)

    def units(self, size: int) -> Iterator[Rows]:
        """Yield the images in order of their names, `size` at a time."""
        for start in range(0, len(self.images), size):
            yield ZipRows(self.path, start, tuple(self.images[start : start + size]))


@dataclass(frozen=True)
class ZipRows:
    """Some images of an archive, read where they are packed."""

    path: Path
    start: int
    names: tuple[str, ...]

    def __iter__(self) -> Iterator[Row]:
        with zipfile.ZipFile(self.path) as archive:
            for number, name in enumerate(self.names, self.start):
                try:
                    image = _read(archive, name, "missing_image")
                    caption = _read(archive, str(PurePosixPath(name).with_suffix(".txt")), "missing_caption")
                except BadSampleError as bad:
                    yield Row(number, name, fault=(bad.reason, f"{name}: {bad.detail}"))
                else:
                    yield Row(number, name, data=image, captions={"txt": caption})

    def fingerprint(self) -> str:
        """Return a checksum of the names, and of size and time of the archive."""
        status = self.path.stat()
        return hashlib.sha256(repr((self, status.st_size, status.st_mtime_ns)).encode()).hexdigest()


def _read(archive: zipfile.ZipFile, name: str, reason: Reason) -> bytes:
    """Return a member, whatever is wrong with the archive being the fault of the sample."""
    with net(reason):
        if archive.getinfo(name).file_size > MOST_BYTES:
            raise BadSampleError("oversized_image", f"more than {MOST_BYTES} bytes")
        return archive.read(name)
