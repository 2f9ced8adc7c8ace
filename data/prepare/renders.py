"""A store of rendered drawings, by what their pixels depend on: what was rendered once never is again."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from rendering import Drawing, Picture, draw_all
from vlp.curate.parallel import map_in_order, progress

CHUNK = 250  # drawings that a process renders before they are stored
TABLE = "CREATE TABLE IF NOT EXISTS pictures (fingerprint BLOB PRIMARY KEY, image BLOB, pixels BLOB, thumb BLOB, fault)"

FINISHED = "SELECT fingerprint FROM pictures WHERE fault NOT IN ('crash', 'timeout')"


class Renders:
    """Rendered drawings in a file; a build that was interrupted goes on from it.

    Args:
        path: The file.
    """

    def __init__(self, path: Path):
        self._database = sqlite3.connect(path)
        self._database.execute(TABLE)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __getitem__(self, drawing: Drawing) -> Picture:
        row = self._database.execute(
            "SELECT image, pixels, thumb, fault FROM pictures WHERE fingerprint = ?", (drawing.fingerprint,)
        ).fetchone()
        return Picture(*row)

    def fill(self, drawings: Iterable[Drawing], workers: int) -> None:
        """Render what is not in the store yet, and once more what did not come to an end.

        A process may have been killed for want of memory, and then a drawing would be missing here and not elsewhere.
        """
        wanted = {drawing.fingerprint: drawing for drawing in drawings}
        for _ in range(2):
            known = {row[0] for row in self._database.execute(FINISHED)}
            missing = [item for item in wanted.items() if item[0] not in known]
            self._render(missing, workers)

    def _render(self, missing: Sequence[tuple[bytes, Drawing]], workers: int) -> None:
        tasks = ([drawing for _, drawing in chunk] for chunk in _chunks(missing))
        results = map_in_order(draw_all, tasks, workers)
        with contextlib.closing(results), progress(len(missing), "drawings") as bar:
            for chunk, pictures in zip(_chunks(missing), results, strict=True):
                self._add([fingerprint for fingerprint, _ in chunk], pictures)
                bar.update(len(chunk))

    def _add(self, fingerprints: Sequence[bytes], pictures: Sequence[Picture]) -> None:
        rows = [
            (fingerprint, picture.image, picture.pixels, picture.thumb, picture.fault)
            for fingerprint, picture in zip(fingerprints, pictures, strict=True)
        ]
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?)", rows)


def _chunks(drawings: Sequence[tuple[bytes, Drawing]]) -> Iterator[list[tuple[bytes, Drawing]]]:
    rest = iter(drawings)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk
