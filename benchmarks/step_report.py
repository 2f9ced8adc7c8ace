"""What the benchmark of training steps found, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from benchmarks.tables import Table, markdown, ratio, spread

STEPS = 2  # of one side, before it is the other's turn


@dataclass(frozen=True)
class Case:
    """What is trained.

    Args:
        towers: A name that open_clip knows; None for a toy.
        wanted: How many times our time open_clip is meant to take, at least.
        captions: Settings of `data.captions`; those that the shipped pairs have are long names or many tags.
    """

    towers: str | None
    pairs: int
    wanted: float
    captions: str = "{separator: ',', wording: {all: 1.0}}"

    def __str__(self) -> str:
        return f"{self.towers or 'toy'}, {self.pairs} pairs"


@dataclass
class Found:
    """Seconds of processor time of each step.

    Args:
        tokens: Of a caption, on average, start and end included.
        longest: Of the longest caption of each batch, on average.
        vlp: By round.
        peer: The same, of open_clip as its `main` sets it up.
        fused: The same, with the fused AdamW that its `main` does not ask for.
    """

    case: Case
    tokens: float
    longest: float
    vlp: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    fused: list[float] = field(default_factory=list)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Found:
        """Return what a report's file holds."""
        return cls(**{**values, "case": Case(**values["case"])})


WHAT = (
    "Seconds of processor time of a whole training step, one thread, float32: augmentation, both towers, the loss, "
    "backward, clipping, AdamW, averaged weights. open_clip's own training loop neither clips nor averages; it runs as "
    "its trainer sets it up, and with fused AdamW, which that does not ask for. Both have the shipped pairs' captions."
)


def sections(found: Sequence[Found]) -> list[str]:
    """Return the report between its head and the versions."""
    version = metadata.version("open_clip_torch")
    rounds = len(found[0].vlp)
    turns = f"{rounds} rounds of {STEPS} steps of each side in turns; median (p10 .. p90). Beside open_clip {version}."
    return [WHAT, turns, markdown(table(found))]


def table(found: Sequence[Found]) -> Table:
    """Return one line per case, with what was wanted."""
    return [
        ["towers", "tokens, longest", "vlp", "open_clip", "ratio", "open_clip, fused AdamW", "ratio", "wanted"],
        *(
            [
                str(each.case),
                f"{each.tokens:.1f}, {each.longest:.1f}",
                spread(each.vlp),
                spread(each.peer),
                f"{ratio(each.peer, each.vlp):.2f} x",
                spread(each.fused),
                f"{ratio(each.fused, each.vlp):.2f} x",
                f"{each.case.wanted} x",
            ]
            for each in found
        ),
    ]
