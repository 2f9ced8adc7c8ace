"""One process's slice of a global batch: read, decoded, cropped, worded, tokenised and stacked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from vlp.data.augment import NUM_DRAWS
from vlp.data.captions import Caption, Captions
from vlp.data.crop import Crop
from vlp.data.decode import EXTENSIONS, decode_image
from vlp.data.faults import BadSampleError, Fault
from vlp.data.order import Order, Substitutes
from vlp.data.randomness import CAPTION, CROP, DEVICE, Draws, fold, uniform_rows
from vlp.data.samples import Sample, SampleSet
from vlp.types import Batch, Tokenizer

# With half of all samples bad, one place in 10^30 stays empty.
MOST_SUBSTITUTES = 100


@dataclass(frozen=True)
class Packet:
    """What a worker sends: a batch and the bad samples met on the way, or no batch where nothing good was found."""

    batch: Batch | None
    faults: tuple[Fault, ...]

    def pin_memory(self) -> Packet:
        """Pin the batch (called by the DataLoader)."""
        return self if self.batch is None else replace(self, batch=self.batch.pin_memory())


@dataclass(frozen=True)
class Loaded:
    """One sample, ready to be stacked."""

    id: int
    images: list[NDArray[np.uint8]]
    captions: list[Caption]
    source: str


class NothingGoodError(Exception):
    """No substitute was found for a bad sample."""


@dataclass(frozen=True)
class Decoder:
    """Turns a sample of an epoch into pixels and texts."""

    samples: SampleSet
    crop: Crop
    captions: Captions
    seed: int
    num_views: int
    num_text_views: int
    max_pixels: int
    max_bytes: int

    def __call__(self, epoch: int, number: int) -> Loaded:
        """Read, decode, crop and word one sample.

        Raises:
            BadSampleError: It cannot be used.
        """
        sample = self.samples[number]
        captions = [
            self.captions(sample, Draws(self.seed, CAPTION, epoch, number, view)) for view in range(self.num_text_views)
        ]
        image = decode_image(self._read_image(sample), self.max_pixels)
        crops = [self.crop(image, Draws(self.seed, CROP, epoch, number, view)) for view in range(self.num_views)]
        return Loaded(number, crops, captions, sample.source)

    def _read_image(self, sample: Sample) -> bytes:
        extension = next((name for name in EXTENSIONS if name in sample.members), None)
        if extension is None:
            raise BadSampleError("missing_image", f"none of {', '.join(EXTENSIONS)} among {', '.join(sample.members)}")
        if sample.size(extension) > self.max_bytes:
            raise BadSampleError("oversized_image", f"{sample.size(extension)} bytes, more than {self.max_bytes}")
        return sample.read(extension)


class LocalBatches(Dataset[Packet]):
    """This process's slice of every global batch, by its number."""

    def __init__(
        self,
        samples: SampleSet,
        decoder: Decoder,
        tokenizer: Tokenizer,
        order: Order,
        batch_size: int,
        rank: int,
        world_size: int,
    ):
        self.samples = samples
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.order = order
        self.batch_size = batch_size
        self.local_size = batch_size // world_size
        self.first = rank * self.local_size

    def __getitem__(self, number: int) -> Packet:
        """Return the slice of global batch `number`."""
        start = number * self.batch_size
        positions = np.arange(start + self.first, start + self.first + self.local_size)
        substitutes = Substitutes(self.order, start, self.batch_size)
        epochs, ids = self.order.samples_at(positions)
        faults: list[Fault] = []
        try:
            loaded = [
                self._load(int(position), int(epoch), int(sample), substitutes, faults)
                for position, epoch, sample in zip(positions, epochs, ids, strict=True)
            ]
        except NothingGoodError:
            return Packet(None, tuple(faults))
        return Packet(self._collate(epochs, loaded), tuple(faults))

    def _load(self, position: int, epoch: int, sample: int, substitutes: Substitutes, faults: list[Fault]) -> Loaded:
        for attempt in range(MOST_SUBSTITUTES):
            number = sample if attempt == 0 else substitutes.at(position, attempt)
            try:
                return self.decoder(epoch, number)
            except BadSampleError as bad:
                faults.append(self.samples.fault(number, bad.reason, bad.detail))
        raise NothingGoodError

    def _collate(self, epochs: NDArray[np.int64], loaded: list[Loaded]) -> Batch:
        num_views, num_texts = len(loaded[0].images), len(loaded[0].captions)
        size = self.decoder.crop.size
        images = torch.empty(num_views, len(loaded), size, size, 3, dtype=torch.uint8)
        for place, sample in enumerate(loaded):
            for view, pixels in enumerate(sample.images):
                images.numpy()[view, place] = pixels
        tokens, lengths = self.tokenizer([sample.captions[view].text for view in range(num_texts) for sample in loaded])
        keys = [
            fold(self.order.seed, DEVICE, int(epoch), sample.id, view)
            for view in range(num_views)
            for epoch, sample in zip(epochs, loaded, strict=True)
        ]
        return Batch(
            images=images,
            tokens=tokens.view(num_texts, len(loaded), -1),
            lengths=lengths.view(num_texts, len(loaded)),
            draws=torch.from_numpy(uniform_rows(keys, NUM_DRAWS)).view(num_views, len(loaded), NUM_DRAWS),
            ids=torch.tensor([sample.id for sample in loaded]),
            caption_ids=torch.tensor([hash_text(sample.captions[0].identity) for sample in loaded]),
            sources=tuple(sample.source for sample in loaded),
        )


def hash_text(text: str) -> int:
    """Return a stable signed 64-bit hash."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)
