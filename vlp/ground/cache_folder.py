"""A folder for what can be computed or fetched again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(room: str) -> Path:
    """Return a folder of the cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "vlp" / room
