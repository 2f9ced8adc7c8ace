"""One HTML page about the samples of a card."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.curate.facts.fact_files import FOLDER, FactFiles
from vlp.curate.facts.facts import CAPTION, HEADER, IMAGE
from vlp.curate.facts.view import View
from vlp.curate.inspect_facts import Inspected, inspect_samples
from vlp.curate.inspect_page import Findings, Group, ShownSample, page
from vlp.data import Card, SampleSet
from vlp.data.faults import BadSampleError
from vlp.data.pixels.decode import FORMATS
from vlp.ground.cores import usable_cores
from vlp.ground.files import write_text
from vlp.ground.types import RecipeError
from vlp.html.frame import thumbnail

SHOWN = 60
COMMON_CAPTIONS, COMMON_WORDS, GROUPS = 20, 60, 12
CAPTIONS_OF_GROUP = 4


def inspect_card(card: Card, to: Path | None = None, *, seed: int = 0, workers: int | None = None) -> Path:
    """Write a page about a card and return its path.

    Args:
        to: The file; NAME.html when absent.
        seed: Decides which images are shown.
        workers: Processes; all cores when absent.

    Raises:
        RecipeError: No such card, a shard is missing, or no sample can be used.
    """
    target = (to or Path(f"{card.name}.html")).expanduser()
    if target.is_dir():
        raise RecipeError(f"--to {target}: a folder; name a file such as {target / 'page.html'}")
    samples = SampleSet({card.name: card})
    files = FactFiles(card, target.parent / FOLDER)
    found = inspect_samples(samples, files, usable_cores() if workers is None else workers)
    if not len(found):
        raise RecipeError(f"card '{card.name}': none of {found.samples} samples can be used: {dict(found.faults)}")
    write_text(target, page(card, _find(_Viewer(samples), found, seed)))
    return target


class _Viewer:
    """Fetches single samples by their id."""

    def __init__(self, samples: SampleSet):
        self._samples = samples

    def caption(self, number: int) -> str:
        return View(self._samples[number]).caption

    def thumbnail(self, number: int) -> str:
        """Return a small WebP as base64 text; empty where the image cannot be decoded."""
        return _thumbnail(View(self._samples[number]))

    def picture(self, number: int) -> ShownSample:
        view = View(self._samples[number])
        return ShownSample(view.key, _thumbnail(view), view.caption)


def _thumbnail(view: View) -> str:
    try:
        return thumbnail(view.image, effort=4)
    except BadSampleError:
        return ""


def _find(viewer: _Viewer, samples: Inspected, seed: int) -> Findings:
    drawn = random.Random(seed).sample(range(len(samples)), min(SHOWN, len(samples)))
    texts = _groups(samples.of(CAPTION))
    images = _groups(samples.of(IMAGE))
    repeated = [group for group in images.largest(GROUPS) if len(group) > 1]
    ids = samples.ids
    return Findings(
        samples=samples,
        seed=seed,
        pictures=tuple(viewer.picture(int(ids[place])) for place in drawn),
        captions=tuple((viewer.caption(int(ids[g[0]])), len(g)) for g in texts.largest(COMMON_CAPTIONS) if len(g) > 1),
        words=tuple(samples.vocabulary.most_common(COMMON_WORDS)),
        distinct_captions=len(texts.counts),
        repeated_captions=int(texts.counts[texts.counts > 1].sum()),
        repeated_images=len(samples) - len(images.counts),
        groups=tuple(_group(viewer, ids[group]) for group in repeated),
        kinds=_count_formats(samples),
    )


def _group(viewer: _Viewer, ids: NDArray[np.int64]) -> Group:
    captions = dict.fromkeys(viewer.caption(int(number)) for number in ids[:100])
    return Group(len(ids), viewer.thumbnail(int(ids[0])), tuple(captions)[:CAPTIONS_OF_GROUP])


@dataclass(frozen=True)
class _Groups:
    """Places of equal values: `order[starts[k] : starts[k] + counts[k]]`."""

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]

    def largest(self, number: int) -> list[NDArray[np.int64]]:
        """Return the places in the largest groups; of equally large ones, those that come first in the data."""
        firsts = self.order[self.starts]
        chosen = np.lexsort((firsts, -self.counts))[:number]
        return [self.order[self.starts[k] : self.starts[k] + self.counts[k]] for k in chosen]


def _groups(values: NDArray[Any]) -> _Groups:
    order = np.argsort(values, kind="stable")
    _, starts, counts = np.unique(values[order], return_index=True, return_counts=True)
    return _Groups(order, starts, counts)


def _count_formats(samples: Inspected) -> dict[str, int]:
    kinds, counts = np.unique(samples.of(HEADER)["format"], return_counts=True)
    return {FORMATS[kind]: int(count) for kind, count in zip(kinds, counts, strict=True)}
