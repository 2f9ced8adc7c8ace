"""A folder for what can be computed or fetched again: indices, summaries, copies of remote and packed shards."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

VERSION = "2"


def cache_folder(room: str) -> Path:
    """Return a folder of the cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "vlp" / room


def cache_name(*identity: str) -> str:
    """Return a file name for what belongs to `identity`."""
    return hashlib.sha256("\0".join((VERSION, *identity)).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def cache_path(source: Path, suffix: str) -> Path:
    """Return where something made of `source` belongs; another path, size or time of change gives another answer."""
    status = source.stat()
    name = cache_name(str(source.resolve()), str(status.st_size), str(status.st_mtime_ns))
    return cache_folder("shards") / f"{name}{suffix}"
