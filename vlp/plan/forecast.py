"""From what a recipe needs and what a device can do to memory, time, and what to change."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from vlp.ground.types import RecipeError
from vlp.plan.counts import Counts
from vlp.plan.devices import Device
from vlp.recipe.schema import Recipe

FLOAT32 = 4
MOMENTS = 2  # of AdamW
KERNELS = 1.5e9  # bytes that CUDA's context, its libraries and what the allocator cannot use take; assumed
NETWORK = 50e9  # bytes per second between machines and device: 400 Gbit/s for each; assumed
LOSS_PRODUCTS = 4  # of one matrix: forward, once more in the backward pass, and one for the gradient of each side
PASSES_OVER_PARAMETERS = 7  # AdamW reads weights, gradients and two moments, and writes three of them


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
        memory: Bytes of one device, by what takes them.
        parts: Of one step.
        micro_batches: Pieces in which a device embeds its share.
        advice: What to change, the most important first.
    """

    recipe: Recipe
    device: Device
    num_devices: int
    counts: Counts
    assumed: Assumptions
    memory: dict[str, float]
    parts: tuple[StepPart, ...]
    micro_batches: int
    advice: tuple[str, ...]

    @property
    def total_memory(self) -> float:
        """Bytes of one device."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether the memory of one device suffices."""
        return self.total_memory <= self.device.memory

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
        views = self.counts.image_views
        return self.pairs_per_second / self.num_devices * self.assumed.decode * views

    @property
    def storage(self) -> float:
        """Bytes per second that the whole job reads."""
        return self.pairs_per_second * self.assumed.sample_bytes

    def hours(self, pairs: float) -> float:
        """Return the hours that so many pairs take."""
        return pairs / self.pairs_per_second / 3600


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
    assumed = assumed or Assumptions()
    pieces = micro_batches or recipe.train.micro_batches
    share, left = divmod(recipe.train.batch_size, num_devices * pieces)
    if left:
        raise RecipeError(
            f"train.batch_size: {recipe.train.batch_size} pairs do not divide among {num_devices} devices with "
            f"train.micro_batches={pieces}"
        )
    memory = memory_of(recipe, counts, num_devices, share, sharded=sharded)
    parts = tuple(parts_of(recipe, counts, device, num_devices, assumed, pieces, sharded=sharded))
    found = Forecast(recipe, device, num_devices, counts, assumed, memory, parts, pieces, ())
    return Forecast(**{**vars(found), "advice": tuple(advice_for(found, sharded=sharded))})


def memory_of(recipe: Recipe, counts: Counts, num_devices: int, share: int, *, sharded: bool) -> dict[str, float]:
    """Return the bytes of one device by what takes them.

    Args:
        share: Pairs that a device embeds at once.
    """
    parts = num_devices if sharded else 1
    local = recipe.train.batch_size / num_devices
    views = counts.image_views + counts.text_views
    embeddings = FLOAT32 * counts.embed_dim * (recipe.train.batch_size + 3 * local) * views
    pixels = local * counts.image_views * counts.pixels
    whole = FLOAT32 * share * counts.image_views * counts.pixels  # as floats, before the first layer
    return {
        "weights, float32": counts.weights / parts,
        "weights, cast": counts.cast,
        "gradients": FLOAT32 * counts.trained / parts,
        "optimizer": MOMENTS * FLOAT32 * counts.trained / parts,
        "averages and teachers": counts.beside / parts,
        f"activations of {share:,} pairs": share
        * (counts.image_views * counts.image.saved + counts.text_views * counts.text.saved),
        "pixels": pixels + whole,
        "embeddings": embeddings,
        "libraries (assumed)": KERNELS,
    }


