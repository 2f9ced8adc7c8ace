"""How many samples a second a card's loader gives by itself, and how many processes a model needs."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass

from vlp.curate.parallel import progress
from vlp.data import Captions, Card, Crop, SampleSet, Stream, Views
from vlp.data.texts.documents import Documents
from vlp.ground.cores import usable_cores
from vlp.ground.types import RecipeError
from vlp.towers.tokenizers import ClipTokenizer

LARGEST_BATCH = 256
CONTEXT_LENGTH = 77
WARM_BATCHES = 3  # caches fill, processes start


@dataclass(frozen=True)
class Speed:
    """What so many decoding processes gave; none decodes in the process that asks."""

    workers: int
    samples_per_second: float


@dataclass(frozen=True)
class Speeds:
    """What a loader gives, by its number of processes.

    Args:
        cpus: Cores that this process may use.
    """

    card: str
    image_size: int
    cpus: int
    rows: tuple[Speed, ...]

    @property
    def best(self) -> Speed:
        """The fastest; of nearly equal ones the one with the fewest processes."""
        most = max(row.samples_per_second for row in self.rows)
        return next(row for row in self.rows if row.samples_per_second >= 0.95 * most)

    def advice(self, needed: float) -> str:
        """Say how many processes feed a model that takes so many samples a second."""
        enough = [row.workers for row in self.rows if row.workers and row.samples_per_second >= needed]
        if enough:
            return f"a model that takes {needed:,.0f} samples/s: data.workers={min(enough)}"
        return (
            f"a model that takes {needed:,.0f} samples/s waits for data: {self.best.samples_per_second:,.0f} samples/s "
            f"is the most that was measured ({self.best.workers} processes, {self.cpus} cores); use smaller images in "
            "the shards, more cores, or --workers for more processes than were tried"
        )

    def __str__(self) -> str:
        lines = [f"{self.card}: images of {self.image_size} px, {self.cpus} cores", "data.workers  samples/s"]
        lines += [f"{row.workers:12d}  {row.samples_per_second:9,.0f}" for row in self.rows]
        single = next((row.samples_per_second for row in self.rows if row.workers == 1), None)
        if single:
            lines.append(
                f"one process gives {single:,.0f} samples/s: a model that takes more needs as many times more processes"
            )
        best, most = self.best.workers, self.rows[-1].workers
        more = "no more were tried" if best == most else "more bring nothing on this machine"
        # Even where it is no faster, a process of its own decodes while the model computes.
        lines.append(f"set data.workers={max(best, 1)}: {more}")
        return "\n".join(lines)


def bench_card(card: Card, *, image_size: int = 224, seconds: float = 5.0, workers: int | None = None) -> Speeds:
    """Measure a card's loader with 0, 1, 2, 4, ... decoding processes.

    Args:
        image_size: Side of the crops in pixels.
        seconds: How long each number of processes is measured.
        workers: Most processes tried; as many as there are cores when absent.

    Raises:
        RecipeError: A mistake in the card or the arguments, or too many bad samples.
    """
    if image_size < 1 or seconds <= 0:
        raise RecipeError(f"--size {image_size} and --seconds {seconds:g} must be larger than 0")
    cpus = usable_cores()
    most = cpus if workers is None else workers
    counts = [0, *(2**k for k in range(max(most, 1).bit_length()) if 2**k < most), most] if most else [0]
    rows = []
    with progress(len(counts), "settings") as bar:
        for count in counts:
            rows.append(Speed(count, measure(card, image_size, seconds, count)))
            bar.update()
    return Speeds(card.name, image_size, cpus, tuple(rows))


def measure(card: Card, image_size: int, seconds: float, workers: int) -> float:
    """Return how many samples a second reach the process that asks, which does nothing else.

    Raises:
        RecipeError: Too many bad samples.
    """
    samples = SampleSet({card.name: card})
    batch_size = min(LARGEST_BATCH, len(samples))
    stream = Stream(
        samples,
        Views((Crop(image_size),), Captions(), documents=None if card.documents is None else Documents()),
        ClipTokenizer(context_length=CONTEXT_LENGTH),
        batch_size=batch_size,
        seed=0,
        workers=workers,
    )
    with contextlib.closing(stream.batches(0)) as batches:
        for _ in range(WARM_BATCHES + 2 * workers):
            next(batches)
        started, count = time.monotonic(), 0
        while time.monotonic() - started < seconds:
            next(batches)
            count += batch_size
        elapsed = time.monotonic() - started
    stream.check_budget()
    return count / max(elapsed, math.ulp(1.0))
