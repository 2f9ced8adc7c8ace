"""Contrast against moving averages over a data set's negatives (SogCLR): what terms that keep them have in common."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term
from vlp.objectives.shared.memory import (
    NEVER_SEEN,
    NewestWeight,
    SampleMemory,
    Visits,
    check_budget,
    moving_log_mean,
    raised,
)
from vlp.objectives.shared.negative_sums import excess, lacks, log_num_negatives
from vlp.pairs import Pairs


class GlobalContrast(Term):
    """A term that weighs each pair by its negatives, relative to a moving average over its past batches.

    Args:
        gamma: Weight of this batch in the averages.
        gamma_steps: Let gamma fall from 1 to its value in so many steps.
        budget: Divergence from uniform weights that the temperature is to keep; None leaves it alone.
        epsilon: Added to the averages that weigh pairs.

    Raises:
        ValueError: `gamma` outside (0, 1], or a negative `gamma_steps`, `budget` or `epsilon`.
    """

    min_pairs = 2
    gradient_is_slope = False
    num_updates: Tensor

    def __init__(self, gamma: float, gamma_steps: int, budget: float | None, epsilon: float = 0.0):
        super().__init__()
        if (budget is not None and budget < 0) or epsilon < 0:
            raise ValueError(f"budget {budget} and epsilon {epsilon} must not be negative")
        self.epsilon = epsilon
        self.gamma = NewestWeight(gamma, gamma_steps)
        self.budget = budget
        self.fixed_scale_advised = budget is None
        self.memory = SampleMemory([NEVER_SEEN, NEVER_SEEN])
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))

    @property
    def log_means(self) -> Float[Tensor, "ids 2"]:
        """Logs of the averages, images' and texts', by sample id."""
        return self.memory.rows

    def expect(self, num_samples: int, /) -> None:
        """Keep an average for each sample of the data set."""
        if self.budget is not None:
            check_budget(self.budget, num_samples)
        self.memory.reserve(num_samples)

    def contrast(self, pairs: Pairs, sums: Float[Tensor, "n 2"], right: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """Return this process's share, and move the averages of the batch's samples, on every process alike.

        Args:
            sums: Log-sum-exps of the logits of negatives, of images and of texts.
            right: Logits of positives.
        """
        empty = lacks(sums)
        decoupled = excess(sums, right[:, None])
        here = decoupled.detach() - log_num_negatives(pairs)[:, None].to(sums.dtype)
        gamma = self.gamma(self.num_updates)
        means = _move(pairs, here.masked_fill(empty, -torch.inf), self.memory, gamma).masked_fill(empty, 0)
        self.num_updates += 1
        temperature = 1 / pairs.scale
        losses = temperature.detach() * (here - raised(means, self.epsilon)).exp() * decoupled
        if self.budget is not None:
            losses = losses + temperature * (means + self.budget)
        return pairs.mean(losses.masked_fill(empty, 0).mean(dim=1))


def _move(pairs: Pairs, here: Float[Tensor, "n 2"], memory: SampleMemory, gamma: Tensor) -> Float[Tensor, "n 2"]:
    """Move the averages of the whole batch's samples; return those of the local ones."""
    visits = Visits(pairs.everyones_ids)
    now = visits.log_mean_exp(pairs.gather(here))
    before = memory.read(visits.ids, now.dtype)
    after = moving_log_mean(before, now, gamma)
    memory.write(visits.ids, after)
    return pairs.local_part(after[visits.places])
