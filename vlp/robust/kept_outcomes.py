"""Outcomes of attacks on a disk, so that an evaluation that was stopped goes on with the attack it was at."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlp.ground import dist
from vlp.ground.files import write_whole
from vlp.robust.findings import Outcome

UNSAFE, MOST_LETTERS = r"[^A-Za-z0-9._-]+", 100  # of names that people gave
Told = Mapping[str, Any]


class KeptOutcomes:
    """A folder with a file per attack, radius and set.

    Args:
        folder: None keeps nothing.
        resume: Take what is there.
    """

    def __init__(self, folder: Path | None, *, resume: bool):
        self.folder = folder
        self.resume = resume

    def find(self, name: str, told: Told) -> Outcome | None:
        """Return an outcome, equal on all processes; None where it must be made.

        Args:
            name: Of the attack, in words.
            told: All that the outcome depends on, as plain JSON.
        """
        if self.folder is None or not self.resume:
            return None
        return dist.on_main(partial(_read, self._path(name, told), dict(told)))

    def keep(self, name: str, told: Told, outcome: Outcome) -> None:
        """Write an outcome on the main process."""
        if self.folder is not None:
            dist.on_main(partial(_write, self._path(name, told), dict(told), outcome))

    def _path(self, name: str, told: Told) -> Path:
        assert self.folder is not None
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
        return self.folder / f"{re.sub(UNSAFE, '-', name)[:MOST_LETTERS]}-{digest}.npz"


def _write(path: Path, told: Told, outcome: Outcome) -> None:
    arrays = {"rows": outcome.rows.numpy(), "distance": outcome.distance.numpy()}
    if outcome.is_blind is not None:
        arrays["is_blind"] = outcome.is_blind.numpy()
    arrays |= {f"layer_{number}": rows.numpy() for number, rows in enumerate(outcome.layers)}
    words = {
        "told": told,
        "least": outcome.least,
        "most": outcome.most,
        "texts": list(outcome.texts),
        "pictures": outcome.pictures,
        "layers": len(outcome.layers),
    }
    with write_whole(path) as file:
        np.savez(file, words=np.array(json.dumps(words)), **arrays)  # type: ignore[arg-type]


def _read(path: Path, told: Told) -> Outcome | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            words = json.loads(str(arrays["words"]))
            if words["told"] != told:
                return None
            return Outcome(
                rows=torch.from_numpy(arrays["rows"]),
                distance=torch.from_numpy(arrays["distance"]),
                least=words["least"],
                most=words["most"],
                is_blind=torch.from_numpy(arrays["is_blind"]) if "is_blind" in arrays.files else None,
                texts=tuple(words["texts"]),
                pictures=words["pictures"],
                layers=tuple(torch.from_numpy(arrays[f"layer_{number}"]) for number in range(words["layers"])),
            )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None  # not there, or damaged: it is made again
