# ruff: noqa: PTH100, PTH112, PTH115, PTH118, PTH202
"""Count what a process does to the files under a folder, and let one of these events go wrong.

Python's own functions are wrapped, and the two writers that bypass them: `torch.save` to a path and safetensors'
`save_file`. What those write is one event.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from benchmarks.power_loss import Disk

DATA = ("write", "close", "save_file", "torch.save")  # events that carry bytes; the others carry names
GROWING = (*DATA, "open", "mkdir", "link", "rename", "replace", "fsync")  # what a full disk may refuse
REMOVING = ("unlink", "remove", "rmdir")
UNTIL_MERGED = 16  # consecutive writes to one file that are events of their own; later ones are where they double
MODES = {
    "kill": "SIGKILL before the event",
    "torn": "half of the bytes, then SIGKILL",
    "power": "the power fails: what was not synced is gone, names included",
    "hollow": "the power fails: names stay, bytes that were not synced are gone",
    "peer": "SIGKILL for the other processes, this one goes on",
    "term": "SIGTERM, and it goes on",
    "nospace": "ENOSPC once",
    "full": "ENOSPC from there on",
    "broken": "EIO once",
}
CHANCE = re.compile(r"\.[0-9a-f]{8}\.")  # what makes names of temporary files new every time
ERRORS = {"nospace": errno.ENOSPC, "full": errno.ENOSPC, "broken": errno.EIO}
REAL_OPEN, REAL_SAVE, REAL_SAVE_FILE = io.open, torch.save, safetensors.torch.save_file
REAL = {name: getattr(os, name) for name in ("open", "write", "fsync", "fdatasync", "rename", "replace", "unlink")}
REAL |= {name: getattr(os, name) for name in ("remove", "rmdir", "mkdir", "link", "truncate", "ftruncate")}


@dataclass
class FileEvents:
    """The events of one process, in order.

    Args:
        folder: Events elsewhere do not count.
        at: Number of the event that goes wrong, from 1; 0 for none.
        mode: One of MODES.
        log: Descriptor that gets a line per event: number, kind, path, and what `probe` says.
        tell: Descriptor that hears kind and path of the event under `tell`.
        others: Processes that `peer` kills.
        probe: Asked before every event.
    """

    folder: Path
    at: int = 0
    mode: str = "kill"
    log: int | None = None
    tell: int | None = None
    others: Sequence[int] = ()
    probe: Callable[[], Any] | None = None
    number: int = 0
    quiet: bool = False
    last: tuple[str, str] = ("", "")
    streak: int = 0
    disk: Disk | None = field(default=None)

    def install(self) -> None:
        """Wrap everything; there is no way back, the process is given up afterwards."""
        if self.mode in ("power", "hollow") and self.at:
            self.disk = Disk(self.folder)
        os.open = self._os_open
        os.write = self._os_write
        os.fsync, os.fdatasync = self._sync(REAL["fsync"]), self._sync(REAL["fdatasync"])
        os.rename, os.replace = self._move("rename"), self._move("replace")
        os.unlink, os.remove, os.rmdir = self._name("unlink"), self._name("remove"), self._name("rmdir")
        os.mkdir, os.link, os.truncate = self._name("mkdir"), self._name("link"), self._name("truncate")
        os.ftruncate = self._ftruncate
        io.open = builtins.open = self._open
        for module in [module for name, module in sys.modules.items() if module is not None and name != __name__]:
            for name, value in list(vars(module).items()):
                if value is REAL_SAVE:
                    setattr(module, name, self._torch_save)
                elif value is REAL_SAVE_FILE:
                    setattr(module, name, self._save_file)

    # ---------------------------------------- an event
    def happens(self, kind: str, path: str) -> int:
        """Count an event; return what goes wrong with it: 0, an errno, or -1 where half of it is to be done."""
        if self.quiet or not self._counts(kind, path):
            return 0
        self.number += 1
        self._note(kind, path)
        if self.number == self.at or (self.mode == "full" and self.number > self.at > 0):
            return self._go_wrong(kind, path)
        return 0

    def _counts(self, kind: str, path: str) -> bool:
        self.streak = self.streak + 1 if (kind, path) == self.last else 1
        self.last = (kind, path)
        return self.streak <= UNTIL_MERGED or self.streak & (self.streak - 1) == 0

    def _note(self, kind: str, path: str) -> None:
        if self.log is None:
            return
        self.quiet = True
        said = self.probe() if self.probe is not None else ""
        name = CHANCE.sub(".", os.path.relpath(path, self.folder))
        REAL["write"](self.log, f"{self.number}\t{kind}\t{name}\t{said}\n".encode())
        self.quiet = False

    def _go_wrong(self, kind: str, path: str) -> int:
        if self.mode in ERRORS:
            return ERRORS[self.mode] if self.mode != "full" or kind in GROWING else 0
        if self.mode == "torn" and kind in DATA:
            return -1
        if self.mode == "tell":
            REAL["write"](self.tell, f"{kind} {os.path.relpath(path, self.folder)}\n".encode())
            return 0
        if self.mode == "term":
            os.kill(os.getpid(), signal.SIGTERM)
            return 0
        if self.mode == "peer":
            for pid in self.others:
                os.kill(pid, signal.SIGKILL)
            return 0
        self.die()
        return 0

    def die(self) -> None:
        """Leave as a process does that is killed, or whose machine loses power."""
        self.quiet = True
        if self.disk is not None:
            self.disk.lose_power(keep_names=self.mode == "hollow")
        os.kill(os.getpid(), signal.SIGKILL)

    def named(self, path: Any, dir_fd: int | None = None) -> str | None:
        """Return the whole path of a file under the folder, None for others."""
        if isinstance(path, int) or self.quiet:
            return None
        text = os.fsdecode(path)
        whole = os.path.abspath(text if dir_fd is None else os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), text))
        return whole if whole == str(self.folder) or whole.startswith(f"{self.folder}{os.sep}") else None

    def opened(self, handle: int) -> str | None:
        """Return the path of an open file under the folder, None for others."""
        try:
            return self.named(os.readlink(f"/proc/self/fd/{handle}"))
        except OSError:
            return None

    # ---------------------------------------- names
    def _name(self, kind: str) -> Callable[..., Any]:
        def call(path: Any, *words: Any, dir_fd: int | None = None, **more: Any) -> Any:
            found = self.named(words[0] if kind == "link" else path, dir_fd)
            if kind == "mkdir" and found and os.path.isdir(found):  # nothing happens: there is one
                found = None
            wrong = self.happens(kind, found) if found else 0
            if wrong > 0:
                raise OSError(wrong, os.strerror(wrong), found)
            return REAL[kind](path, *words, **more, **({} if dir_fd is None else {"dir_fd": dir_fd}))

        return call

    def _move(self, kind: str) -> Callable[..., Any]:
        def call(source: Any, target: Any, **more: Any) -> Any:
            found = self.named(target, more.get("dst_dir_fd")) or self.named(source, more.get("src_dir_fd"))
            wrong = self.happens(kind, found) if found else 0
            if wrong > 0:
                raise OSError(wrong, os.strerror(wrong), found)
            return REAL[kind](source, target, **more)

        return call

    def _sync(self, real: Callable[[Any], None]) -> Callable[[Any], None]:
        def call(thing: Any) -> None:
            handle = thing if isinstance(thing, int) else thing.fileno()
            found = self.opened(handle)
            wrong = self.happens("fsync", found) if found else 0
            if wrong > 0:
                raise OSError(wrong, os.strerror(wrong), found)
            real(handle)
            if found and self.disk is not None:
                self.disk.sync(handle)

        return call

    def _ftruncate(self, handle: int, length: int) -> None:
        found = self.opened(handle)
        wrong = self.happens("truncate", found) if found else 0
        if wrong > 0:
            raise OSError(wrong, os.strerror(wrong), found)
        REAL["ftruncate"](handle, length)

    # ---------------------------------------- bytes
    def _os_open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        found = self.named(path, dir_fd) if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) else None
        wrong = self.happens("open", found) if found else 0
        if wrong > 0:
            raise OSError(wrong, os.strerror(wrong), found)
        return int(REAL["open"](path, flags, mode, dir_fd=dir_fd))

    def _os_write(self, handle: int, data: Any) -> int:
        found = self.opened(handle)
        wrong = self.happens("write", found) if found else 0
        if wrong:
            REAL["write"](handle, bytes(data)[: len(data) // 2])
            self._fail(wrong, found)
        return int(REAL["write"](handle, data))

    def _open(self, file: Any, mode: str = "r", *words: Any, **more: Any) -> Any:
        found = self.named(file) if any(letter in mode for letter in "wax+") else None
        wrong = self.happens("open", found) if found else 0
        if wrong > 0:
            raise OSError(wrong, os.strerror(wrong), found)
        real = REAL_OPEN(file, mode, *words, **more)
        return Watched(real, found, self) if found else real

    def _torch_save(self, thing: Any, file: Any, *words: Any, **more: Any) -> None:
        found = self.named(file) if isinstance(file, str | os.PathLike) else None
        wrong = self.happens("torch.save", found) if found else 0
        REAL_SAVE(thing, file, *words, **more)
        if wrong and found:
            self._tear(found, wrong, RuntimeError(f"[enforce fail at inline_container.cc] {os.strerror(abs(wrong))}"))

    def _save_file(self, tensors: Any, file: Any, *words: Any, **more: Any) -> None:
        found = self.named(file)
        wrong = self.happens("save_file", found) if found else 0
        REAL_SAVE_FILE(tensors, file, *words, **more)
        if wrong and found:
            said = f"Error while serializing: I/O error: {os.strerror(abs(wrong))} (os error {wrong})"
            self._tear(found, wrong, SafetensorError(said))

    def _tear(self, path: str, wrong: int, error: Exception) -> None:
        REAL["truncate"](path, os.path.getsize(path) // 2)
        if wrong < 0:
            self.die()
        raise error

    def _fail(self, wrong: int, path: str | None) -> None:
        if wrong < 0:
            self.die()
        raise OSError(wrong, os.strerror(wrong), path)


class Watched:
    """An open file whose writes are events, and whose end is one where the last bytes may fail to reach the disk."""

    def __init__(self, file: Any, path: str, events: FileEvents):
        self._file, self._path, self._events = file, path, events
        self._safe = None if isinstance(file, io.RawIOBase) else os.path.getsize(path)  # bytes no buffer can lose

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Any:
        return iter(self._file)

    def write(self, data: Any) -> Any:
        """Write, or half of it and no more."""
        wrong = self._events.happens("write", self._path)
        if wrong:
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            self._events._fail(wrong, self._path)
        return self._file.write(data)

    def writelines(self, parts: Any) -> None:
        """Write one after another."""
        for part in parts:
            self.write(part)

    def close(self) -> None:
        """Close, or lose half of what a buffer may still have held, and say so."""
        if self._file.closed:
            return
        wrong = self._events.happens("close", self._path)
        self._file.close()
        if wrong:
            if self._safe is not None:
                REAL["truncate"](self._path, (self._safe + os.path.getsize(self._path)) // 2)
            self._events._fail(wrong, self._path)
