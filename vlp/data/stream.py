"""Batches of a run, in an order that depends on the seed and the position alone."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from vlp.data.batches import MOST_SUBSTITUTES, Decoder, LocalBatches
from vlp.data.captions import Captions
from vlp.data.crop import Crop
from vlp.data.faults import Fault, Faults, Quarantine
from vlp.data.order import Order
from vlp.data.samples import SampleSet
from vlp.types import Batch, RecipeError, Tokenizer

# Far more batches than any run has, few enough for len() on every platform.
ENDLESS = 2**40


class Stream:
    """Endless batches of image-text pairs; its whole state is one position.

    Global batch `g` holds the samples at positions `g * batch_size` to `(g + 1) * batch_size`, and each process takes
    an equal slice of it. The place of a bad sample is filled with another one, a pure function of the seed and the
    position, so that all processes take equally many steps.

    Args:
        samples: Where the samples lie.
        crop: Cuts decoded images to the model's size.
        captions: Chooses and words captions.
        tokenizer: The model's tokenizer.
        batch_size: Samples of one batch of the whole job.
        seed: Source of all randomness.
        rank: Number of this process.
        world_size: Number of processes.
        workers: Processes that decode; 0 decodes in this one.
        bad_sample_budget: Largest share of bad samples that `check_budget` accepts.
        pin_memory: Whether batches come in page-locked memory, for CUDA.
        quarantine: File that lists every bad sample once; processes after the first add their number to its name.
        num_views: Random crops of each image.
        num_text_views: Random wordings of each caption.
        max_pixels: Images with more are refused by their header.
        max_bytes: Image files with more are not even read.
    """

    def __init__(
        self,
        samples: SampleSet,
        crop: Crop,
        captions: Captions,
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        bad_sample_budget: float = 0.01,
        pin_memory: bool = False,
        quarantine: Path | None = None,
        num_views: int = 1,
        num_text_views: int = 1,
        max_pixels: int = 1 << 26,
        max_bytes: int = 1 << 26,
    ):
        if batch_size % world_size:
            raise RecipeError(f"train.batch_size={batch_size} does not divide among {world_size} processes")
        self.samples = samples
        self.faults = Faults()
        self._batch_size = batch_size
        self._workers = workers
        self._budget = bad_sample_budget
        self._pin_memory = pin_memory
        self._quarantine = Quarantine(quarantine, rank)
        self._batches = LocalBatches(
            samples,
            Decoder(samples, crop, captions, seed, num_views, num_text_views, max_pixels, max_bytes),
            tokenizer,
            Order(len(samples), seed),
            batch_size,
            rank,
            world_size,
        )
        # Every process sees every shard, so one of them counts for all.
        if rank == 0:
            self._record(samples.shard_faults())

    @property
    def num_samples(self) -> int:
        """Samples of one epoch."""
        return len(self.samples)

    def batches(self, position: int) -> Iterator[Batch]:
        """Yield this process's share of every batch from `position` on, without end.

        Args:
            position: Samples that the whole job has consumed so far.

        Raises:
            RecipeError: No good sample is left to fill a place.
        """
        if position % self._batch_size:
            raise RecipeError(
                f"position {position} lies inside a batch: train.batch_size={self._batch_size} must stay "
                "the same when a run is resumed, or divide the samples seen so far"
            )
        loader = DataLoader(
            self._batches,
            batch_size=None,
            sampler=range(position // self._batch_size, ENDLESS),
            num_workers=self._workers,
            pin_memory=self._pin_memory,
            # Without its own generator a loader takes a number from torch's global one at every start.
            generator=torch.Generator(),
            worker_init_fn=_leave_signals_to_the_trainer,
        )
        for packet in loader:
            self._record(packet.faults)
            if packet.batch is None:
                raise RecipeError(
                    f"data.train: {MOST_SUBSTITUTES} samples in a row are bad:\n{self.faults.table()}\n"
                    f"the last one: {packet.faults[-1]}"
                )
            self.faults.delivered += len(packet.batch)
            yield packet.batch

    def check_budget(self, parts: Iterable[Faults] | None = None) -> None:
        """Stop when too many samples are bad.

        Args:
            parts: The faults of all processes (`dist.gather_objects(stream.faults)`); None looks at this one only.

        Raises:
            RecipeError: Past the budget; carries a table of sources and reasons.
        """
        Faults.together(parts if parts is not None else [self.faults]).check(self._budget)

    def _record(self, faults: Iterable[Fault]) -> None:
        faults = list(faults)
        self.faults.add(faults)
        self._quarantine.add(faults)


def _leave_signals_to_the_trainer(_worker: int) -> None:
    """Go on decoding when a signal reaches the whole process group: the trainer saves first, then ends its workers."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
