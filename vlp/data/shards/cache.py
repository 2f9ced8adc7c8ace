"""Names in the cache for what was made of shards: indices, summaries, copies of remote and packed ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vlp.ground.cache_folder import cache_folder

VERSION = "2"


def cache_name(*identity: str) -> str:
    """Return a file name for what belongs to `identity`."""
    return hashlib.sha256("\0".join((VERSION, *identity)).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def cache_path(source: Path, suffix: str) -> Path:
    """Return where something made of `source` belongs; another path, size or time of change gives another answer."""
    status = source.stat()
    name = cache_name(str(source.resolve()), str(status.st_size), str(status.st_mtime_ns))
    return cache_folder("shards") / f"{name}{suffix}"
