"""A folder for what can be computed again: tar indices and unpacked tar.gz shards."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

VERSION = "1"


def cache_path(source: Path, suffix: str) -> Path:
    """Return where something made of `source` belongs; another path, size or time of change gives another answer."""
    status = source.stat()
    identity = f"{VERSION}\0{source.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    name = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "vlp" / "shards" / f"{name}{suffix}"


@contextlib.contextmanager
def write_beside(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes `path` when the block ends, so that nobody ever sees half of it.

    Raises:
        OSError: The folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
