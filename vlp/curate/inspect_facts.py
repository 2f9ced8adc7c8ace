"""What a page about a card needs of all its samples: some facts of each, its words, and what is unusable."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.curate.facts.column import Column, first_faults, measure
from vlp.curate.facts.fact_files import FactFiles
from vlp.curate.facts.facts import CAPTION, HEADER, IMAGE, LENGTH, Number
from vlp.curate.facts.view import View, words_of
from vlp.curate.parallel import map_in_order, progress
from vlp.data import SampleSet
from vlp.data.samples import UsedShard
from vlp.data.shards.shard import Shard

FACTS = (CAPTION, LENGTH, IMAGE, HEADER)


def _text(view: View) -> str:
    return view.caption


TEXT = Number("text", "object", _text)  # of one shard at a time, for its words; never kept


@dataclass(frozen=True)
class Inspected:
    """What one shard, or a whole card, holds.

    Args:
        samples: All samples that the card uses, usable or not.
        ids: Place of each usable sample among those that the card uses.
        values: Facts of the usable samples, by name.
        vocabulary: How often each word occurs, in small letters.
        faults: Samples that were left out, by reason.
    """

    samples: int
    ids: NDArray[np.int64]
    values: Mapping[str, NDArray[Any]]
    vocabulary: Counter[str]
    faults: Counter[str]

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, fact: Number) -> NDArray[Any]:
        """Return a fact of all usable samples."""
        return self.values[fact.name]

    @property
    def sides(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Widths and heights."""
        width, height = self.of(HEADER)["size"].T
        return width, height


def inspect_samples(samples: SampleSet, files: FactFiles, workers: int) -> Inspected:
    """Read every sample that a card uses once; pixels are not decoded.

    Args:
        files: Where a filter or a split keeps what it measured: what is there is not measured again, and what is not
            is added. Where there is no such folder, nothing is kept.

    Raises:
        RecipeError: One of the processes was killed.
    """
    tasks = [(files, used) for used in samples.parts]
    total = 0
    ids: list[NDArray[np.int64]] = []
    values: dict[str, list[NDArray[Any]]] = {fact.name: [] for fact in FACTS}
    vocabulary: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    with progress(len(tasks), "shards") as bar:
        for one in map_in_order(_inspect_shard, tasks, workers):
            ids.append(one.ids + total)
            total += one.samples
            for name, part in one.values.items():
                values[name].append(part)
            vocabulary.update(one.vocabulary)
            faults.update(one.faults)
            bar.update()
    whole = {name: np.concatenate(parts) for name, parts in values.items()}
    return Inspected(total, np.concatenate(ids), whole, vocabulary, faults)


def _inspect_shard(task: tuple[FactFiles, UsedShard]) -> Inspected:
    files, used = task
    columns, texts = _columns(files, used.shard, used.places)
    reasons = first_faults([*columns, texts], len(used))
    usable = reasons == ""
    faults = Counter(reasons[~usable].tolist())
    faults.update({"shard_error": 1} if used.shard.fault else {})
    vocabulary: Counter[str] = Counter()
    for text in texts.values[usable]:
        vocabulary.update(words_of(text))
    values = {fact.name: column.values[usable] for fact, column in zip(FACTS, columns, strict=True)}
    return Inspected(len(usable), np.flatnonzero(usable), values, vocabulary, faults)


def _columns(files: FactFiles, shard: Shard, places: NDArray[np.int32] | None) -> tuple[list[Column], Column]:
    """Return the facts of a shard's used samples, kept ones and fresh ones, and their captions."""
    fresh = files.missing(shard, FACTS)
    *measured, texts = measure(files.card, shard, range(len(shard)) if places is None else places, [*fresh, TEXT])
    found = {fact.name: column for fact, column in zip(fresh, measured, strict=True)}
    is_whole = places is None and not any((column.faults == "shard_error").any() for column in measured)
    if is_whole and files.folder.is_dir():
        with contextlib.suppress(OSError):  # a page needs no room for what the next one could use
            for fact in fresh:
                files.keep(files.name(shard, fact), found[fact.name].pack())
    for fact in FACTS:
        if fact.name not in found:
            found[fact.name] = files.read(shard, fact).at(places)
    return [found[fact.name] for fact in FACTS], texts
