"""Rows of numbers by a key, as many as there come to be, in a file that processes and runs of a machine share."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int64
from numpy.typing import NDArray

from vlp.ground.types import RecipeError

SELECT = "SELECT key, row FROM kept WHERE key IN (SELECT value FROM json_each(?))"
SECONDS_TO_WAIT = 60.0  # for another process that writes
SECONDS_BETWEEN_TRIES = 0.02


class RowsByKey:
    """Rows that are written once: the first of a key stays. A crash loses at most the newest, and never half of one.

    A database of SQLite, so that writers meet in peace. For the process that opens it: none that is forked may use it.

    Args:
        path: The file, on a disk of this machine or one that only it writes to.
        width: Numbers in a row.
        about: What rows follow from: those of anything else are forgotten.

    Raises:
        RecipeError: The file cannot be made or read.
    """

    def __init__(self, path: Path, width: int, about: str):
        self.path = path
        self.width = width
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, timeout=SECONDS_TO_WAIT, isolation_level=None)
            self._write_ahead()
            self._base.execute("PRAGMA synchronous = NORMAL")
            self._begin(f"{about} {width}")
        except (OSError, sqlite3.Error) as error:
            raise RecipeError(
                f"train.keep_locked: {path} cannot be used ({error}): remove it, make room, name another folder, or "
                "set train.keep_locked=false"
            ) from error

    def _write_ahead(self) -> None:
        """Let writers and readers of the file meet: SQLite itself does not wait where another has just made it."""
        end = time.monotonic() + SECONDS_TO_WAIT
        while True:
            try:
                self._base.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
            time.sleep(SECONDS_BETWEEN_TRIES)

    def _begin(self, about: str) -> None:
        with self._base:
            self._base.execute("BEGIN IMMEDIATE")
            self._base.execute("CREATE TABLE IF NOT EXISTS about (told TEXT)")
            self._base.execute("CREATE TABLE IF NOT EXISTS kept (key INTEGER PRIMARY KEY, row BLOB)")
            if self._base.execute("SELECT told FROM about").fetchall() != [(about,)]:
                self._base.execute("DELETE FROM kept")
                self._base.execute("DELETE FROM about")
                self._base.execute("INSERT INTO about VALUES (?)", (about,))

    @property
    def num_known(self) -> int:
        """How many rows there are, those of other processes and runs included."""
        number: int = self._base.execute("SELECT count(*) FROM kept").fetchone()[0]
        return number

    def read(
        self, keys: Int64[NDArray[np.int64], " n"]
    ) -> tuple[Bool[NDArray[np.bool_], " n"], Float32[NDArray[np.float32], "n d"]]:
        """Return which keys have a row, and the rows, zero where there is none."""
        rows = np.zeros((len(keys), self.width), dtype=np.float32)
        known = np.zeros(len(keys), dtype=np.bool_)
        asked = json.dumps(keys.tolist())  # in one query: a query for each takes three times as long
        found = dict(self._base.execute(SELECT, (asked,)))
        for place, key in enumerate(keys.tolist()):
            if key in found:
                rows[place], known[place] = np.frombuffer(found[key], dtype=np.float32), True
        return known, rows

    def add(self, keys: Int64[NDArray[np.int64], " n"], rows: Float32[NDArray[np.float32], "n d"]) -> None:
        """Keep the rows of keys that have none yet.

        Raises:
            sqlite3.Error: There is no room; what was there stays.
        """
        pairs = [(key, row.tobytes()) for key, row in zip(keys.tolist(), rows, strict=True)]
        with self._base:
            self._base.execute("BEGIN IMMEDIATE")
            self._base.executemany("INSERT OR IGNORE INTO kept VALUES (?, ?)", pairs)
