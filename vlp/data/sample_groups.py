"""Which group each sample of a card belongs to: a folder that decides what batches are drawn from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from vlp.data.samples import SampleSet, only_source
from vlp.ground import files
from vlp.ground.types import RecipeError

ABOUT, NUMBERS = "groups.json", "groups.npy"


def write_groups(folder: Path, groups: Int64[NDArray[np.int64], " n"], about: dict[str, Any]) -> None:
    """Write the group of each sample, and what they are of.

    Args:
        groups: By number of the sample in its card, from 0 on; -1 for samples that are never drawn.
        about: The `fingerprint` of the card, and whatever else should be known of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with files.write_whole(folder / NUMBERS) as file:
        np.save(file, groups.astype(np.int64))
    known = groups[groups >= 0]
    told = about | {"samples": len(groups), "sizes": np.bincount(known).tolist()}
    files.write_text(folder / ABOUT, json.dumps(told, indent=2) + "\n")


def read_groups(folder: Path, samples: SampleSet) -> Int64[NDArray[np.int64], " n"]:
    """Return the group of each sample.

    Args:
        folder: What `write_groups` wrote.
        samples: All samples of the run.

    Raises:
        RecipeError: There are several sources, no groups, or those of other data; names the key.
    """
    card = only_source(samples.cards, samples.has_repeats, "data.groups: groups are of one card")
    told, groups = read_group_folder(folder)
    if (told.get("fingerprint"), len(groups)) != (card.fingerprint, len(samples)):
        raise RecipeError(f"data.groups: {folder} has the groups of other samples than {card.name}: group them anew")
    return groups


def read_group_folder(folder: Path) -> tuple[dict[str, Any], Int64[NDArray[np.int64], " n"]]:
    """Return what a folder of groups says of itself, and the group of each sample.

    Raises:
        RecipeError: It holds none.
    """
    try:
        told: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        groups = np.load(folder / NUMBERS)
    except (OSError, ValueError) as error:
        raise RecipeError(f"data.groups: {folder} holds no groups ({error}); `vlp stages` writes them") from error
    return told, groups
