"""Lists of kept samples: which samples of a card's shards a filter or a split left over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlp.ground.files import write_whole
from vlp.ground.types import RecipeError


def write_kept(path: Path, samples: int, kept: NDArray[np.int64], note: str = "") -> None:
    """Write a list of kept samples.

    Args:
        path: An `.npz` file; whole or not there at all.
        samples: Number of samples in all shards of the card.
        kept: Numbers of the kept ones, ascending.
        note: Who kept them, and why.

    Raises:
        ValueError: The numbers are none, not strictly ascending, or outside the shards.
    """
    kept = np.asarray(kept, dtype=np.int64)
    problem = _problem(samples, kept)
    if problem:
        raise ValueError(f"{path}: {problem}")
    with write_whole(path) as file:
        np.savez_compressed(file, samples=samples, kept=kept, note=note)


def read_kept(path: Path, samples: int) -> NDArray[np.int64]:
    """Return the numbers of the kept samples, ascending.

    Args:
        path: What `write_kept` wrote.
        samples: Number of samples in all shards of the card.

    Raises:
        RecipeError: No such list, a broken one, or one made for other shards.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            made_for, kept = int(file["samples"]), file["kept"]
        if not np.issubdtype(kept.dtype, np.integer):
            raise ValueError(f"numbers of samples are whole, not {kept.dtype}")
        kept = kept.astype(np.int64)
    except Exception as error:  # NumPy raises almost anything over damaged bytes
        raise RecipeError(f"{path}: missing, or no list of kept samples; run vlp data filter or split again") from error
    if made_for != samples:
        raise RecipeError(
            f"{path}: made for {made_for} samples, the shards hold {samples}; fetch the missing shards, or run "
            "vlp data filter or split again"
        )
    problem = _problem(samples, kept)
    if problem:
        raise RecipeError(f"{path}: {problem}; run vlp data filter or split again")
    return kept


def read_note(path: Path) -> str:
    """Return who kept the samples of a list, and why; empty where that is not known."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return str(file["note"])
    except Exception:  # as above
        return ""


def _problem(samples: int, kept: NDArray[np.int64]) -> str:
    if kept.ndim != 1 or not len(kept):
        return "not one sample is kept"
    if kept[0] < 0 or kept[-1] >= samples or (np.diff(kept) <= 0).any():
        return f"kept numbers must ascend from 0 to {samples - 1}"
    return ""
