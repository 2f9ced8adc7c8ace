"""Measure facts of every sample of a card, shard by shard; what was measured once is kept beside and never again."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.curate.facts.facts import Fact
from vlp.curate.facts.view import View
from vlp.curate.parallel import map_in_order, progress
from vlp.data import Card
from vlp.data.faults import BadSampleError
from vlp.data.samples import Sample
from vlp.data.shards.shard import Shard, open_shards
from vlp.ground.cores import usable_cores
from vlp.ground.files import write_whole
from vlp.ground.types import RecipeError

VERSION = "1"
CHUNK = 256  # samples whose images are held at once, and the batch of a model
FOLDER = ".measured"


@dataclass(frozen=True)
class Column:
    """One fact of the samples of a shard.

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

    @classmethod
    def together(cls, parts: Sequence[Column]) -> Column:
        """Return columns one below the other."""
        return cls(np.concatenate([part.values for part in parts]), np.concatenate([part.faults for part in parts]))

    @classmethod
    def unpack(cls, path: Path) -> Column:
        """Read what `pack` returned."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["values"], arrays["faults"])


@dataclass(frozen=True)
class Measurement:
    """Facts to measure of one shard."""

    card: Card
    shard: Shard
    facts: tuple[Fact, ...]
    folder: Path
    threads: int = 1


class FactTable:
    """Facts of all samples of a card's shards, in their order.

    Args:
        folder: Where the columns of each shard lie.
        workers: Processes that a rule may use.
    """

    def __init__(self, card: Card, shards: Sequence[Shard], folder: Path, workers: int):
        self.card = card
        self.shards = shards
        self.starts = [0, *accumulate(map(len, shards))]
        self.folder = folder
        self.workers = workers

    def __len__(self) -> int:
        return self.starts[-1]

    def columns(self, fact: Fact) -> Iterator[tuple[slice, Column]]:
        """Yield a fact shard by shard, with the places of the shard's samples."""
        for shard, start, stop in zip(self.shards, self.starts, self.starts[1:], strict=False):
            yield slice(start, stop), Column.unpack(self.folder / column_file(self.card, shard, fact))

    def values(self, fact: Fact) -> NDArray[Any]:
        """Return a fact of all samples."""
        return np.concatenate([column.values for _, column in self.columns(fact)])

    def value(self, fact: Fact, number: int) -> Any:
        """Return a fact of one sample."""
        which = self._shard_of(number)
        column = Column.unpack(self.folder / column_file(self.card, self.shards[which], fact))
        return column.values[number - self.starts[which]]

    def faults(self, facts: Sequence[Fact]) -> NDArray[np.str_]:
        """Return why each sample cannot be judged by some of the facts; empty where it can."""
        found = np.zeros(len(self), dtype="U20")
        for fact in facts:
            for places, column in self.columns(fact):
                found[places] = np.where(found[places] == "", column.faults, found[places])
        return found

    def view(self, number: int) -> View:
        """Return a sample."""
        which = self._shard_of(number)
        return view_of(self.card, self.shards[which], number - self.starts[which])

    def shard_name(self, number: int) -> str:
        """Return the name of the shard that a sample lies in."""
        return self.shards[self._shard_of(number)].name

    def _shard_of(self, number: int) -> int:
        return int(np.searchsorted(self.starts, number, "right")) - 1


def gather(card: Card, facts: Sequence[Fact], folder: Path, workers: int | None = None) -> FactTable:
    """Measure what is not measured yet, and return a table of all facts.

    Args:
        folder: Where the columns are kept, one file per shard and fact.
        workers: Processes; all cores when absent.

    Raises:
        RecipeError: A shard is missing.
    """
    processes = usable_cores() if workers is None else workers
    shards = open_shards(card)
    on_cores = list({fact.name: fact for fact in facts if not fact.on_device}.values())
    tasks = [Measurement(card, shard, missing(card, shard, on_cores, folder), folder) for shard in shards]
    with progress(len(shards), "shards") as bar:
        for _ in map_in_order(_measure_and_keep, tasks, processes):
            bar.update()
    for fact in facts:
        # Last, since loading a model starts threads, and processes must not be forked beside them.
        if fact.on_device:
            _measure_here(card, shards, fact, folder)
    return FactTable(card, shards, folder, processes)


