"""An encoder around another one."""

from __future__ import annotations

from typing import Any


class AroundEncoder:
    """Changes some of what another encoder says; all else is asked of that one.

    Args:
        encoder: The other one.

    Attributes:
        not_asked: What the other one may say and this one would have to change, and cannot.
    """

    not_asked: frozenset[str] = frozenset()

    def __init__(self, encoder: Any):
        self.encoder = encoder

    def __getattr__(self, name: str) -> Any:
        if name == "encoder" or name in self.not_asked:  # no encoder yet, as while a copy is made
            raise AttributeError(name)
        return getattr(self.encoder, name)

    @property
    def scale(self) -> float:
        """Inverse temperature of the encoder."""
        scale: float = self.encoder.scale
        return scale
