"""What one device holds of a training, and in how many micro-batches it fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vlp.plan.counts import Counts
from vlp.plan.splitting import FLOAT32
from vlp.recipe.train_section import TrainSection

GB = 1e9
KERNELS = 1.5e9  # bytes that CUDA's context, its libraries and what the allocator cannot use take; assumed


@dataclass(frozen=True)
class Holding:
    """One device of several, and its share of a batch.

    Args:
        batch_size: Pairs of the whole job.
        sharded: Parameters, gradients and moments are split over the devices (FSDP2).
        shards: Over how many of them one copy is split; None is all.
    """

    counts: Counts
    batch_size: int
    num_devices: int = 1
    sharded: bool = False
    shards: int | None = None

    @property
    def pairs(self) -> int:
        """Pairs of this device."""
        return self.batch_size // self.num_devices

    @property
    def parts_of_state(self) -> int:
        """How many devices share one copy of what is trained."""
        return min(self.shards or self.num_devices, self.num_devices) if self.sharded else 1

    @property
    def copies(self) -> int:
        """How many copies of what is trained there are."""
        return self.num_devices // self.parts_of_state

    def held(self, numbers: float, *, of_trained: bool) -> float:
        """Return how many of these numbers this device holds: its padded part of those of towers, and all others.

        Args:
            of_trained: One for each number that is trained; otherwise those of all weights, and of buffers.
        """
        split = [each for each in self.counts.rows if each.trained or not of_trained]
        parts = self.parts_of_state
        return numbers - sum(each.numbers for each in split) + sum(each.share(parts) for each in split)

    def memory(self, micro_batches: int) -> dict[str, float]:
        """Return bytes by what takes them, where the share is embedded in so many pieces."""
        counts, copies = self.counts, self.parts_of_state
        trained = FLOAT32 * self.held(counts.trained, of_trained=True)
        piece = self.pairs // micro_batches
        views = counts.image_views + counts.text_views
        pixels = counts.image_views * counts.pixels
        return {
            "weights, float32": FLOAT32 * self.held(counts.weights / FLOAT32, of_trained=False),
            "weights, cast": counts.cast,
            "gradients": trained,
            "optimizer": counts.moments * trained,
            "averages and teachers": counts.beside / copies,
            f"activations of {piece:,} pairs": self.activations(micro_batches),
            "copies in the optimizer's step": self._beyond_activations(micro_batches),
            "pixels": (self.pairs + FLOAT32 * piece) * pixels,  # as bytes, and as floats before the first layer
            "embeddings": FLOAT32 * counts.embed_dim * (self.batch_size + 3 * self.pairs) * views,
            "libraries (assumed)": KERNELS,
        }

    def activations(self, micro_batches: int) -> float:
        """Return the bytes that are kept for the gradients of one piece."""
        counts = self.counts
        saved = counts.image_views * counts.image.saved + counts.text_views * counts.text.saved
        saved += counts.decoder.saved + counts.clean.saved
        return self.pairs // micro_batches * saved

    def beside_activations(self, micro_batches: int) -> float:
        """Return the bytes of everything that is there while something is kept for the gradients."""
        of_a_time = self.activations(micro_batches) + self._beyond_activations(micro_batches)
        return sum(self.memory(micro_batches).values()) - of_a_time

    def _beyond_activations(self, micro_batches: int) -> float:
        """Return the bytes that are copied to take a step back, beyond those of activations, which are gone by then."""
        copied = self.counts.guarded * FLOAT32 * self.held(self.counts.trained, of_trained=True)
        return max(0.0, copied - self.activations(micro_batches))

    def fitting(self, memory: float, first: int = 1) -> int | None:
        """Return the smallest of these numbers of micro-batches with which the device suffices; None where none does.

        Args:
            memory: Bytes of the device.
            first: The smallest number that is tried.
        """
        numbers = numbers_of_micro_batches(self.pairs, first)
        return next((number for number in numbers if sum(self.memory(number).values()) <= memory), None)

    def micro_batches(self, train: TrainSection, memory: float) -> int:
        """Return the number that a recipe asks for; the smallest that fits where it says `auto`, or else the largest.

        Args:
            memory: Bytes of the device.
        """
        if train.micro_batches != "auto":
            return train.micro_batches
        return self.fitting(room_of(train, memory)) or max(numbers_of_micro_batches(self.pairs), default=1)


def room_of(train: TrainSection, memory: float) -> float:
    """Return the bytes of a device that a recipe may use."""
    return memory if train.memory_gb is None else min(memory, GB * train.memory_gb)


def numbers_of_micro_batches(pairs: int, first: int = 1) -> Iterator[int]:
    """Yield the numbers of equal micro-batches that a share is embedded in when memory runs out again and again.

    Each is at least twice the one before.
    """
    number = first
    while number <= pairs:
        if pairs % number == 0:
            yield number
            number = 2 * number
        else:
            number += 1
