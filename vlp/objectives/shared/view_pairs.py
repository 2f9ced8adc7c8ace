"""All views of a batch: what they are called, and how alike the views of one pair are."""

from __future__ import annotations

from itertools import combinations
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.pairs import Pairs

Modality = Literal["image", "text"]


def all_views(pairs: Pairs) -> tuple[str, ...]:
    """Return the names of all views, images first."""
    return pairs.image_names + pairs.text_names


def agreement(pairs: Pairs) -> Float[Tensor, " n"]:
    """Return the log-sum-exp of the logits between the views of each pair, every two views once."""
    cosines = [(pairs.view(one) * pairs.view(other)).sum(dim=1) for one, other in combinations(all_views(pairs), 2)]
    return (pairs.scale * torch.stack(cosines, dim=1)).logsumexp(dim=1)


def positive_cosines(pairs: Pairs, anchor: Modality, *, detach_other: bool = False) -> Float[Tensor, "n k"]:
    """Return the cosines of each anchor with all views of its other half.

    Args:
        anchor: Modality whose leading view is the anchor.
        detach_other: Give no gradient to the other half.
    """
    others = [pairs.view(name) for name in (pairs.text_names if anchor == "image" else pairs.image_names)]
    stacked = torch.stack([other.detach() for other in others] if detach_other else others, dim=1)
    return torch.einsum("nd,nkd->nk", pairs.view(anchor), stacked)
