"""What takes the memory of a device, under the names that a plan has for it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from torch import Tensor

from vlp.plan.storages import kept_by, storage_bytes
from vlp.run.assemble import Run
from vlp.run.device_memory import peak_memory

PREFIX = "memory_gb/"


def memory_by_part(run: Run) -> dict[str, float]:
    """Return what a process holds on its device, in GB (1e9 bytes); ask after a step, while gradients are there.

    `weights` are parameters and buffers of towers and terms, `kept` what strategies keep: averages, teachers, queues.
    On CUDA `passing` is the rest of the peak: activations, pixels, weights in other formats, tiles of the loss, what
    the allocator cannot use.
    """
    modules = (run.towers, run.objective)
    trained = list(chain.from_iterable(module.parameters() for module in modules))
    buffers = chain.from_iterable(module.buffers() for module in modules)
    parts: dict[str, Iterator[Tensor]] = {
        "weights": chain(trained, buffers),
        "gradients": (each.grad for each in trained if each.grad is not None),
        "optimizer": _states(run),
        "kept": kept_by(run.strategies.values()),
    }
    kind = run.device.type  # a device may be called with its number or without
    found = {
        name: float(storage_bytes(each for each in held if each.device.type == kind)) for name, held in parts.items()
    }
    if run.device.type == "cuda":
        found["passing"] = max(0.0, peak_memory(run.device) - sum(found.values()))
    return {PREFIX + name: each / 1e9 for name, each in found.items()}


def _states(run: Run) -> Iterator[Tensor]:
    """Yield moments, and where training started if it is pulled there."""
    for optimizer in run.optimizers:
        for state in optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))
