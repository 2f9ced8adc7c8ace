"""End a process that waits for ever, and say where it waits."""

from __future__ import annotations

import faulthandler
from collections.abc import Iterable, Sequence
from types import TracebackType

from jaxtyping import Float32
from PIL.Image import Image
from torch import Tensor

from vlp.ground import dist
from vlp.run.trained_head import HeadEncoder
from vlp.towers.encoder import TowerEncoder
from vlp.towers.writing import Writing

STDERR = 2  # by number: in a notebook `sys.stderr` is no file


class Watchdog:
    """Leave with exit code 1, and the stack of every thread on the error stream, when no progress is told for long.

    The time runs outside the interpreter, so that it also ends what holds the interpreter's lock: a collective whose
    partner is gone, a driver that does not answer, a file system that hangs. Collectives wait no longer either. It is
    faulthandler's timer, of which a process has one, and which must not run in a process while that is forked to train.

    Args:
        seconds: Longest time between two calls of `beat`.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __enter__(self) -> Watchdog:
        dist.set_timeout(self.seconds)
        self.beat()
        return self

    def beat(self) -> None:
        """Tell that something was finished."""
        faulthandler.dump_traceback_later(self.seconds, exit=True, file=STDERR)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        faulthandler.cancel_dump_traceback_later()


class WatchedEncoder:
    """An encoder that tells a watchdog of each call."""

    def __init__(self, encoder: TowerEncoder | HeadEncoder, watchdog: Watchdog):
        self.encoder = encoder
        self.watchdog = watchdog

    @property
    def scale(self) -> float:
        """Inverse temperature of the encoder."""
        return self.encoder.scale

    def embed_images(self, images: Iterable[Image]) -> Float32[Tensor, "n d"]:
        """Embed images as the encoder does."""
        self.watchdog.beat()
        return self.encoder.embed_images(images)

    def embed_texts(self, texts: Sequence[str]) -> Float32[Tensor, "n d"]:
        """Embed texts as the encoder does."""
        self.watchdog.beat()
        return self.encoder.embed_texts(texts)

    def caption_images(self, images: Iterable[Image], writing: Writing) -> list[str]:
        """Write captions as the encoder does."""
        self.watchdog.beat()
        return self.encoder.caption_images(images, writing)
