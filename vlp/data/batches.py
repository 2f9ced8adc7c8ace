"""One process's slice of a global batch: read, decoded, cropped, worded, tokenised and stacked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray
from torch import Tensor

from vlp.data.batch_rows import BatchRows, Piece, hash_text, join_rows, keys_of
from vlp.data.faults import BadSampleError, Fault
from vlp.data.kept_rows import KeptRows
from vlp.data.order.batch_sizes import BatchSizes
from vlp.data.order.patch_budgets import PatchBudgets
from vlp.data.order.shuffle import Order, Substitutes
from vlp.data.pixels.augment import NUM_DRAWS
from vlp.data.pixels.crop import rows_of
from vlp.data.pixels.decode import JpegPicture, Picture, open_picture
from vlp.data.pixels.device_decode import DeviceDecoder
from vlp.data.regions import Region, region_rows
from vlp.data.samples import Sample, SampleSet
from vlp.data.texts.captions import Caption
from vlp.data.texts.document_tokens import document_rows
from vlp.data.texts.documents import Excerpt
from vlp.data.views import Views
from vlp.ground.patch_budget import PatchBudget
from vlp.ground.randomness import DEVICE, fold, uniform_rows
from vlp.ground.tokenizing import Tokenizer
from vlp.ground.types import Batch, send

# With half of all samples bad, one place in 10^30 stays empty.
MOST_SUBSTITUTES = 100


@dataclass(frozen=True)
class Packet:
    """A batch and the bad samples met on the way, or no batch where nothing good was found."""

    batch: Batch | None
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class DecodedSample:
    """One sample, ready to be stacked.

    Args:
        excerpt: What is shown of it, where samples are documents.
        region: A part of the first image view, where one is wanted and there is one.
        encoded: The image, where it is decoded later.
    """

    id: int
    captions: list[Caption]
    source: str
    cuts: Float32[NDArray[np.float32], "views 5"]
    is_blank: bool = False
    excerpt: Excerpt | None = None
    region: Region | None = None
    encoded: bytearray | None = None


@dataclass(frozen=True)
class Decoder:
    """Turns a sample of an epoch into pixels and texts.

    Args:
        kept: Embeddings of images; a sample that has one there is left without pixels.
        on_device: Decodes images that are left to it once they are in the trainer.
    """

    samples: SampleSet
    views: Views
    seed: int
    max_pixels: int
    max_bytes: int
    kept: KeptRows | None = None
    on_device: DeviceDecoder | None = None

    def __call__(self, epoch: int, number: int, into: UInt8[NDArray, "views h w 3"]) -> DecodedSample:
        """Read, decode, crop and word one sample; its pixels are written, its words returned.

        Raises:
            BadSampleError: It cannot be used.
        """
        sample = self.samples[number]
        if self.views.documents is not None:
            return self._document(sample, epoch, into)
        captions = self.views.texts(sample, self.seed, epoch, number)
        if self.kept is not None and self.kept.has(np.array([number]))[0]:
            into[:] = 0
            nothing = np.zeros((len(into), 5), dtype=np.float32)
            return DecodedSample(number, captions, sample.source, nothing, is_blank=True)
        picture = open_picture(sample.read_image(self.max_bytes), self.max_pixels)
        encoded = None
        if (left := self._leave(picture, epoch, number)) is not None:
            encoded, cuts = left
        else:
            cuts = self.views.images(picture, self.seed, epoch, number, into)
        region = self.views.region(sample, picture, cuts[0], self.seed, epoch, number)
        return DecodedSample(number, captions, sample.source, cuts, region=region, encoded=encoded)

    def _leave(
        self, picture: Picture, epoch: int, number: int
    ) -> tuple[bytearray, Float32[NDArray[np.float32], "views 5"]] | None:
        """Return an image and what is taken of it, where the device is to decode it."""
        if self.on_device is None or not isinstance(picture, JpegPicture):
            return None
        cuts = self.views.cuts(picture, self.seed, epoch, number)
        return (bytearray(picture.data), rows_of(cuts)) if self.on_device.takes(picture, cuts) else None

    def _document(self, sample: Sample, epoch: int, into: UInt8[NDArray, "views h w 3"]) -> DecodedSample:
        excerpt = self.views.excerpt(sample, self.seed, epoch, sample.id)
        cuts = np.zeros((len(into), 5), dtype=np.float32)
        into[len(excerpt.images) :] = 0
        for view, member in enumerate(excerpt.images):
            picture = open_picture(sample.read_bounded(member, self.max_bytes), self.max_pixels)
            cuts[view] = self.views.image_of_document(picture, view, self.seed, epoch, sample.id, into)
        caption = Caption("\n".join(filter(None, excerpt.texts)), excerpt.identity)
        return DecodedSample(sample.id, [caption], sample.source, cuts, excerpt=excerpt)


def _let_pass(_sample: int) -> None:
    """Refuse no sample."""


class LocalBatches:
    """This process's slice of every global batch, by its number; whole, or in parts that several processes make."""

    def __init__(
        self,
        samples: SampleSet,
        decoder: Decoder,
        tokenizer: Tokenizer,
        order: Order,
        sizes: BatchSizes,
        rank: int,
        world_size: int,
        budgets: PatchBudgets | None = None,
    ):
        self.samples = samples
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.order = order
        self.sizes = sizes
        self._rank = rank
        self._world_size = world_size
        self.budgets = budgets
        self.view_epochs: int | None = None  # after which views come again

    @property
    def most(self) -> int:
        """Samples of the largest slice."""
        return self.sizes.last // self._world_size

    def local_size(self, number: int) -> int:
        """Return the samples of the slice of global batch `number`."""
        return self.sizes.size(number) // self._world_size

    def shape(self, num_samples: int) -> tuple[int, int, int, int, int]:
        """Return the shape of the pixels of so many samples."""
        views = self.decoder.views
        return views.num_images, num_samples, *views.shape

    def __getitem__(self, number: int) -> Packet:
        """Return the slice of global batch `number`."""
        size = self.local_size(number)
        images = np.empty(self.shape(size), dtype=np.uint8)
        return self.join(number, [self.part(number, 0, size, images)], torch.from_numpy(images))

    def _decoder(self, number: int) -> Decoder:
        """Return what decodes the slice of global batch `number`, whose images may have a budget of their own."""
        if self.budgets is None:
            return self.decoder
        return replace(self.decoder, views=self.decoder.views.within(self.budgets.of(number)))

    def positions(self, number: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the positions of rows of a slice in the order of the run."""
        first = self.sizes.start(number) + self._rank * self.local_size(number)
        return np.arange(first + start, first + stop)

    def part(
        self, number: int, start: int, stop: int, images: NDArray[np.uint8], guard: Callable[[int], None] = _let_pass
    ) -> Piece:
        """Decode rows of a slice.

        Each place finds its sample and its substitutes by itself, so that parts add up to the same slice however it
        is divided.

        Args:
            number: Number of the global batch.
            start: First row.
            stop: Row after the last.
            images: Pixels of the whole slice; the rows are written into it.
            guard: Sees the number of each sample before anything of it is read, and may refuse it as a bad one; sees
                -1 when the samples are done and their captions are not.
        """
        substitutes = Substitutes(self.order, self.sizes.start(number), self.sizes.size(number))
        positions = self.positions(number, start, stop)
        epochs, ids = self.order.samples_at(positions)
        if self.view_epochs is not None:
            epochs = epochs % self.view_epochs
        decoder = self._decoder(number)
        faults: list[Fault] = []
        loaded: list[DecodedSample] = []
        for position, epoch, sample in zip(positions.tolist(), epochs.tolist(), ids.tolist(), strict=True):
            into = images[:, start + len(loaded)]
            found = self._load(decoder, position, epoch, sample, into, substitutes, faults, guard)
            if found is None:
                return Piece(None, tuple(faults))
            loaded.append(found)
        guard(-1)
        return Piece(self._collate(epochs, loaded, decoder.views.budget), tuple(faults))

    def join(self, number: int, parts: Sequence[Piece], images: UInt8[Tensor, "views n h w 3"]) -> Packet:
        """Put the parts of the slice of global batch `number` together.

        Args:
            parts: All of them, in order.
            images: The pixels that they have written.
        """
        if self.decoder.on_device is not None:
            parts, images = self._decode_left(self.decoder.on_device, number, parts, images)
        faults: tuple[Fault, ...] = ()
        rows: list[BatchRows] = []
        for part in parts:
            faults += part.faults
            if part.rows is None:
                return Packet(None, faults)
            rows.append(part.rows)
        if self.budgets is not None:
            height, *_ = self._decoder(number).views.shape
            images = images[:, :, :height].contiguous()
        batch = join_rows(rows, images, self.tokenizer.pad_id)
        return Packet(replace(batch, num_negatives=self.decoder.views.num_negatives), faults)

    def _decode_left(
        self, on_device: DeviceDecoder, number: int, parts: Sequence[Piece], images: UInt8[Tensor, "views n h w 3"]
    ) -> tuple[list[Piece], UInt8[Tensor, "views n h w 3"]]:
        """Decode what was left to the device; return the parts, and all pixels there.

        A part with an image that nobody can decode is made anew here, where substitutes are found as ever.
        """
        shown = torch.empty(images.shape, dtype=torch.uint8, device=on_device.device)
        done, start = [], 0
        for part in parts:
            bad = {fault.id: BadSampleError(fault.reason, fault.detail) for fault in part.faults}
            while part.rows is not None and (found := _decode_rows(on_device, part.rows, start, images, shown)):
                bad |= {int(part.rows.visits[row, 1]): error for row, error in found.items()}

                def refuse(sample: int, bad: Mapping[int, BadSampleError] = bad) -> None:
                    if sample in bad:
                        raise BadSampleError(bad[sample].reason, bad[sample].detail)

                part = self.part(number, start, start + len(part.rows.ids), images.numpy(), refuse)
            done.append(part)
            start += 0 if part.rows is None else len(part.rows.ids)
        return done, shown

    def _load(
        self,
        decoder: Decoder,
        position: int,
        epoch: int,
        sample: int,
        into: NDArray[np.uint8],
        substitutes: Substitutes,
        faults: list[Fault],
        guard: Callable[[int], None],
    ) -> DecodedSample | None:
        for attempt in range(MOST_SUBSTITUTES):
            number = sample if attempt == 0 else substitutes.at(position, attempt)
            try:
                guard(number)
                return decoder(epoch, number, into)
            except BadSampleError as bad:
                faults.append(self.samples.fault(number, bad.reason, bad.detail))
        return None

    def _collate(self, epochs: NDArray[np.int64], loaded: list[DecodedSample], budget: PatchBudget | None) -> BatchRows:
        num_views, num_texts = self.decoder.views.num_images, len(loaded[0].captions)
        excerpts, interleaved = [sample.excerpt for sample in loaded if sample.excerpt is not None], None
        if excerpts:
            tokens, lengths, interleaved = document_rows(excerpts, num_views, self.tokenizer)
        else:
            texts = [sample.captions[view].text for view in range(num_texts) for sample in loaded]
            tokens, lengths = self.tokenizer(texts)
        keys = [
            fold(self.order.seed, DEVICE, int(epoch), sample.id, view)
            for view in range(num_views)
            for epoch, sample in zip(epochs, loaded, strict=True)
        ]
        return BatchRows(
            tokens=tokens.view(num_texts, len(loaded), -1).numpy(),
            lengths=lengths.view(num_texts, len(loaded)).numpy(),
            draws=uniform_rows(keys, NUM_DRAWS).reshape(num_views, len(loaded), NUM_DRAWS),
            ids=self.samples.originals(np.array([sample.id for sample in loaded])),
            caption_ids=np.array([hash_text(sample.captions[0].identity) for sample in loaded]),
            sources=tuple(sample.source for sample in loaded),
            captions=tuple(sample.captions[0].text for sample in loaded),
            visits=np.stack([epochs, [sample.id for sample in loaded]], axis=1),
            blank=np.array([sample.is_blank for sample in loaded]),
            caption_keys=keys_of(tokens.numpy(), lengths.numpy()).reshape(num_texts, -1),
            cuts=np.stack([sample.cuts for sample in loaded], axis=1),
            encoded=tuple(sample.encoded for sample in loaded) if self.decoder.on_device else (),
            interleaved=interleaved,
            grids=None if budget is None else budget.grids([sample.cuts for sample in loaded]),
            regions=None
            if self.decoder.views.regions is None
            else region_rows([sample.region for sample in loaded], self.tokenizer),
        )


def _decode_rows(
    on_device: DeviceDecoder,
    rows: BatchRows,
    start: int,
    images: UInt8[Tensor, "views n h w 3"],
    shown: UInt8[Tensor, "views n h w 3"],
) -> dict[int, BadSampleError]:
    """Fill rows on the device from `start` on, by what the host has decoded and by what was left."""
    on_host = [start + row for row, data in enumerate(rows.encoded) if data is None]
    if on_host:
        places = torch.tensor(on_host)
        shown.index_copy_(1, send(places, shown.device), send(images[:, places], shown.device))
    left = {row: data for row, data in enumerate(rows.encoded) if data is not None}
    return on_device(left, rows.cuts, shown[:, start:])
