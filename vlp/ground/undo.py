"""What a step that is not taken must leave as it was: the buffers that its forward pass has changed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from jaxtyping import Bool
from torch import Tensor, nn


class TakesBack(nn.Module, ABC):
    """A module that can take its own last change back: for buffers too large to be copied at each step."""

    @abstractmethod
    def begin(self) -> None:
        """Let what changed before this moment stand."""

    @abstractmethod
    def take_back_unless(self, taken: Bool[Tensor, ""]) -> None:
        """Be as before the change since the beginning, where the step was not taken; a second time changes nothing."""


class Undo:
    """Remembers the buffers of a module; restores them without waiting for the device.

    Args:
        module: Parameters are the optimizer's business. What `TakesBack` in it looks after its own buffers.
    """

    def __init__(self, module: nn.Module):
        self._module = module
        for part in module.modules():
            if isinstance(part, TakesBack):
                part.begin()
        self._before = {name: buffer.clone() for name, buffer in self._buffers()}

    def unless(self, taken: Bool[Tensor, ""]) -> None:
        """Put all buffers back where the step was not taken."""
        for name, buffer in self._buffers():
            buffer.copy_(torch.where(taken, buffer, self._before[name]))
        for part in self._module.modules():
            if isinstance(part, TakesBack):
                part.take_back_unless(taken)

    def _buffers(self) -> Iterator[tuple[str, Tensor]]:
        for path, part in self._module.named_modules():
            if not isinstance(part, TakesBack):
                yield from part.named_buffers(path, recurse=False)
