"""Writes that go on while the next steps are taken."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from vlp.ground import dist
from vlp.ground.types import VlpWarning


class BackgroundWriter:
    """Does one thing after the other on a thread of its own; a failure is a warning once somebody asks.

    Where all processes have a part in it, all fail, and the main one says so.

    Leaving its block waits for what is still to do, whatever ended the block.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: tuple[Future[None], str] | None = None

    def start(self, action: Callable[[], None], *, otherwise: str) -> None:
        """Begin, once what was started before is done.

        Args:
            otherwise: What it means that it could not be done.
        """
        self.settle()
        self._pending = self._thread.submit(action), otherwise

    def settle(self) -> None:
        """Wait for what was started, and say what went wrong with it."""
        if self._pending is None:
            return
        (written, otherwise), self._pending = self._pending, None
        if (error := written.exception()) is not None and dist.is_main():
            warnings.warn(f"{otherwise}: {type(error).__name__}: {error}", VlpWarning, stacklevel=2)

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.settle()


def copied(state: Any) -> Any:
    """Return a state whose tensors are copies on the CPU, which no later step changes.

    From a GPU all of them travel at once, through memory that is pinned for it and that torch keeps for the next copy;
    the wait is for the last one.
    """
    found = tree_map_only(Tensor, _copy, state)
    for device in {value.device for value in tree_leaves(state) if isinstance(value, Tensor) and value.is_cuda}:
        torch.cuda.synchronize(device)
    return found


def _copy(value: Tensor) -> Tensor:
    if value.device.type != "cuda":
        return value.detach().to("cpu", copy=True)
    pinned = torch.empty_like(value, device="cpu", pin_memory=True, requires_grad=False)
    return pinned.copy_(value.detach(), non_blocking=True)
