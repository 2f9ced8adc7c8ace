"""Memory that the trainer and the processes that decode for it both see, allocated once.

It never lies in /dev/shm, which containers keep at 64 MB, and has no name that a killed run could leave behind.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import pickle
import tempfile
import time
import weakref
from collections import deque
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from vlp.data.uploads import DeviceLink, unlock_in
from vlp.ground.types import RecipeError

# Tokens and the like take some hundred bytes per sample, a hundred faults ten thousand. Only what is written costs
# memory, so this is far above both.
NOTE_BYTES = 1 << 24
FILES = ("_memory", "_notes")


class SharedMemory:
    """A file without a name, in memory where the system has such files and on a disk otherwise.

    Forked processes inherit it; it may also be an argument of a process that is spawned.

    Args:
        size: Bytes.
        reserve: Take them now, so that want of memory shows at the start and not as a bus error later.

    Raises:
        OSError: There is no room.
    """

    def __init__(self, size: int, *, reserve: bool = True):
        try:
            if reserve and size > _available():
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            self.file = _allocate(os.memfd_create("vlp"), size, reserve)
        except (AttributeError, OSError):  # not Linux, an old kernel, no memory
            descriptor, path = tempfile.mkstemp(prefix="vlp-")
            os.unlink(path)  # noqa: PTH108
            self.file = _allocate(descriptor, size, reserve)

    def __del__(self) -> None:
        if hasattr(self, "file"):
            os.close(self.file)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (DupFd(self.file),)

    def map(self) -> mmap.mmap:
        """Return the whole as one buffer; it lives as long as an array that looks into it."""
        return mmap.mmap(self.file, 0)


def _available() -> float:
    """Return the bytes of memory that may be had: the kernel does not refuse more, it kills who asks."""
    try:
        words = Path("/proc/meminfo").read_text(encoding="ascii").split()
        return 1024 * int(words[words.index("MemAvailable:") + 1])
    except (OSError, ValueError):  # not Linux
        return math.inf


def _allocate(descriptor: int, size: int, reserve: bool) -> int:
    try:
        os.ftruncate(descriptor, size)
        if reserve and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _attach(duplicate: Any) -> SharedMemory:
    memory = SharedMemory.__new__(SharedMemory)
    memory.file = duplicate.detach()
    return memory


class Ring:
    """Equal slots, used in turn: each takes the pixels of one batch, and notes of any length about its rows.

    Notes do not go through a pipe: it holds some 200 kB, and a process whose pipe is full would not decode while the
    trainer computes and does not read.

    Args:
        num_slots: Batches that are decoded ahead or lent at one time.
        num_rows: Samples of one batch.
        shape: Of the pixels of one batch.

    Raises:
        RecipeError: The memory cannot be had; says how much is needed.
    """

    def __init__(self, num_slots: int, num_rows: int, shape: tuple[int, ...]):
        self.num_slots = num_slots
        self.num_rows = num_rows
        self.shape = shape
        size = num_slots * math.prod(shape)
        try:
            self._memory = SharedMemory(size)
            self._notes = SharedMemory(num_slots * num_rows * NOTE_BYTES, reserve=False)
            self._map()
        except OSError as error:
            raise RecipeError(
                f"data.workers: {math.ceil(size / 2**20)} MiB of memory for the pixels of {num_slots} batches cannot "
                f"be had ({error.strerror}): lower data.workers or train.batch_size, or raise the limits of this "
                "process (ulimit -f, -v; the container's memory)"
            ) from error

    def _map(self) -> None:
        self._bytes = np.frombuffer(self._memory.map(), np.uint8)
        self._pixels = self._bytes.reshape(self.num_slots, *self.shape)
        self._free = deque(range(self.num_slots))
        self._lent: set[int] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name in ("num_slots", "num_rows", "shape", *FILES)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._map()

    def __getitem__(self, slot: int) -> NDArray[np.uint8]:
        """Return the pixels of a slot, to be written."""
        return self._pixels[slot]

    @property
    def num_bytes(self) -> int:
        """Size of the pixels of all slots."""
        return len(self._bytes)

    def map_anew(self) -> Ring:
        """Return the same ring for a forked process, which may lack what a driver has locked in its parent."""
        ring = Ring.__new__(Ring)
        ring.__setstate__(self.__getstate__())
        return ring

    def lock_pages(self, link: DeviceLink) -> None:
        """Page-lock the pixels of all slots, once, until nobody looks at them any more.

        Raises:
            OSError: They cannot be locked.
            RuntimeError: The device's driver refuses.
        """
        address = self._bytes.ctypes.data
        link.lock(address, self.num_bytes)
        # All lent pixels hold this array, and it holds the memory: what is unlocked is there still, and read by nobody.
        weakref.finalize(self._bytes, unlock_in, os.getpid(), link, address).atexit = False

    @property
    def num_lent(self) -> int:
        """Slots that somebody outside still looks at."""
        return len(self._lent)

    def take(self) -> int | None:
        """Return the number of a slot that nobody uses, if there is one."""
        return self._free.popleft() if self._free else None

    def lend(self, slot: int) -> UInt8[Tensor, ...]:
        """Return the pixels of a taken slot, which is free again once this tensor and all views of it are gone."""
        # The storage of the tensor holds this array, and all views of a tensor hold its storage.
        pixels = self._pixels[slot]
        self._lent.add(slot)
        weakref.finalize(pixels, _give_back, self._lent, self._free, slot).atexit = False
        return torch.from_numpy(pixels)

    def write_note(self, slot: int, row: int, note: Any) -> int:
        """Leave what is to be known of the samples from `row` on; return its bytes."""
        data = pickle.dumps(note, pickle.HIGHEST_PROTOCOL)
        os.pwrite(self._notes.file, data, self._place(slot, row))
        return len(data)

    def read_note(self, slot: int, row: int, size: int) -> Any:
        """Return what was left there."""
        return pickle.loads(os.pread(self._notes.file, size, self._place(slot, row)))

    def _place(self, slot: int, row: int) -> int:
        return (slot * self.num_rows + row) * NOTE_BYTES


def _give_back(lent: set[int], free: deque[int], slot: int) -> None:
    """Free a slot; may run in any thread and inside any line, so it does two indivisible things and no more."""
    lent.discard(slot)
    free.append(slot)


class Board:
    """Where each process says which sample it works on, so that nobody need ask one that is dead or hangs."""

    def __init__(self, num_processes: int):
        self._memory = SharedMemory(num_processes * 24)
        self._map()

    def _map(self) -> None:
        self._samples, times, self._waits = np.frombuffer(self._memory.map(), np.int64).reshape(3, -1)
        self._times = times.view(np.float64)

    def __getstate__(self) -> dict[str, Any]:
        return {"_memory": self._memory}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._map()

    def write(self, place: int, sample: int) -> None:
        """Say that work on a sample begins now; -1 stands for work between samples."""
        self._samples[place] = sample
        self._waits[place] = 0
        self._times[place] = time.monotonic()

    def wait(self, place: int, waits: bool) -> None:
        """Say that a process begins to wait for a shard, which may take any time, or goes on."""
        self._times[place] = time.monotonic()
        self._waits[place] = waits

    def sample(self, place: int) -> int:
        """Return the sample that a process works on, or -1."""
        return int(self._samples[place])

    def seconds(self, place: int) -> float:
        """Return how long ago a process wrote here; nothing while it waits for a shard."""
        return 0.0 if self._waits[place] else time.monotonic() - float(self._times[place])
