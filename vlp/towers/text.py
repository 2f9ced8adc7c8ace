"""Run a text tower on captions cut to their length, where that changes nothing but the time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from open_clip.hf_model import HFTextEncoder
from torch import Tensor, nn

from vlp.ground.types import send
from vlp.towers.caption_layout import lay_out, lay_out_unpadded
from vlp.towers.class_token import ClassTokenText
from vlp.towers.packed_text import can_pack

GROUPS = 4
"""Of captions, where they need padding and nobody says how many."""


def can_cut(tower: nn.Module) -> bool:
    """Whether the padding behind a caption has no influence on its embedding.

    True for causal towers that pool at the end token or have a class token, and for transformers encoders, which mask
    the padding.
    """
    if isinstance(tower, HFTextEncoder | ClassTokenText):
        return True
    return tower.attn_mask is not None and tower.cls_emb is None and tower.pool_type in ("argmax", "eos")


def embed_cut(
    tower: nn.Module,
    tokens: Int64[Tensor, "n l"],
    lengths: Int64[NDArray[np.int64], " n"],
    num_groups: int | None = None,
    run: Callable[..., Tensor] | None = None,
) -> Float[Tensor, "n d"]:
    """Embed captions in groups of similar length, each cut to its longest, and return them in the given order.

    A tower that takes layouts runs once, so that its weights are read, and their gradients written, once.

    Args:
        lengths: On the CPU, so that the cuts are known without waiting for the device.
        num_groups: Without it, one behind the other without padding where tower and device can do that, else `GROUPS`.
        run: What calls the tower, where more is wanted of it than its embeddings.
    """
    run = run or tower
    lengths = np.asarray(lengths)
    if can_pack(tower) and len(lengths):
        width, device = tokens.shape[1], tokens.device
        if num_groups is None and not tower.needs_padding(device):
            layout = lay_out_unpadded(lengths, width, device)
        else:
            layout = lay_out(lengths, width, num_groups or GROUPS, device)
        packed: Tensor = run(tokens, layout)
        return packed
    num_groups = num_groups or GROUPS
    order = np.argsort(lengths, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    sorted_tokens = tokens[send(torch.from_numpy(order), tokens.device)]
    groups = zip(sorted_tokens.tensor_split(num_groups), np.array_split(lengths[order], num_groups), strict=True)
    # cloned: a compiled tower would look at where in memory a part begins, and compile anew
    parts = [run(group[:, : int(sizes.max())].clone()) for group, sizes in groups if len(sizes)]
    return torch.cat(parts)[send(torch.from_numpy(place), tokens.device)]


def embed_full(
    run: Callable[..., Tensor], tokens: Int64[Tensor, "n l"], context_length: int, pad_id: int
) -> Float[Tensor, "n d"]:
    """Embed tokens filled up to the whole context."""
    return run(F.pad(tokens, (0, context_length - tokens.shape[1]), value=pad_id))
