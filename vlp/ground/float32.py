"""All digits of float32 where the towers may drop some."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def whole_float32() -> Iterator[None]:
    """Multiply float32 matrices as such on CUDA too: towers may drop 13 of 23 bits (TF32), losses and scores not."""
    with _reading(in_tf32=False):
        yield


@contextmanager
def tf32() -> Iterator[None]:
    """Let matrix units of CUDA multiply float32 matrices, of which they read the leading bits."""
    with _reading(in_tf32=True):
        yield


@contextmanager
def _reading(*, in_tf32: bool) -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = in_tf32
    try:
        yield
    finally:
        matmul.allow_tf32 = before
