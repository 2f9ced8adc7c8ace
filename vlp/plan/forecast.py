"""From what a recipe needs and what a device can do to memory, time, and what to change."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from vlp.ground.types import RecipeError
from vlp.plan.counts import Counts
from vlp.plan.devices import Device
from vlp.plan.holding import Holding, room_of
from vlp.plan.splitting import FLOAT32, sent_in_step
from vlp.recipe.schema import Recipe

LOSS_PRODUCTS = 4  # of one matrix: forward, once more in the backward pass, and one for the gradient of each side
PASSES_OVER_PARAMETERS = 7  # AdamW reads weights, gradients and two moments, and writes three of them
# what follows is assumed, and nowhere measured
NETWORK = 50e9  # bytes per second between machines for each device: 400 Gbit/s
TO_DEVICE = 50e9  # bytes per second that PCIe carries at most; half of it is expected
LOSS_SHARE, MEMORY_SHARE, WIRE_SHARE, COPY_SHARE = 0.5, 0.7, 0.7, 0.5  # of the peak
GATHER_SHARE = 0.5  # of the wire, by a few embeddings
MANY_CORES = 8  # of one device
LARGE_LOSS = 0.15  # of a step
EXCHANGE_LEADS = 0.8  # of a step without its loss
GRADIENTS = "gradients between devices"
ALMOST = 0.95  # of the memory, for advice that fills it


@dataclass(frozen=True)
class Assumptions:
    """What was not counted.

    Args:
        share: Share of the device's peak that the towers' products reach.
        decode: Seconds of one core for one sample.
        sample_bytes: Bytes of one sample in its shard.
        price: Of one device for one hour, in whatever currency.
        measured: Where share and decode come from; empty where they are assumed.
    """

    share: float = 0.35
    decode: float = 1.0e-3
    sample_bytes: float = 100e3
    price: float | None = None
    measured: str = ""


@dataclass(frozen=True)
class StepPart:
    """A line of the forecast of a step.

    Args:
        floor: Seconds below which it cannot go on this device.
        expected: Seconds that it will probably take.
        hidden: Whether it goes on while something else does.
    """

    name: str
    floor: float
    expected: float
    hidden: bool = False


@dataclass(frozen=True)
class Forecast:
    """What a run will be like.

    Args:
        holding: One of its devices.
        micro_batches: Pieces in which a device embeds its share.
    """

    recipe: Recipe
    holding: Holding
    device: Device
    assumed: Assumptions
    micro_batches: int

    @property
    def counts(self) -> Counts:
        """What the recipe needs."""
        return self.holding.counts

    @property
    def num_devices(self) -> int:
        """Devices of the whole job."""
        return self.holding.num_devices

    @cached_property
    def memory(self) -> dict[str, float]:
        """Bytes of one device, by what takes them."""
        return self.holding.memory(self.micro_batches)

    @property
    def total_memory(self) -> float:
        """Bytes of one device."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether the memory of one device suffices."""
        return self.total_memory <= self.room

    @property
    def room(self) -> float:
        """Bytes of one device that the recipe may use."""
        return room_of(self.recipe.train, self.device.memory)

    @cached_property
    def parts(self) -> tuple[StepPart, ...]:
        """What a step consists of."""
        return (*self._towers(), *self._rest(), *self._exchange())

    def step(self, *, floor: bool = False) -> float:
        """Return the seconds of one step: the parts one after the other, or what is hidden behind them, if longer."""
        named = [(part.floor if floor else part.expected, part.hidden) for part in self.parts]
        return max(sum(seconds for seconds, hidden in named if not hidden), *(seconds for seconds, _ in named))

    @property
    def pairs_per_second(self) -> float:
        """Pairs per second of the whole job."""
        return self.recipe.train.batch_size / self.step()

    @property
    def cores(self) -> float:
        """Cores that decode for one device."""
        return self.pairs_per_second / self.num_devices * self.assumed.decode

    @property
    def storage(self) -> float:
        """Bytes per second that the whole job reads."""
        return self.pairs_per_second * self.assumed.sample_bytes

    def hours(self, pairs: float) -> float:
        """Return the hours that so many pairs take."""
        return pairs / self.pairs_per_second / 3600

    @property
    def advice(self) -> tuple[str, ...]:
        """What to change, the most important first."""
        return tuple(self._advice())

    def _towers(self) -> Iterator[StepPart]:
        counts, share = self.counts, self.assumed.share
        again = self.micro_batches > 1  # a forward pass more
        image, text, decoder, clean = (
            part.operations + again * part.forward for part in (counts.image, counts.text, counts.decoder, counts.clean)
        )
        operations = {
            "image tower": counts.image_views * image,
            "text tower": counts.text_views * text,
            "decoder": decoder,
            "auto-encoder on clean images": clean,
            "teachers and strategies": counts.strategies * (1 + again),
        }
        for name, number in operations.items():
            if number:
                floor = self.holding.pairs * number / self.device.rate(self.recipe.train.precision)
                yield StepPart(name, floor, floor / share)

    def _rest(self) -> Iterator[StepPart]:
        counts, device = self.counts, self.device
        products = (
            LOSS_PRODUCTS * counts.matrices * 2 * self.holding.pairs * self.recipe.train.batch_size * counts.embed_dim
        )
        yield StepPart("loss", products / device.float32, products / device.float32 / LOSS_SHARE)
        trained = self.holding.held(counts.trained, of_trained=True)
        touched = PASSES_OVER_PARAMETERS * FLOAT32 * trained / device.bandwidth
        yield StepPart("optimizer", touched, touched / MEMORY_SHARE)
        pixels = self.holding.pairs * counts.image_views * counts.pixels / TO_DEVICE
        yield StepPart("copies to the device", pixels, pixels / COPY_SHARE)

    def _exchange(self) -> Iterator[StepPart]:
        if self.num_devices == 1:
            return
        counts, wire = self.counts, self._wire(self.num_devices)
        around = (self.num_devices - 1) / self.num_devices
        for name, seconds in self._of_parameters():
            yield StepPart(name, seconds, seconds / WIRE_SHARE, hidden=True)  # behind forward and backward pass
        views = counts.image_views + counts.text_views
        gathered = around * FLOAT32 * self.recipe.train.batch_size * counts.embed_dim * views / wire
        yield StepPart("embeddings between devices", gathered, gathered / GATHER_SHARE)

    def _of_parameters(self) -> Iterator[tuple[str, float]]:
        """Yield the seconds that gradients, and weights that are gathered, are on their way."""
        parts, copies = self.holding.parts_of_state, self.holding.copies
        if not self.holding.sharded:
            sent = 2 * (copies - 1) / copies * FLOAT32 * self.counts.trained
            yield GRADIENTS, sent / self._wire(self.num_devices)
            return
        number_format = self.recipe.train.number_format
        gathered = FLOAT32 if number_format is None else number_format.itemsize
        sent_by_one = sent_in_step(self.counts.rows, parts, copies, gathered=gathered, micro_batches=self.micro_batches)
        yield "parameters within a copy", sent_by_one.within / self._wire(parts)
        if copies > 1:
            yield "gradients between copies", sent_by_one.between / self._wire(self.num_devices)

    def _wire(self, devices: int) -> float:
        """Return the bytes per second from one to the next of so many devices, machine after machine."""
        return self.device.link if devices <= self.device.per_machine else min(self.device.link, NETWORK)

    def _advice(self) -> Iterator[str]:
        if not self.fits:
            yield f"it does not fit{self._how_to_fit()}"
        expected = {part.name: part.expected for part in self.parts}
        step, loss = self.step(), expected["loss"]
        behind = max((part.expected for part in self.parts if part.hidden), default=0.0)
        if behind > EXCHANGE_LEADS * (step - loss):
            yield (
                "the exchange of gradients and weights takes as long as the towers: give each device more pairs "
                "(train.batch_size), or use fewer devices"
            )
        if loss > LARGE_LOSS * step:
            yield f"the loss takes {loss / step:.0%} of the step: a smaller train.batch_size costs less"
        if self.recipe.train.precision == "float32" and self.device.matrix > self.device.rate("float32"):
            yield "train.precision=bfloat16 doubles the rate of the products on this device"
        if self.recipe.train.keep_locked:
            yield "train.keep_locked: this is the first epoch; later ones run no locked tower, nor decode for it"
        if self.micro_batches > 1 and sum(self.holding.memory(1).values()) < ALMOST * self.room:
            yield "train.micro_batches=1 fits too, and saves a forward pass"
        if self.cores > MANY_CORES:
            yield (
                f"{math.ceil(self.cores)} cores must decode for each device: smaller images in the shards, or fewer "
                "views, cost less (vlp data bench measures)"
            )

    def _how_to_fit(self) -> str:
        fitting = self.holding.fitting(self.room, first=2 * self.micro_batches)
        if fitting is not None:
            return f": train.micro_batches={fitting} does, for one forward pass more"
        recomputed = getattr(self.recipe.model, "grad_checkpointing", False)
        if not recomputed:
            return (
                ", with any number of micro-batches: try model.grad_checkpointing=selective, or true, which keeps less"
            )
        if recomputed is not True:
            return ", with any number of micro-batches: try model.grad_checkpointing=true, which keeps less"
        if not self.holding.sharded and self.num_devices > 1:
            return ": parameters can be split over the devices (--sharded; recipes/launch/fsdp2.yaml)"
        return ": more devices with --sharded, or smaller towers"


def forecast(
    recipe: Recipe,
    counts: Counts,
    device: Device,
    num_devices: int = 1,
    assumed: Assumptions | None = None,
    *,
    sharded: bool = False,
    micro_batches: int | None = None,
) -> Forecast:
    """Predict memory and time of a step.

    Args:
        sharded: Parameters, gradients and moments are split over the devices (FSDP2).
        micro_batches: Instead of the recipe's.

    Raises:
        RecipeError: The batch does not divide among the devices.
    """
    holding = Holding(counts, recipe.train.batch_size, num_devices, sharded, recipe.train.shards)
    pieces = micro_batches or holding.micro_batches(recipe.train, device.memory)
    if recipe.train.batch_size % (num_devices * pieces):
        raise RecipeError(
            f"train.batch_size: {recipe.train.batch_size} pairs do not divide among {num_devices} devices with "
            f"train.micro_batches={pieces}"
        )
    return Forecast(recipe, holding, device, assumed or Assumptions(), pieces)
