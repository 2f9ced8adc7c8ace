"""One fact of many samples: how it is measured, and how it is kept."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.curate.facts.facts import Fact
from vlp.curate.facts.view import View
from vlp.data import Card
from vlp.data.faults import BadSampleError
from vlp.data.samples import Sample
from vlp.data.shards.shard import Shard

CHUNK = 256  # samples whose readings are held at once, and the batch of a model


@dataclass(frozen=True)
class Column:
    """One fact of some samples of a shard.

    Args:
        values: One row per sample; zero where it could not be measured.
        faults: Why a sample could not be measured; empty where it could.
    """

    values: NDArray[Any]
    faults: NDArray[np.str_]

    def pack(self) -> bytes:
        """Return the content of a file that `unpack` reads."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, values=self.values, faults=self.faults)
        return buffer.getvalue()

    def at(self, places: NDArray[Any] | None) -> Column:
        """Return some of the samples; all where no places are given."""
        return self if places is None else Column(self.values[places], self.faults[places])

    @classmethod
    def of(cls, fact: Fact, found: Sequence[Any]) -> Column:
        """Turn what a fact read of some samples, or what was wrong with them, into rows."""
        faults = np.array([thing.reason if isinstance(thing, BadSampleError) else "" for thing in found], dtype="U20")
        rows = fact.rows([thing for thing, fault in zip(found, faults, strict=True) if not fault])
        values = np.zeros((len(found), *rows.shape[1:]), dtype=rows.dtype)
        values[faults == ""] = rows
        return cls(values, faults)

    @classmethod
    def together(cls, parts: Sequence[Column]) -> Column:
        """Return columns one below the other."""
        return cls(np.concatenate([part.values for part in parts]), np.concatenate([part.faults for part in parts]))

    @classmethod
    def unpack(cls, path: Path) -> Column:
        """Read what `pack` returned."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["values"], arrays["faults"])


def first_faults(columns: Iterable[Column], number: int) -> NDArray[np.str_]:
    """Return why each of so many samples lacks one of some facts, the first reason that there is; empty where none."""
    found: NDArray[np.str_] = np.zeros(number, dtype="U20")
    for column in columns:
        found = np.where(found == "", column.faults, found)
    return found


def measure(
    card: Card,
    shard: Shard,
    places: Iterable[int],
    facts: Sequence[Fact],
    *,
    threads: int = 1,
    met: Callable[[BadSampleError], None] = lambda _bad: None,
) -> list[Column]:
    """Read each sample once and return its facts; one image is held at a time.

    Args:
        places: Numbers of the samples in the shard.
        met: Told of each fault; what it raises ends the measuring.
    """

    def read(place: int) -> list[Any]:
        try:
            view = View(Sample.of_card(card, shard, place))
        except BadSampleError as bad:
            met(bad)
            return [bad] * len(facts)
        return [_ask(fact, view, met) for fact in facts]

    parts = [[Column.of(fact, [])] for fact in facts]
    left = iter(places)
    with ThreadPoolExecutor(threads) as pool:
        while some := list(islice(left, CHUNK)):
            rows = list(pool.map(read, some) if threads > 1 else map(read, some))
            for part, fact, found in zip(parts, facts, zip(*rows, strict=True), strict=True):
                part.append(Column.of(fact, found))
    return [Column.together(part) for part in parts]


def _ask(fact: Fact, view: View, met: Callable[[BadSampleError], None]) -> Any:
    try:
        return fact.read(view)
    except BadSampleError as bad:
        met(bad)
        return bad
