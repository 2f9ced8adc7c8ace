"""How many kernels a training step launches, by part of the step.

    python -m benchmarks.gpu.launches --recipe smoke --device cpu

On CUDA the profiler counts; on the CPU every operation counts that would launch one: all but views and allocations.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu.steps import synthetic_parts
from vlp import train
from vlp.step.guarded_step import SafeStep

# operations that touch no element, beside those whose schema says that they return a view
QUIET = ("empty", "detach", "alias", "_unsafe_view", "_reshape_alias", "lift_fresh", "is_", "sym_", "set_", "new_empty")
CASTS = ("aten._to_copy",)
WHOLE = "step"


class Operations(TorchDispatchMode):
    """Count operations that would launch a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.part = WHOLE

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if launches(operation):
            self.counts[self.part] += 1
            if str(operation).startswith(CASTS):
                self.counts["casts"] += 1
        return operation(*args, **(kwargs or {}))

    @contextmanager
    def called(self, part: str) -> Iterator[None]:
        """Count what follows as a part of the step."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before


def launches(operation: Any) -> bool:
    """Whether an operation computes."""
    name = operation.__name__ if hasattr(operation, "__name__") else str(operation)
    return not operation.is_view and not name.startswith(QUIET)


def count(step: Callable[[], object], device: str) -> dict[str, int]:
    """Return the launches of one step: those of CUDA's runtime, or the operations that stand for them on the CPU."""
    if device == "cuda":
        return _count_on_cuda(step)
    operations = Operations()
    with operations:
        step()
    return _with_total(operations.counts)


def _count_on_cuda(step: Callable[[], object]) -> dict[str, int]:
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        step()
        torch.cuda.synchronize()
    names: Counter[str] = Counter()
    for event in found.events():
        if event.name.startswith(("cudaLaunch", "cuLaunch", "cudaGraphLaunch")):
            names["launches"] += 1
        elif event.name.startswith(("cudaMemcpy", "cudaMemset")):
            names["copies"] += 1
        elif event.name.startswith(("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")):
            names["waits"] += 1
    names["waits"] = max(0, names["waits"] - 1)  # ours
    return dict(names)


def _with_total(counts: Counter[str]) -> dict[str, int]:
    return {"launches": sum(number for part, number in counts.items() if part != "casts"), **counts}


def by_part(parts: Any, batch: Any) -> dict[str, int]:
    """Return the operations of one step on the CPU, by part."""
    operations = Operations()

    def called(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            with operations.called(part):
                return function(*args, **kwargs)

        return counted

    with (
        patch.object(train, "embed", called("augment", train.embed)),
        patch.object(parts.model, "forward", called("towers", parts.model.forward)),
        patch.object(parts.objective, "forward", called("objective", parts.objective.forward)),
        patch.object(torch.Tensor, "backward", called("backward", torch.Tensor.backward)),
        patch.object(SafeStep, "__call__", called("optimizer", SafeStep.__call__)),
        operations,
    ):
        train.one_step(parts, batch, 0)
    return _with_total(operations.counts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the launches of one step of a recipe, on random images."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.launches",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", default="vitb32_clip", help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=8, help="pairs; default: %(default)s")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: %(default)s")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the recipe")
    parsed = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        parts, batch = synthetic_parts(parsed.recipe, Path(folder), parsed.batch, parsed.device, parsed.overrides)
        train.one_step(parts, batch, 0)
        found = (
            by_part(parts, batch)
            if parsed.device == "cpu"
            else count(lambda: train.one_step(parts, batch, 1), parsed.device)
        )
    for part, number in found.items():
        print(f"{part:12s} {number:8,d}")


if __name__ == "__main__":
    main()
