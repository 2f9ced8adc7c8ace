"""A bounded set of open files, read at any offset."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

# Tars and their indices; far below the usual limit of 1024 descriptors of a process.
MOST_OPEN = 256


class OpenFiles:
    """Opens files when they are first read and closes the one that was not read for longest.

    `pread` keeps no position, so descriptors may be shared with forked processes; spawned ones open their own.
    """

    def __init__(self) -> None:
        self._descriptors: OrderedDict[Path, int] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"_descriptors": OrderedDict()}

    def __del__(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def read(self, path: Path, offset: int, size: int) -> bytes:
        """Return up to `size` bytes of a file.

        Raises:
            OSError: The file cannot be opened or read.
        """
        return os.pread(self._descriptor(path), size, offset)

    def size(self, path: Path) -> int:
        """Return the bytes of a file.

        Raises:
            OSError: The file cannot be opened.
        """
        return os.fstat(self._descriptor(path)).st_size

    def close_deleted(self) -> None:
        """Close files that were deleted, such as copies that had to leave the cache: open, they keep their room."""
        deleted = [path for path, descriptor in self._descriptors.items() if not os.fstat(descriptor).st_nlink]
        for path in deleted:
            os.close(self._descriptors.pop(path))

    def _descriptor(self, path: Path) -> int:
        if path not in self._descriptors:
            if len(self._descriptors) >= MOST_OPEN:
                os.close(self._descriptors.popitem(last=False)[1])
            self._descriptors[path] = os.open(path, os.O_RDONLY)
        self._descriptors.move_to_end(path)
        return self._descriptors[path]
