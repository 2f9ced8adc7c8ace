"""Where the host waits for the device: what PyTorch warns of on CUDA, and what would wait there when run on the CPU."""

from __future__ import annotations

import re
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[2]
SAID = "called a synchronizing CUDA operation"
# operations whose result has a size, or a number, that the host must read
WAITING = re.compile(r"^aten\.(_local_scalar_dense|item|nonzero|masked_select|_?unique\w*|bincount|equal|is_nonzero)\b")


class Waits:
    """Count waits by the line of the project that causes them."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.places: Counter[str] = Counter()
        self.is_paused = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Count the waits inside."""
        if self.device == "cuda":
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                before = warnings.showwarning
                warnings.showwarning = self._note
                torch.cuda.set_sync_debug_mode("warn")
                try:
                    yield
                finally:
                    torch.cuda.set_sync_debug_mode("default")
                    warnings.showwarning = before
            return
        with _Waiting(self):
            yield

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Do not count what follows, for there one may wait."""
        if self.device != "cuda":
            self.is_paused = True
            yield
            self.is_paused = False
            return
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(mode)

    def _note(self, message: Any, *_: Any, **__: Any) -> None:
        if SAID in str(message):
            self.places[place_in_project()] += 1


class _Waiting(TorchDispatchMode):
    """Notice operations that make the host wait on a device, wherever they run."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.waits.is_paused and WAITING.match(str(operation)):
            self.waits.places[f"{place_in_project()} {operation}"] += 1
        return operation(*args, **(kwargs or {}))


def place_in_project() -> str:
    """Return the innermost line of `vlp` that is being carried out."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT / "vlp"):
            return f"{path.relative_to(ROOT)}:{frame.lineno}"
    return "elsewhere (in a backward pass, or in a library)"


def in_words(places: Mapping[str, int]) -> tuple[str, ...]:
    """Return one line per place."""
    return tuple(f"waits {count} x at {place}" for place, count in Counter(places).most_common())
