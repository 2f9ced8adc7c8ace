"""Misspelt captions: what a search does with texts as people type them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from vlp.evaluators.corruptions import generator
from vlp.ground.strict import Strict

ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
SHIFTS = (0.0, 0.25, 0.75)  # how far right each row of an American keyboard begins, in keys
REACH = 1.3
_KEYS = {key: (x + SHIFTS[y], y) for y, row in enumerate(ROWS) for x, key in enumerate(row)}
NEIGHBOURS = {
    key: "".join(sorted(other for other, (u, v) in _KEYS.items() if 0 < (x - u) ** 2 + (y - v) ** 2 <= REACH**2))
    for key, (x, y) in _KEYS.items()
}


class Typos(Strict):
    """Misspell the captions of a retrieval set.

    Swaps and keyboard neighbours as in Belinkov and Bisk 2018 (arXiv 1711.02173), drops as in Pruthi et al. 2019
    (arXiv 1905.11268); for image-text models see Qiu et al. 2022 (arXiv 2212.08044). A letter that has a slip at one
    rate has the same one at every higher rate, unless the letter before changes places with it there.

    Args:
        rate: Share of the letters that have a slip.
        kinds: `swap` changes places with the next letter, `drop` leaves the letter out, `neighbour` takes a key beside
            it. Each slip is one of these; where it cannot be (a swap of the last letter of a word, a drop of the first,
            a letter that an American keyboard lacks) the letter stays.
        seed: Slips depend on it, on the key of the sample and the number of the caption, and on nothing else.
    """

    rate: float = Field(ge=0, le=1)
    kinds: tuple[Literal["swap", "drop", "neighbour"], ...] = Field(("swap", "drop", "neighbour"), min_length=1)
    seed: int = 0


def misspell(captions: Sequence[str], typos: Typos, key: str) -> tuple[str, ...]:
    """Return captions of one sample with slips; none becomes blank.

    Args:
        key: The sample's.
    """
    return tuple(_misspell(caption, typos, key, number) for number, caption in enumerate(captions))


def _misspell(caption: str, typos: Typos, key: str, number: int) -> str:
    draws = generator(typos.seed, "typos", key, number).random((len(caption), 3))
    letters = list(caption)
    for place, (slip, which, where) in enumerate(draws.tolist()):
        if slip >= typos.rate or not caption[place].isalpha() or letters[place] != caption[place]:
            continue  # also a letter that has changed places with the one before
        kind = typos.kinds[min(int(which * len(typos.kinds)), len(typos.kinds) - 1)]
        near = NEIGHBOURS.get(caption[place].lower(), "")
        if kind == "swap" and caption[place + 1 : place + 2].isalpha():
            letters[place : place + 2] = letters[place + 1], letters[place]
        elif kind == "drop" and caption[max(0, place - 1) : place].isalpha():
            letters[place] = ""
        elif kind == "neighbour" and near:
            found = near[min(int(where * len(near)), len(near) - 1)]
            letters[place] = found.upper() if caption[place].isupper() else found
    return "".join(letters)
