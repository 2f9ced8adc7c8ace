"""Contrast with the whole data set's negatives, remembered per sample."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.schedule import Schedule
from vlp.pairs import LSE, Pairs, Stats

NEVER_SEEN = math.inf


@terms.register("sogclr")
class GlobalContrastTerm(Term):
    """Weigh each pair by how hard its negatives are in this batch, relative to a moving average over its past batches.

    SogCLR, Yuan et al. 2022, algorithm 1 (arXiv:2202.12387); with `gamma_steps` FastCLIP-v1 and with `budget` too
    FastCLIP-v3, Wei et al. 2024 (arXiv:2407.01445). The gradient is that of temperature * log of the mean over the
    data set; the value has no meaning of its own. Averages are kept as logarithms, one per sample and direction, keyed
    by sample id and saved in checkpoints. At a sample's first visit this is dcl: it takes epochs to matter.

    Formula: mean_i [exp(log g_i - log u_i) (lse_{j != i} z_ij - z_ii)] / scale in both directions, no gradient through
    the brackets' first factor; log g_i = lse_{j != i} z_ij - z_ii - log(B - 1); u_i = (1 - gamma) u_i + gamma g_i

    Args:
        gamma: Weight of this batch in the average.
        gamma_steps: Let gamma fall from 1 to its value in so many steps, along half a cosine (FastCLIP: half of the
            training, to 0.2).
        budget: Learn one temperature at which the negatives' weights have this Kullback-Leibler divergence from
            uniform ones, in nats, below the log of the data set's size (FastCLIP-v3: 6.5 for CC3M, 8.5 for CC12M).

    Raises:
        ValueError: `gamma` outside (0, 1], or a negative `gamma_steps` or `budget`.
    """

    needs = frozenset({"ids"})
    min_pairs = 2
    gradient_is_slope = False
    rows, columns = LSE("row", mask="pair"), LSE("column", mask="pair")
    requests = {"image_text": (rows, columns)}
    log_means: Tensor
    num_updates: Tensor

    def __init__(self, *, gamma: float = 0.8, gamma_steps: int = 0, budget: float | None = None):
        super().__init__()
        if not 0 < gamma <= 1:
            raise ValueError(f"gamma {gamma} must lie in (0, 1]")
        if gamma_steps < 0 or (budget is not None and budget < 0):
            raise ValueError(f"gamma_steps {gamma_steps} and budget {budget} must not be negative")
        self.gamma = Schedule(start=gamma)
        if gamma_steps:
            self.gamma = Schedule(start=1.0, end=gamma, last_step=gamma_steps, shape="cosine")
        self.budget = budget
        self.fixed_scale_advised = budget is None
        self.register_buffer("log_means", torch.full((0, 2), NEVER_SEEN))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        sums = torch.stack([stats["image_text", self.rows], stats["image_text", self.columns]], dim=1)
        decoupled = sums - pairs.positive_logits[:, None]
        here = decoupled.detach() - math.log(pairs.num_pairs - 1)
        means = self._update(pairs, here)
        temperature = 1 / pairs.scale
        losses = temperature.detach() * (here - means).exp() * decoupled
        if self.budget is not None:
            losses = losses + temperature * (means + self.budget)
        return pairs.mean(losses.mean(dim=1))

    def _update(self, pairs: Pairs, here: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
        """Move the averages of the whole batch's samples, on every process alike; return those of the local ones."""
        ids, inverse, counts = pairs.everyones_ids.unique(return_inverse=True, return_counts=True)
        everyone = pairs.gather(here)
        self._make_room(int(ids[-1]) + 1, everyone.device)
        # a sample that stands twice in a batch counts once, with the mean of its values
        largest = everyone.new_full((len(ids), 2), -math.inf).index_reduce_(0, inverse, everyone, "amax")
        sums = torch.zeros_like(largest).index_add_(0, inverse, (everyone - largest[inverse]).exp())
        now = sums.log() + largest - counts[:, None].log()
        before = self.log_means[ids].to(now.dtype)
        gamma = self.gamma(int(self.num_updates))
        moved = torch.logaddexp(before + math.log1p(-gamma), now + math.log(gamma)) if gamma < 1 else now
        after = moved.where(before != NEVER_SEEN, now)
        after = after.where(now.isfinite(), before)
        self.log_means[ids] = after.to(self.log_means.dtype)
        self.num_updates += 1
        return pairs.local_part(after[inverse])

    def _make_room(self, size: int, device: torch.device) -> None:
        missing = size - len(self.log_means)
        if missing > 0:
            self.log_means = torch.cat([self.log_means.to(device), self.log_means.new_full((missing, 2), NEVER_SEEN)])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        saved = state_dict.get(f"{prefix}log_means")
        if saved is not None:
            self.log_means = self.log_means.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)