def parts_of(
    recipe: Recipe,
    counts: Counts,
    device: Device,
    num_devices: int,
    assumed: Assumptions,
    pieces: int,
    *,
    sharded: bool,
) -> Iterator[StepPart]:
    """Yield what a step consists of."""
    batch = recipe.train.batch_size
    local = batch / num_devices
    repeated = 4 / 3 if pieces > 1 else 1.0  # a forward pass more
    rate = device.rate(recipe.train.precision)
    for name, tower, views in (
        ("image tower", counts.image, counts.image_views),
        ("text tower", counts.text, counts.text_views),
    ):
        floor = local * views * tower.operations * repeated / rate
        yield StepPart(name, floor, floor / assumed.share)
    if counts.strategies:
        floor = local * counts.strategies / rate
        yield StepPart("teachers and strategies", floor, floor / assumed.share)
    products = LOSS_PRODUCTS * counts.matrices * 2 * local * batch * counts.embed_dim
    yield StepPart("loss", products / device.float32, products / device.float32 / 0.5)
    touched = PASSES_OVER_PARAMETERS * FLOAT32 * counts.trained / (num_devices if sharded else 1) / device.bandwidth
    yield StepPart("optimizer", touched, touched / 0.7)
    if num_devices > 1:
        wire = device.link if num_devices <= device.per_machine else min(device.link, NETWORK)
        around = (num_devices - 1) / num_devices
        sent = (3 if sharded else 2) * around * FLOAT32 * counts.trained / wire
        yield StepPart("gradients between devices", sent, sent / 0.7, hidden=True)  # behind the backward pass
        views = counts.image_views + counts.text_views
        gathered = around * FLOAT32 * batch * counts.embed_dim * views / wire
        yield StepPart("embeddings between devices", gathered, gathered / 0.5)
    pixels = local * counts.image_views * counts.pixels
    yield StepPart("copies to the device", pixels / 50e9, pixels / 25e9)


def advice_for(found: Forecast, *, sharded: bool) -> Iterator[str]:
    """Yield what to change, the most important first."""
    recipe, device = found.recipe, found.device
    if not found.fits:
        yield _how_to_fit(found, sharded=sharded)
    by_name = {part.name: part for part in found.parts}
    step = found.step()
    gradients = by_name.get("gradients between devices")
    if gradients and gradients.expected > 0.8 * (step - by_name["loss"].expected):
        yield (
            "the exchange of gradients takes as long as the towers: give each device more pairs (train.batch_size), or "
            "use fewer devices"
        )
    if by_name["loss"].expected > 0.15 * step:
        yield f"the loss takes {by_name['loss'].expected / step:.0%} of the step: a smaller train.batch_size costs less"
    if recipe.train.precision == "float32" and device.matrix > device.rate("float32"):
        yield "train.precision=bfloat16 doubles the rate of the products on this device"
    if found.micro_batches > 1 and found.fits:
        whole = memory_of(
            recipe, found.counts, found.num_devices, recipe.train.batch_size // found.num_devices, sharded=sharded
        )
        if sum(whole.values()) < 0.95 * device.memory:
            yield "train.micro_batches=1 fits too, and saves a forward pass"
    if found.cores > 8:
        yield (
            f"{math.ceil(found.cores)} cores must decode for each device: smaller images in the shards, or fewer "
            "views, cost less (vlp data bench measures)"
        )


def _how_to_fit(found: Forecast, *, sharded: bool) -> str:
    recipe, counts = found.recipe, found.counts
    local = recipe.train.batch_size // found.num_devices
    pieces = found.micro_batches
    while local % (2 * pieces) == 0:
        pieces *= 2
        memory = memory_of(recipe, counts, found.num_devices, local // pieces, sharded=sharded)
        if sum(memory.values()) <= found.device.memory:
            return f"it does not fit: train.micro_batches={pieces} does, for one forward pass more"
    if not getattr(recipe.model, "grad_checkpointing", False):
        return "it does not fit, with any number of micro-batches: try model.grad_checkpointing=true"
    if not sharded and found.num_devices > 1:
        return "it does not fit: parameters can be split over the devices (--sharded; recipes/launch/fsdp2.yaml)"
    return "it does not fit: more devices with --sharded, or smaller towers"
