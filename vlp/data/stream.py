"""Batches of a run, in an order that depends on the seed and the position alone."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vlp.data.batches import MOST_SUBSTITUTES, Decoder, LocalBatches, Packet
from vlp.data.faults import Fault, Faults, Quarantine
from vlp.data.kept_rows import KeptRows
from vlp.data.mined_captions import MinedCaptions
from vlp.data.order.batch_sizes import BatchSizes
from vlp.data.order.patch_budgets import PatchBudgets
from vlp.data.order.shuffle import Order, Shuffle
from vlp.data.pixels.decode import MOST_BYTES, MOST_PIXELS
from vlp.data.pixels.device_decode import DeviceDecoder
from vlp.data.processes.pool import Health, Pool
from vlp.data.samples import SampleSet
from vlp.data.shards.prefetch import Needed, Prefetcher
from vlp.data.uploads import Uploads
from vlp.data.views import Views
from vlp.ground.tokenizing import Tokenizer
from vlp.ground.types import Batch, RecipeError


class Stream:
    """Endless batches of image-text pairs; its whole state is one position.

    Global batches follow each other in the order of the run, without a gap, and each process takes an equal slice of
    them. The place of a bad sample is filled with another one, a pure function of the seed and the position, so that
    all processes take equally many steps.

    Args:
        samples: Where the samples lie.
        views: Cuts decoded images to the model's size, chooses and words captions.
        tokenizer: The model's tokenizer.
        batch_size: Samples of one batch of the whole job.
        seed: Source of all randomness.
        order: Which sample comes when (`arrange` makes it); None shuffles all samples together.
        first_batches: Stages before: samples of one batch, and how many batches have so many.
        rank: Number of this process.
        world_size: Number of processes.
        workers: Processes that decode; 0 decodes in this one.
        worker_timeout: Seconds without a finished sample after which such a process counts as dead and is replaced.
        bad_sample_budget: Largest share of bad samples that `check_budget` accepts.
        upload: Copies batches to the device; where it does so without waiting, they come in page-locked memory. None is
            for the CPU.
        quarantine: File that lists every bad sample once; processes after the first add their number to its name.
        max_pixels: Images with more are refused by their header.
        max_bytes: Image files with more are not even read.
        on_device: Decodes JPEGs where the model computes; batches then come with their pixels there.
        max_patches: Where images keep their aspect ratio, how many patches they may have, one number drawn for each
            batch; that of `views` without any.
    """

    def __init__(
        self,
        samples: SampleSet,
        views: Views,
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        seed: int,
        order: Order | None = None,
        first_batches: Sequence[tuple[int, int]] = (),
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        worker_timeout: float = 300.0,
        bad_sample_budget: float = 0.01,
        upload: Uploads | None = None,
        quarantine: Path | None = None,
        max_pixels: int = MOST_PIXELS,
        max_bytes: int = MOST_BYTES,
        on_device: DeviceDecoder | None = None,
        max_patches: Sequence[int] = (),
    ):
        sizes = BatchSizes(batch_size, first_batches)
        for size in sizes.sizes:
            if size % world_size:
                raise RecipeError(f"train.batch_size={size} does not divide among {world_size} processes")
        self.samples = samples
        self.faults = Faults()
        self._sizes = sizes
        self._workers = workers
        self._worker_timeout = worker_timeout
        self._health = Health()
        self._budget = bad_sample_budget
        self.upload = upload or Uploads(torch.device("cpu"))
        self._quarantine = Quarantine(quarantine, rank)
        self._batches = LocalBatches(
            samples,
            Decoder(samples, views, seed, max_pixels, max_bytes, on_device=on_device),
            tokenizer,
            order or Shuffle(len(samples), seed, len(samples.parts)),
            sizes,
            rank,
            world_size,
            PatchBudgets(seed, max_patches) if max_patches else None,
        )
        # Every process sees every shard, so one of them counts for all.
        self._rank = rank
        if rank == 0:
            self.faults.add(samples.shard_faults())

    @property
    def num_samples(self) -> int:
        """Samples that there are."""
        return len(self.samples)

    @property
    def epoch_size(self) -> int:
        """Samples of one epoch: all, unless batches hold one group each."""
        return self._batches.order.num_samples

    def epochs_begun(self, position: int) -> int:
        """Return how many epochs have begun before a position; where sources have shares, of the one with most."""
        return self._batches.order.epochs_begun(position)

    def leave_out(self, kept: KeptRows) -> None:
        """Decode no image whose embedding is kept; before the first batch."""
        self._batches.decoder = replace(self._batches.decoder, kept=kept)

    def take_mined(self, mined: MinedCaptions) -> None:
        """Draw wrong captions from these from now on; before the first batch, or between two calls of `batches`."""
        decoder = self._batches.decoder
        self._batches.decoder = replace(decoder, views=replace(decoder.views, mined=mined))

    def repeat_views(self, epochs: int) -> None:
        """Show the views of the first epochs again in later ones, whose order is their own; before the first batch."""
        self._batches.view_epochs = epochs

    def shares(self, position: int, num_samples: int) -> dict[str, float]:
        """Return each source's share of the last samples before a position; nothing where there is one source."""
        if len(self.samples.cards) == 1:
            return {}
        ids = self._batches.order.samples_at(np.arange(position - num_samples, position))[1]
        return {f"source/{label}": share for label, share in self.samples.shares(ids).items()}

    @property
    def workers(self) -> int:
        """Processes that decode for this one."""
        return self._workers

    @property
    def restarts(self) -> int:
        """Decoding processes that died or hung and were replaced."""
        return self._health.restarts

    @property
    def decode_rate(self) -> float:
        """Samples per second that the decoding processes can deliver, as measured lately; 0 before the first."""
        seconds = self._health.seconds_per_sample
        return self._workers / seconds if seconds else 0.0

    def batches(self, position: int) -> Generator[Batch, None, None]:
        """Yield this process's share of every batch from `position` on, without end.

        Processes start with the first batch and end when the iterator is closed or forgotten. The pixels of a batch lie
        in memory that is used again once nobody holds them.

        Args:
            position: Samples that the whole job has consumed so far.

        Raises:
            RecipeError: No good sample is left to fill a place.
        """
        self.check_position(position)
        if self._rank == 0:
            self._quarantine.add(self.samples.shard_faults())
        with contextlib.closing(self._packets(position)) as packets:
            # map keeps no batch while the next one is made, so that its memory can be used again.
            yield from map(self._deliver, packets)

    def check_position(self, position: int) -> None:
        """Refuse a position that no batch begins with.

        Raises:
            RecipeError: The batch size changed since the run stopped there.
        """
        try:
            self._sizes.number_at(position)
        except ValueError as error:
            raise RecipeError(
                f"{error}: train.batch_size={self._sizes.last} must stay the same when a run is resumed, as must "
                "train.first_batches, or divide the samples seen so far"
            ) from error

    def after(self, position: int) -> int:
        """Return where the batch ends that begins at a position."""
        return self._sizes.start(self._sizes.number_at(position) + 1)

    def check_budget(self, parts: Iterable[Faults] | None = None) -> None:
        """Stop when too many samples are bad.

        Args:
            parts: The faults of all processes (`dist.gather_objects(stream.faults)`); None looks at this one only.

        Raises:
            RecipeError: Past the budget; carries a table of sources and reasons.
        """
        Faults.together(parts if parts is not None else [self.faults]).check(self._budget)

    def _packets(self, position: int) -> Generator[Packet, None, None]:
        first = self._sizes.number_at(position)
        with contextlib.ExitStack() as open_parts:
            if self._workers:
                open_parts.callback(self.upload.wait_for_all)
                pool = Pool(
                    self._batches,
                    self._health,
                    workers=self._workers,
                    timeout=self._worker_timeout,
                    uploads=self.upload,
                )
                packets = open_parts.enter_context(pool).packets(first)
            else:
                packets = map(self._batches.__getitem__, itertools.count(first))
            # After the processes were forked: they would inherit what its threads hold.
            prefetcher = open_parts.enter_context(Prefetcher(self._remote_shards(position), position=position))
            for number, packet in enumerate(packets, first):
                prefetcher.advance(self._sizes.start(number))
                yield packet

    def _remote_shards(self, position: int) -> Iterator[Needed]:
        """Yield what must be fetched from a position on, and when; nothing where all is at hand."""
        if not any(part.shard.is_remote for part in self.samples.parts):
            return
        for need in self.samples.shards_ahead(self._batches.order, position):
            if need.shard.is_remote:
                yield need

    def _deliver(self, packet: Packet) -> Batch:
        self._record(packet.faults)
        if packet.batch is None:
            raise RecipeError(
                f"data.train: {MOST_SUBSTITUTES} samples in a row are bad:\n{self.faults.table()}\n"
                f"the last one: {packet.faults[-1]}"
            )
        self.faults.delivered += len(packet.batch)
        self.faults.retries = self.samples.retries()
        return self.upload.pin(packet.batch)

    def _record(self, faults: Iterable[Fault]) -> None:
        faults = list(faults)
        self.faults.add(faults)
        self._quarantine.add(faults)
