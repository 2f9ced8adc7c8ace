"""Measure facts of every sample of a card, shard by shard; what was measured once is kept beside and never again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.curate.facts.column import Column, first_faults, measure
from vlp.curate.facts.fact_files import FactFiles
from vlp.curate.facts.facts import Fact
from vlp.curate.facts.view import View
from vlp.curate.parallel import map_in_order, progress
from vlp.data import Card
from vlp.data.faults import BadSampleError
from vlp.data.samples import Sample
from vlp.data.shards.kept import read_kept
from vlp.data.shards.shard import Shard, open_shards
from vlp.ground.cores import usable_cores
from vlp.ground.types import RecipeError


@dataclass(frozen=True)
class Measurement:
    """Facts to measure of one shard."""

    files: FactFiles
    shard: Shard
    facts: tuple[Fact, ...]
    threads: int = 1


class FactTable:
    """Facts of all samples of a card's shards, in their order.

    Args:
        files: Where the columns of each shard lie.
        workers: Processes that a rule may use.
    """

    def __init__(self, files: FactFiles, shards: Sequence[Shard], workers: int):
        self.files = files
        self.card = files.card
        self.shards = shards
        self.starts = [0, *accumulate(map(len, shards))]
        self.workers = workers

    def __len__(self) -> int:
        return self.starts[-1]

    @cached_property
    def used(self) -> NDArray[np.bool_]:
        """Whether the card uses each sample."""
        if self.card.keep is None:
            return np.ones(len(self), dtype=np.bool_)
        flags = np.zeros(len(self), dtype=np.bool_)
        flags[read_kept(self.card.folder / self.card.keep, len(self))] = True
        return flags

    def columns(self, fact: Fact) -> Iterator[tuple[slice, Column]]:
        """Yield a fact shard by shard, with the places of the shard's samples."""
        for shard, start, stop in zip(self.shards, self.starts, self.starts[1:], strict=False):
            yield slice(start, stop), self.files.read(shard, fact)

    def values(self, fact: Fact) -> NDArray[Any]:
        """Return a fact of all samples."""
        return np.concatenate([column.values for _, column in self.columns(fact)])

    def value(self, fact: Fact, number: int) -> Any:
        """Return a fact of one sample."""
        which = self._shard_of(number)
        return self.files.read(self.shards[which], fact).values[number - self.starts[which]]

    def faults(self, facts: Sequence[Fact]) -> NDArray[np.str_]:
        """Return why each sample cannot be judged by some of the facts; empty where it can."""
        return np.concatenate(
            [first_faults((self.files.read(shard, fact) for fact in facts), len(shard)) for shard in self.shards]
        )

    def view(self, number: int) -> View:
        """Return a sample."""
        which = self._shard_of(number)
        return View(Sample.of_card(self.card, self.shards[which], number - self.starts[which]))

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
    files = FactFiles(card, folder)
    tasks = [Measurement(files, shard, files.missing(shard, on_cores)) for shard in shards]
    with progress(len(shards), "shards") as bar:
        for _ in map_in_order(_measure_and_keep, tasks, processes):
            bar.update()
    for fact in facts:
        # Last, since loading a model starts threads, and processes must not be forked beside them.
        if fact.on_device:
            _measure_here(files, shards, fact)
    return FactTable(files, shards, processes)


def measured_files(task: Measurement) -> dict[str, bytes]:
    """Measure the facts of one shard; return the files to keep, by their names.

    Raises:
        RecipeError: The shard cannot be read, or changed since it was opened.
    """
    if not task.facts:
        return {}
    files, shard = task.files, task.shard
    columns = measure(files.card, shard, range(len(shard)), task.facts, threads=task.threads, met=_stop_at)
    return {files.name(shard, fact): column.pack() for fact, column in zip(task.facts, columns, strict=True)}


def _measure_and_keep(task: Measurement) -> None:
    for name, content in measured_files(task).items():
        task.files.keep(name, content)


def _measure_here(files: FactFiles, shards: Sequence[Shard], fact: Fact) -> None:
    with progress(len(shards), f"shards ({fact.name})") as bar:
        for shard in shards:
            if files.missing(shard, [fact]):
                _measure_and_keep(Measurement(files, shard, (fact,), usable_cores()))
            bar.update()


def _stop_at(bad: BadSampleError) -> None:
    """Pass over a fault of a sample; one of the whole shard may pass, so it must not be kept."""
    if bad.reason == "shard_error":
        raise RecipeError(f"{bad.detail}; the same command continues where it stopped") from bad
