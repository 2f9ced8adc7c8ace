"""One case of the loader benchmark: what a ready batch of ours costs, its stages, and the codec alone."""

from __future__ import annotations

import io
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import open_clip
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.jpeg_sets import SETS, make
from benchmarks.measure import tree_seconds
from vlp.data import Captions, Card, Crop, SampleSet, Stream, Views
from vlp.data.pixels.decode import open_picture
from vlp.ground.randomness import CAPTION, CROP, Draws
from vlp.towers.tokenizers import ClipTokenizer

BATCH_SIZE = 256
SIZE = 224
SCALE = (0.9, 1.0)  # the default of open_clip
CONTEXT = 77
# What processes have in hand when the clock starts, and again when it stops, is little beside these.
FEWEST_BATCHES = 24
FIDELITY_SAMPLES = 200


@dataclass(frozen=True)
class Case:
    """What one process measures.

    Args:
        name: `vlp`, `vlp exact`, `open_clip`, `stages` or `codec`.
        kind: Name of the set.
        samples: Samples of the set.
        passes: How often the peer goes through it.
        workers: Processes that decode; 0 decodes in the one that takes the batches.
        scratch: Where sets are kept.
    """

    name: str
    kind: str
    samples: int
    passes: int
    workers: int
    scratch: str


def card_of(case: Case) -> Card:
    """Return the set of a case, made where it is missing."""
    return make(next(kind for kind in SETS if kind.name == case.kind), case.samples, Path(case.scratch))


def crop(decoding: Literal["exact", "fast"]) -> Crop:
    """Return open_clip's default crop."""
    return Crop(SIZE, scale=SCALE, ratio=(3 / 4, 4 / 3), flip=0.0, decoding=decoding)


def measure(case: Case) -> dict[str, float]:
    """Return seconds per sample by name."""
    torch.set_num_threads(1)
    samples = SampleSet({case.kind: card_of(case)})
    if case.name == "codec":
        return measure_codec(samples)
    if case.name == "stages":
        return measure_stages(samples)
    return measure_stream(samples, case)


def measure_stream(samples: SampleSet, case: Case) -> dict[str, float]:
    """Take batches through the public way, all processes counted."""
    views = Views((crop("exact" if case.name == "vlp exact" else "fast"),), Captions())
    tokenizer = ClipTokenizer(context_length=CONTEXT)
    stream = Stream(samples, views, tokenizer, batch_size=BATCH_SIZE, seed=0, workers=case.workers)
    batches = stream.batches(0)
    per_pass = case.samples // BATCH_SIZE
    count = max(case.passes * per_pass, FEWEST_BATCHES)
    deque(itertools.islice(batches, per_pass), maxlen=0)  # a loop's variable would hold on to the last one
    cpu, wall = tree_seconds(os.getpid()), time.perf_counter()
    seen = sum(len(batch) for batch in itertools.islice(batches, count))
    return {"cpu": (tree_seconds(os.getpid()) - cpu) / seen, "wall": (time.perf_counter() - wall) / seen}


def measure_codec(samples: SampleSet) -> dict[str, float]:
    """Decode alone: in full, and to 1/8 in gray, which is little more than reading the Huffman codes."""
    files = [samples[number].read("jpg") for number in range(len(samples))]
    pictures = [open_picture(data) for data in files]
    sizes = [(-(-picture.height // 8), -(-picture.width // 8)) for picture in pictures]

    def reduce_to_gray(data: bytes, size: tuple[int, int]) -> None:
        simplejpeg.decode_jpeg(data, "GRAY", min_height=size[0], min_width=size[1], min_factor=8)

    return {
        "cpu": per_item(simplejpeg.decode_jpeg, [(data,) for data in files]),
        "entropy": per_item(reduce_to_gray, list(zip(files, sizes, strict=True))),
    }


def measure_stages(samples: SampleSet) -> dict[str, float]:
    """Time each stage alone, over the whole set."""
    cutter, captions, tokenizer = crop("fast"), Captions(), ClipTokenizer(context_length=CONTEXT)
    peer = open_clip.get_tokenizer("ViT-B-32")
    numbers = [(number,) for number in range(len(samples))]
    files = [samples[number].read("jpg") for (number,) in numbers]
    pictures = [open_picture(data) for data in files]
    cuts = [cutter.draw(picture, Draws(0, CROP, 0, number)) for number, picture in enumerate(pictures)]
    pixels = [picture.pixels(cut.factor, fast=True) for picture, cut in zip(pictures, cuts, strict=True)]
    crops = [cutter.take(*pair, pair[1].factor) for pair in zip(pixels, cuts, strict=True)]
    texts = [captions(samples[number], Draws(0)).text for (number,) in numbers]
    batch = np.empty((len(crops), SIZE, SIZE, 3), np.uint8)

    def copy(number: int) -> None:
        batch[number] = crops[number]

    def word(number: int) -> None:
        captions(samples[number], Draws(0, CAPTION, 0, number, 0))

    def resize(number: int) -> None:
        cutter.take(pixels[number], cuts[number], cuts[number].factor)

    def draw(number: int) -> None:
        cutter.draw(open_picture(files[number]), Draws(0, CROP, 0, number, 0))

    batches = [texts[first : first + BATCH_SIZE] for first in range(0, len(texts), BATCH_SIZE)]
    return {
        "read": per_item(lambda number: samples[number].read("jpg"), numbers),
        "caption": per_item(word, numbers),
        "open and draw": per_item(draw, numbers),
        "decode": per_item(lambda number: pictures[number].pixels(cuts[number].factor, fast=True), numbers),
        "cut and resize": per_item(resize, numbers),
        "copy": per_item(copy, numbers),
        "tokenise": per_item(tokenizer, [(texts,) for texts in batches]) * len(batches) / len(texts),
        "open_clip tokenise": per_item(lambda text: peer(text)[0], [(text,) for text in texts]),
    }


def per_item(function: Callable[..., Any], items: Sequence[tuple[Any, ...]]) -> float:
    """Return the processor time of a call; a first round warms up."""
    for item in items:
        function(*item)
    started = time.process_time()
    for item in items:
        function(*item)
    return (time.process_time() - started) / len(items)


def fidelity(case: Case) -> dict[str, list[float]]:
    """Return decibels per image of both ways to decode, against Pillow's pixels of the same boxes."""
    samples = SampleSet({case.kind: card_of(case)})
    numbers = range(min(len(samples), FIDELITY_SAMPLES))
    return {
        name: [compare(crop(name), samples[number].read("jpg"), number) for number in numbers]
        for name in ("exact", "fast")
    }


def compare(cutter: Crop, data: bytes, number: int) -> float:
    """Return the peak signal-to-noise ratio of one crop."""
    picture = open_picture(data)
    cut = cutter.draw(picture, Draws(0, CROP, 0, number, 0))
    ours = cutter.take(picture.pixels(cut.factor, fast=cutter.decoding == "fast"), cut, cut.factor)
    part = Image.open(io.BytesIO(data)).convert("RGB").crop(cut.box)
    theirs = np.asarray(part.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    return decibels(ours, theirs)


def decibels(pixels: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio; a single wrong value stands in for none."""
    squares = np.square(pixels.astype(np.float64) - expected).sum()
    return float(10 * np.log10(255**2 * pixels.size / max(squares, 1.0)))
