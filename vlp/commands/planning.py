"""`vlp plan` and `vlp bench train`: a forecast, and what was measured, as text."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlp.ground.tabular import aligned, p10_to_p90
from vlp.ground.types import RecipeError
from vlp.plan.counts import USUAL_LENGTH, count
from vlp.plan.devices import Device, find_device
from vlp.plan.forecast import Assumptions, Forecast, forecast
from vlp.plan.holding import GB
from vlp.plan.saved_plan import SavedPlan
from vlp.recipe.compose import load_recipe

if TYPE_CHECKING:
    from vlp.commands.timed_steps import Bench

MILLI = 1e-3
USUAL = "H100"


def run_plan(parsed: argparse.Namespace) -> None:
    """Print a forecast.

    Raises:
        RecipeError: A wrong recipe, device or file of measurements.
    """
    recipe = load_recipe(parsed.recipe, parsed.overrides)
    if parsed.gpus < 1:
        raise RecipeError(f"--gpus: {parsed.gpus}; there must be one at least")
    device = None if parsed.device is None else find_device(parsed.device)
    assumed = Assumptions(price=parsed.price)
    if parsed.calibration is not None:
        assumed, measured = read_calibration(parsed.calibration, assumed)
        device = device or measured
    if parsed.share is not None:
        assumed = replace(assumed, share=parsed.share)
    if not 0 < assumed.share <= 1:
        raise RecipeError(f"--share: {assumed.share}; it is a share of the peak, above 0 and at most 1")
    counts = count(recipe, tokens=USUAL_LENGTH if parsed.tokens is None else parsed.tokens)
    found = forecast(recipe, counts, device or find_device(USUAL), parsed.gpus, assumed, sharded=parsed.sharded)
    print("\n".join(said(found, parsed.pairs or length_of(found))))
    if parsed.to is not None:
        SavedPlan.of(found).save(parsed.to)
        print(f"{parsed.to}: for vlp report --plan")


def read_calibration(path: Path, assumed: Assumptions) -> tuple[Assumptions, Device]:
    """Return what was measured on a machine, and its device.

    Raises:
        RecipeError: The file cannot be read.
    """
    try:
        if not path.is_file():
            raise OSError("no such file")
        found = json.loads(path.read_text(encoding="utf-8"))
        device = Device.from_mapping(found["device"])
        decode = assumed.decode if found["decode"] is None else float(found["decode"])
        return replace(assumed, share=float(found["share"]), decode=decode, measured=str(found["where"])), device
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise RecipeError(f"--calibration: {path}: {reason}; `vlp bench train RECIPE --to FILE` writes one") from error


def run_bench(parsed: argparse.Namespace) -> None:
    """Measure, print, and write a calibration on request."""
    from vlp.commands.timed_steps import bench

    if parsed.steps < 1:
        raise RecipeError(f"--steps: {parsed.steps}; at least one is timed")
    found = bench(parsed.recipe, parsed.overrides, steps=parsed.steps)
    print("\n".join(told(found)))
    if parsed.to is not None:
        found.save(parsed.to)
        print(f"{parsed.to}: for vlp plan --calibration")


def told(found: Bench) -> list[str]:
    """Return the lines of what was measured."""
    between = p10_to_p90(found.seconds, MILLI, ",.1f")
    memory = "" if found.peak_bytes is None else f"; {found.peak_bytes / GB:,.2f} GB at most"
    rate = found.device.rate(found.precision) / 1e12
    lines = [
        f"{found.recipe} on {found.where}",
        f"a step of {found.batch_size:,} pairs: {found.step / MILLI:,.1f} ms "
        f"({between}), {found.pairs_per_second:,.1f} pairs/s, {found.wait:.1%} waiting for data{memory}",
        f"{found.operations / 1e9:,.1f} GFLOP a step: {found.utilisation:.1%} of the {rate:,.2f} TFLOP/s that "
        f"{found.device.name} reaches in {found.precision} (MFU); the towers alone {found.share:.1%}",
        "",
    ]
    rows = [["part", "ms", "share"]]
    total = sum(found.parts.values())
    rows += [[part, f"{seconds / MILLI:,.1f}", f"{seconds / total:.0%}"] for part, seconds in found.parts.items()]
    return [*lines, *aligned(rows, right={1, 2})]


def length_of(found: Forecast) -> float | None:
    """Return the pairs that a recipe asks for; None where they depend on the size of the data."""
    train = found.recipe.train
    return train.samples or (train.batch_sizes.start(train.steps) if train.steps else None)


def said(found: Forecast, pairs: float | None) -> list[str]:
    """Return the lines of a forecast."""
    train, counts, assumed = found.recipe.train, found.counts, found.assumed
    pieces = f" in {found.micro_batches} micro-batches" if found.micro_batches > 1 else ""
    lines = [
        f"{found.recipe.name}: {found.num_devices} x {found.device.name}, {train.precision}, batches of "
        f"{train.batch_size:,}, {found.holding.pairs:,} on each device{pieces}; {counts.parameters / 1e6:,.1f} million "
        f"parameters, captions of {counts.tokens} tokens",
        "",
    ]
    memory: list[list[str]] = [["memory of one device", "GB"]]
    memory += [[name, f"{value / GB:,.2f}"] for name, value in found.memory.items() if value]
    verdict = "fits" if found.fits else "DOES NOT FIT"
    memory += [[f"together, of {found.room / GB:,.0f}: {verdict}", f"{found.total_memory / GB:,.2f}"]]
    lines += [*aligned(memory, right={1}), ""]
    times = [["a step", "floor ms", "expected ms", ""]]
    times += [
        [part.name, *(f"{value / MILLI:,.2f}" for value in (part.floor, part.expected)), "behind" * part.hidden]
        for part in found.parts
    ]
    times += [["together", f"{found.step(floor=True) / MILLI:,.2f}", f"{found.step() / MILLI:,.2f}", ""]]
    lines += [*aligned(times, right={1, 2}), ""]
    lines += _rates(found, pairs)
    source = f"measured: {assumed.measured}" if assumed.measured else "assumed, not measured: vlp bench measures them"
    lines += [
        f"share of the peak {assumed.share:.2f}, {assumed.decode / MILLI:,.2f} ms of a core for a sample ({source}); "
        f"{assumed.sample_bytes / 1e3:,.0f} kB for a sample",
    ]
    if counts.uncounted:
        lines += [f"not counted: what {', '.join(counts.uncounted)} compute by networks of their own"]
    if found.advice:
        lines += ["", *(f"change: {line}" for line in found.advice)]
    return lines


def _rates(found: Forecast, pairs: float | None) -> list[str]:
    lines = [
        f"{found.pairs_per_second:,.0f} pairs/s; {found.cores:,.1f} cores decode for each device; "
        f"{found.storage / 1e6:,.0f} MB/s from storage"
    ]
    if pairs:
        hours = found.hours(pairs)
        price = found.assumed.price
        cost = f", {hours * found.num_devices * price:,.0f} at {price:g} for an hour of a device" if price else ""
        lines += [f"{pairs:,.0f} pairs: {hours:,.1f} hours, {hours * found.num_devices:,.1f} hours of a device{cost}"]
    return lines
