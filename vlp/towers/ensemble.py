"""Several teachers as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float32
from torch import Tensor


def side_by_side(members: Sequence[Float32[Tensor, "n _"]]) -> Float32[Tensor, "n d"]:
    """Return unit embeddings whose products are the means of the members' products."""
    return members[0] if len(members) == 1 else torch.cat(list(members), dim=1) / math.sqrt(len(members))
