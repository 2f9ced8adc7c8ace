# ruff: noqa: PTH115
"""What of a folder survives when the power fails: the worst that file systems are allowed to make of it."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

REAL_OPEN = os.open


class Disk:
    """The part of a folder that is surely on the disk.

    A file's bytes are safe once the file was synced, a name once its folder was. What is there at first is safe.

    Args:
        folder: It is safe itself.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.bytes: dict[int, bytes] = {}
        self.names: dict[int, dict[str, tuple[int, bool]]] = {}
        self.held: list[int] = []  # open files keep their numbers
        for place, _, files in os.walk(folder):
            self._sync(Path(place))
            for name in files:
                self._sync(Path(place) / name)

    def sync(self, handle: int) -> None:
        """Take note that an open file or folder was synced."""
        self._sync(Path(os.readlink(f"/proc/self/fd/{handle}")))

    def _sync(self, path: Path) -> None:
        handle = REAL_OPEN(path, os.O_RDONLY)
        self.held.append(handle)
        number = os.fstat(handle).st_ino
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            self.bytes[number] = os.pread(handle, os.fstat(handle).st_size, 0)
            return
        with os.scandir(path) as entries:
            self.names[number] = {entry.name: (entry.inode(), entry.is_dir()) for entry in entries}
        for name, (_, is_folder) in self.names[number].items():
            self.held.append(REAL_OPEN(path / name, os.O_RDONLY | (os.O_DIRECTORY if is_folder else 0)))

    def lose_power(self, *, keep_names: bool) -> None:
        """Leave in the folder what is safe.

        Args:
            keep_names: Names reach the disk at once, so that only bytes are lost.
        """
        number = self.folder.stat().st_ino
        names = self._names_now(self.folder) if keep_names else self.names
        for entry in self.folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        self._write(self.folder, number, names)

    def _names_now(self, folder: Path) -> dict[int, dict[str, tuple[int, bool]]]:
        names: dict[int, dict[str, tuple[int, bool]]] = {}
        for place, folders, files in os.walk(folder):
            names[Path(place).stat().st_ino] = {
                name: ((Path(place) / name).stat().st_ino, name in folders) for name in (*folders, *files)
            }
        return names

    def _write(self, folder: Path, number: int, names: dict[int, dict[str, tuple[int, bool]]]) -> None:
        for name, (inner, is_folder) in names.get(number, {}).items():
            if is_folder:
                (folder / name).mkdir()
                self._write(folder / name, inner, names)
            else:
                (folder / name).write_bytes(self.bytes.get(inner, b""))
