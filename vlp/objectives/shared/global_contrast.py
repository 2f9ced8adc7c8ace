"""Contrast against moving averages over a data set's negatives (SogCLR): what terms that keep them have in common."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.shared.memory import NewestWeight, SampleMemory, Visits, moving_log_mean
from vlp.objectives.shared.negative_sums import excess, lacks, log_num_negatives
from vlp.pairs import Pairs


def global_contrast(
    pairs: Pairs,
    sums: Float[Tensor, "n 2"],
    right: Float[Tensor, " n"],
    *,
    memory: SampleMemory,
    num_updates: Tensor,
    gamma: NewestWeight,
    budget: float | None,
) -> Float[Tensor, ""]:
    """Return this process's share, and move the averages of the batch's samples, on every process alike.

    Args:
        sums: Log-sum-exps of the logits of negatives, of images and of texts.
        right: Logits of positives.
        memory: Logs of the averages, images' and texts', by sample id.
        num_updates: How often they were moved; counts this time.
        gamma: Weight of this batch in the averages.
        budget: Divergence from uniform weights that the temperature is to keep; None leaves it alone.
    """
    empty = lacks(sums)
    decoupled = excess(sums, right[:, None])
    here = decoupled.detach() - log_num_negatives(pairs)[:, None].to(sums.dtype)
    means = _move(pairs, here.masked_fill(empty, -torch.inf), memory, gamma(num_updates)).masked_fill(empty, 0)
    num_updates += 1
    temperature = 1 / pairs.scale
    losses = temperature.detach() * (here - means).exp() * decoupled
    if budget is not None:
        losses = losses + temperature * (means + budget)
    return pairs.mean(losses.masked_fill(empty, 0).mean(dim=1))


def _move(pairs: Pairs, here: Float[Tensor, "n 2"], memory: SampleMemory, gamma: Tensor) -> Float[Tensor, "n 2"]:
    """Move the averages of the whole batch's samples; return those of the local ones."""
    visits = Visits(pairs.everyones_ids)
    now = visits.log_mean_exp(pairs.gather(here))
    before = memory.read(visits.ids, now.dtype)
    after = moving_log_mean(before, now, gamma)
    memory.write(visits.ids, after)
    return pairs.local_part(after[visits.places])