def missing(card: Card, shard: Shard, facts: Sequence[Fact], folder: Path) -> tuple[Fact, ...]:
    """Return the facts of a shard that are not kept yet."""
    return tuple(fact for fact in facts if not zipfile.is_zipfile(folder / column_file(card, shard, fact)))


def measured_files(task: Measurement) -> dict[str, bytes]:
    """Measure the facts of one shard; return the files to keep, by their names.

    Raises:
        RecipeError: The shard cannot be read, or changed since it was opened.
    """
    if not task.facts:
        return {}
    card, shard = task.card, task.shard
    parts = {fact.name: [_measure(fact, [], 1)] for fact in task.facts}
    for start in range(0, len(shard), CHUNK):
        views = [_view_or_fault(card, shard, place) for place in range(start, min(start + CHUNK, len(shard)))]
        for fact in task.facts:
            parts[fact.name].append(_measure(fact, views, task.threads))
    return {column_file(card, shard, fact): Column.together(parts[fact.name]).pack() for fact in task.facts}


def column_file(card: Card, shard: Shard, fact: Fact) -> str:
    """Return the name of the file with a fact of a shard; another content of the shard gives another name."""
    known = shard.known
    identity = (VERSION, shard.location, known.bytes, known.samples, known.tag, sorted(card.captions.items()))
    return f"{fact.name}/{hashlib.sha256(repr(identity).encode()).hexdigest()[:32]}.npz"


def keep(folder: Path, name: str, content: bytes) -> None:
    """Write a file with a fact of a shard, whole or not at all."""
    with write_whole(folder / name) as file:
        file.write(content)


def view_of(card: Card, shard: Shard, place: int) -> View:
    """Return a sample of a shard.

    Raises:
        BadSampleError: Its members contradict each other.
    """
    return View(Sample(place, card.name, card, shard, place, shard.members(place)))


def _measure_and_keep(task: Measurement) -> None:
    for name, content in measured_files(task).items():
        keep(task.folder, name, content)


def _measure_here(card: Card, shards: Sequence[Shard], fact: Fact, folder: Path) -> None:
    with progress(len(shards), f"shards ({fact.name})") as bar:
        for shard in shards:
            if missing(card, shard, [fact], folder):
                _measure_and_keep(Measurement(card, shard, (fact,), folder, usable_cores()))
            bar.update()


def _view_or_fault(card: Card, shard: Shard, place: int) -> View | BadSampleError:
    try:
        return view_of(card, shard, place)
    except BadSampleError as bad:
        return _checked(bad)


def _checked(bad: BadSampleError) -> BadSampleError:
    """Return a fault of a sample; one of the whole shard may pass, so it must not be kept."""
    if bad.reason == "shard_error":
        raise RecipeError(f"{bad.detail}; the same command continues where it stopped") from bad
    return bad


def _measure(fact: Fact, views: Sequence[View | BadSampleError], threads: int) -> Column:
    def read(view: View | BadSampleError) -> Any:
        if isinstance(view, BadSampleError):
            return view
        try:
            return fact.read(view)
        except BadSampleError as bad:
            return _checked(bad)

    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(read, views))
    else:
        found = list(map(read, views))
    faults = np.array([thing.reason if isinstance(thing, BadSampleError) else "" for thing in found], dtype="U20")
    rows = fact.rows([thing for thing, fault in zip(found, faults, strict=True) if not fault])
    values = np.zeros((len(views), *rows.shape[1:]), dtype=rows.dtype)
    values[faults == ""] = rows
    return Column(values, faults)
