"""Causal attention within captions of any lengths, one behind the other, in one kernel that needs no padding."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from jaxtyping import Float, Int32
from torch import Tensor

try:
    from torch.nn.attention import varlen
except ImportError:  # older than 2.10
    kernel: Any = None
else:
    kernel = varlen.varlen_attn if "window_size" in inspect.signature(varlen.varlen_attn).parameters else None

OPERATIONS = set() if kernel is None else {torch.ops.torch_attn._varlen_attn.default}
"""That it is, to whoever counts operations."""
FORMATS = (torch.float16, torch.bfloat16)
OLDEST_CAPABILITY = (8, 0)
WIDEST_HEAD, MULTIPLE = 256, 8
CAUSAL = (-1, 0)  # a window over all that stands before, and nothing behind


def can_attend_unpadded(device: torch.device, number_format: torch.dtype, head_width: int) -> bool:
    """Whether there is a kernel for it: FlashAttention's, whose gradients vary in their last bits from run to run."""
    return (
        device.type == "cuda"
        and kernel is not None
        and number_format in FORMATS
        and head_width % MULTIPLE == 0
        and head_width <= WIDEST_HEAD
        and torch.cuda.get_device_capability(device) >= OLDEST_CAPABILITY
        and not torch.are_deterministic_algorithms_enabled()
    )


def attend_unpadded(
    rows: Float[Tensor, "t w"], bounds: Int32[Tensor, " m"], longest: int, num_heads: int
) -> Float[Tensor, "t d"]:
    """Let each token see those of its own caption that do not stand behind it.

    Args:
        rows: Queries, keys and values of every token, side by side.
        bounds: Where each caption begins, and where the last one ends.
        longest: Tokens of the longest caption.
        num_heads: Of the attention.
    """
    queries, keys, values = rows.view(len(rows), 3, num_heads, -1).unbind(dim=1)
    seen: Tensor = kernel(queries, keys, values, bounds, bounds, longest, longest, window_size=CAUSAL)
    return seen.reshape(len(rows), -1)
