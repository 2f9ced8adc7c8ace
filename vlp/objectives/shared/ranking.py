"""Candidates ranked as somebody else ranks them; the partner is the first."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


def candidates(right: Float[Tensor, " n"], wrong: Float[Tensor, "n k"]) -> Float[Tensor, "n c"]:
    """Return the numbers of partners beside those of others."""
    return torch.cat([right[:, None], wrong], dim=1)


def logits_of(
    numbers: Float[Tensor, "n c"], scale: Tensor | float, absent: Bool[Tensor, "n c"]
) -> Float[Tensor, "n c"]:
    """Scale; absent candidates get minus infinity, and a finite number before it, whose gradient is zero."""
    return (scale * numbers.masked_fill(absent, 0)).masked_fill(absent, -torch.inf)


def rank_as(
    ranking: Float[Tensor, "n c"], learnt: Float[Tensor, "n c"], absent: Bool[Tensor, "n c"], adversarial: float
) -> Float[Tensor, " n"]:
    """Return - sum_k q_k log p_k of two softmaxes, of a ranking and of what learns from it.

    Zhang et al. 2021 (arXiv:2110.03611). With an `adversarial` weight also that of the sum over the wrong candidates of
    log sigmoid(f_0 - f_k) log p_k, which raises those that the ranking takes for the partner.

    Args:
        ranking: Its logits f; `learnt`: those of the shares p.
    """
    log_shares = learnt.log_softmax(dim=1).masked_fill(absent, 0)
    loss = -(ranking.softmax(dim=1) * log_shares).sum(dim=1)
    if adversarial == 0:
        return loss
    fooled = functional.logsigmoid(ranking[:, :1] - ranking[:, 1:])
    return loss + adversarial * (fooled * log_shares[:, 1:]).sum(dim=1)
