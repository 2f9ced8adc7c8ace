"""A bounded set of open files, read at any offset."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

# Tars and their indices; far below the usual limit of 1024 descriptors of a process.
MOST_OPEN = 256


INSTANCES: weakref.WeakSet[OpenFiles] = weakref.WeakSet()


class OpenFiles:
    """Opens files when they are first read and closes the one that was not read for longest.

    `pread` keeps no position, so descriptors may be shared with forked processes; spawned ones open their own. Threads
    read one after the other: a descriptor that one of them reads by must not be closed for another's.
    """

    def __init__(self) -> None:
        self._descriptors: OrderedDict[Path, int] = OrderedDict()
        self._lock = threading.Lock()
        INSTANCES.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenFiles, ()

    def __del__(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def read(self, path: Path, offset: int, size: int) -> bytes:
        """Return up to `size` bytes of a file.

        Raises:
            OSError: The file cannot be opened or read.
        """
        with self._lock:
            return os.pread(self._descriptor(path), size, offset)

    def size(self, path: Path) -> int:
        """Return the bytes of a file.

        Raises:
            OSError: The file cannot be opened.
        """
        with self._lock:
            return os.fstat(self._descriptor(path)).st_size

    def close_deleted(self) -> None:
        """Close files that were deleted, such as copies that had to leave the cache: open, they keep their room."""
        with self._lock:
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


def _renew_locks() -> None:
    """Free what another thread held when this process was forked: that thread is not here to do so."""
    for files in INSTANCES:
        files._lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_locks)
