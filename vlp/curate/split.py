"""Split a card into parts by a hash of each sample; nothing is copied: each part is a card that names its samples."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vlp.curate.facts.column import Column
from vlp.curate.facts.fact_files import FOLDER
from vlp.curate.facts.facts import CAPTION, KEY, LOOK
from vlp.curate.facts.gather import FactTable, gather
from vlp.curate.subset import check_target, write_subset
from vlp.data import Card
from vlp.ground.randomness import fold, mix_array
from vlp.ground.types import RecipeError

By = Literal["key", "image", "caption"]
FACTS = {"key": KEY, "image": LOOK, "caption": CAPTION}


@dataclass(frozen=True)
class Share:
    """One part of a split."""

    card: Path
    share: float
    samples: int


@dataclass(frozen=True)
class Split:
    """What a split did."""

    source: str
    parts: tuple[Share, ...]

    def __str__(self) -> str:
        total = sum(part.samples for part in self.parts)
        lines = [
            f"{part.samples:14,d}  {part.card} ({part.samples / total:.2%}, asked for {part.share:.2%})"
            for part in self.parts
        ]
        return "\n".join([f"{total:14,d}  samples of {self.source}", *lines])


def split_card(
    card: Card, to: Path, shares: str, *, seed: int = 0, by: By = "key", workers: int | None = None
) -> Split:
    """Write one card per part. Every sample is in one part, and stays there when the set grows.

    Args:
        to: Folder for the cards, NAME-PART.yaml each.
        shares: `train=0.98,val=0.02`.
        seed: Another seed, another split.
        by: What stays together: samples of one `key`, with one `caption`, or whose `image` looks the same.
        workers: Processes; all cores when absent.

    Raises:
        RecipeError: A mistake in the arguments, an interruption, or a part without samples.
    """
    wanted = parse_shares(shares)
    notes = {part: f"split {card.name} by {by}: {part} of {shares}, seed {seed}" for part in wanted}
    targets = {part: check_target(card, to / f"{card.name}-{part}.yaml", notes[part]) for part in wanted}
    try:
        table = gather(card, [KEY, FACTS[by]], to.expanduser().resolve() / FOLDER, workers)
    except KeyboardInterrupt as error:
        raise RecipeError("interrupted; the same command continues where it stopped") from error
    which = np.searchsorted(np.cumsum(list(wanted.values()))[:-1], _points(table, by, seed), "right")
    before = table.used
    flags = {part: before & (which == number) for number, part in enumerate(wanted)}
    empty = [part for part in wanted if not flags[part].any()]
    if empty:
        raise RecipeError(
            f"--shares {shares}: no sample falls into {', '.join(empty)}; ask for more, or another --seed"
        )
    for part, target in targets.items():
        write_subset(card, target, flags[part], table.shards, notes[part])
    return Split(card.name, tuple(Share(targets[p], wanted[p], int(flags[p].sum())) for p in wanted))


def parse_shares(text: str) -> dict[str, float]:
    """Read `train=0.98,val=0.02`.

    Raises:
        RecipeError: No such list, a part twice, or the sum is not 1.
    """
    found: dict[str, float] = {}
    for piece in text.split(","):
        part, _, share = piece.partition("=")
        if not re.fullmatch(r"[\w-]+", part) or part in found:
            raise RecipeError(f"--shares {text}: write PART=SHARE,PART=SHARE with different names")
        try:
            found[part] = float(share)
        except ValueError as error:
            raise RecipeError(f"--shares {text}: '{share}' is no number") from error
    if not (min(found.values()) > 0 and abs(sum(found.values()) - 1) <= 1e-9):  # NaN is neither
        raise RecipeError(
            f"--shares {text}: shares must be larger than 0, and their sum 1, not {sum(found.values()):g}"
        )
    return found


def _points(table: FactTable, by: By, seed: int) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each sample; what cannot be read goes by its key."""
    columns = zip(table.columns(KEY), table.columns(FACTS[by]), strict=True)
    names = [np.where(column.faults == "", _names(column, by), keys.values) for (_, keys), (_, column) in columns]
    bits = mix_array(np.concatenate(names) ^ np.uint64(fold(seed)))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _names(column: Column, by: By) -> NDArray[np.uint64]:
    return column.values["code"] if by == "image" else column.values
