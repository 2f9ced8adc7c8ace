"""Rows of numbers by sample, computed once and kept in a file that all processes of a machine look into."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from numpy.typing import NDArray

from vlp.ground import files
from vlp.ground.types import RecipeError


class KeptRows:
    """Rows that are written at most once; a row counts as known once it is there.

    After a crash those rows count that the last `save` has brought to the disk, and to another run that begins in the
    meantime. Its files lie beside each other: `.rows`, `.known` (which of them are, now), `.saved` (which are on the
    disk), `.about`, and `.beginning`, which is a lock.

    Args:
        stem: Path of its files without their suffixes, on a disk of this machine or one that only it writes to.
        num_rows: One for each sample.
        width: Numbers in a row.
    """

    def __init__(self, stem: Path, num_rows: int, width: int):
        self.stem = stem
        self.shape = (num_rows, width)
        self._rows: Any = None
        self._known: Any = None

    @property
    def num_bytes(self) -> int:
        """What the rows take on the disk."""
        return 4 * self.shape[0] * self.shape[1]

    @property
    def num_known(self) -> int:
        """How many rows are known, to all processes of this machine together."""
        return int(np.count_nonzero(self._known))

    def begin(self, about: str) -> None:
        """Make the files, or go on with them; for one process, before all of them `open`.

        Args:
            about: What rows follow from: those of anything else are forgotten.

        Raises:
            RecipeError: There is no room.
        """
        try:
            self.stem.parent.mkdir(parents=True, exist_ok=True)
            with self._path("beginning").open("w") as beginning:
                fcntl.flock(beginning, fcntl.LOCK_EX)  # runs that share a folder may begin together
                self._begin(about)
        except OSError as error:
            raise RecipeError(
                f"{self.stem.parent}: {self.num_bytes / 1e9:,.1f} GB for embeddings cannot be had ({error.strerror}): "
                "make room, set runs=FOLDER (or train.keep_locked=FOLDER) on another disk, or train.keep_locked=false"
            ) from error

    def _begin(self, about: str) -> None:
        rows, known, saved = (self._path(name) for name in ("rows", "known", "saved"))
        if not self._is_of(about):
            saved.unlink(missing_ok=True)
            rows.unlink(missing_ok=True)
            files.write_text(self._path("about"), about)
            with rows.open("wb") as file:
                _reserve(file.fileno(), self.num_bytes)
        flags = np.zeros(self.shape[0], dtype=np.bool_)
        if saved.is_file():
            flags[:] = np.fromfile(saved, dtype=np.bool_)
        with files.write_whole(known) as file:
            flags.tofile(file)

    def _is_of(self, about: str) -> bool:
        rows, told = self._path("rows"), self._path("about")
        if not (rows.is_file() and told.is_file()) or rows.stat().st_size != self.num_bytes:
            return False
        saved = self._path("saved")
        whole = not saved.is_file() or saved.stat().st_size == self.shape[0]
        return whole and told.read_text(encoding="utf-8") == about

    def open(self) -> None:
        """Look into the files."""
        self._rows = np.memmap(self._path("rows"), dtype=np.float32, mode="r+", shape=self.shape)
        self._known = np.memmap(self._path("known"), dtype=np.bool_, mode="r+", shape=self.shape[:1])

    def has(self, numbers: NDArray[np.int64]) -> Bool[NDArray[np.bool_], " n"]:
        """Return which rows are known."""
        return np.asarray(self._known[numbers])

    def read(self, numbers: NDArray[np.int64]) -> Float32[NDArray[np.float32], "n d"]:
        """Return rows; what is not known is zero, or half there."""
        return np.asarray(self._rows[numbers])

    def write(self, numbers: NDArray[np.int64], rows: Float32[NDArray[np.float32], "n d"]) -> None:
        """Keep rows; equal numbers have equal rows."""
        self._rows[numbers] = rows
        self._known[numbers] = True

    def save(self) -> None:
        """Bring all that is known to the disk, so that it is known after a crash too; for one process.

        Raises:
            OSError: It cannot be written.
        """
        flags = np.array(self._known)  # before the rows are: what comes in the meantime does not count yet
        self._rows.flush()
        with files.write_whole(self._path("saved")) as file:
            flags.tofile(file)

    def _path(self, name: str) -> Path:
        return self.stem.with_name(f"{self.stem.name}.{name}")

    def __getstate__(self) -> dict[str, Any]:
        return {"stem": self.stem, "shape": self.shape, "is_open": self._known is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        is_open = state.pop("is_open")
        vars(self).update(state, _rows=None, _known=None)
        if is_open:
            self.open()


def _reserve(descriptor: int, size: int) -> None:
    """Take the room now: a map of a file that finds none later ends the process without a word."""
    os.ftruncate(descriptor, size)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
