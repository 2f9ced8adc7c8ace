"""Contrast with the whole data set's negatives, at a temperature of each sample's own."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.ground.types import VlpWarning
from vlp.objectives.base import Term, terms
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
from vlp.pairs import LSE, WMEAN, Pairs, Request, Stats, pair_stats

LOG_MEANS, TEMPERATURES, MOMENTS = slice(0, 2), slice(2, 4), slice(4, None)  # of images, of texts
BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8
LARGEST_SLOPE = 5.0
NEWEST_SHARE = 0.9  # of the newest slope in the velocity, as in the released code


@terms.register("isogclr")
class IndividualTemperatureTerm(Term):
    """Give each image and each text the temperature at which its negatives spend a budget, remembered per sample.

    Qiu et al. 2023 (arXiv:2305.11965); with `gamma_steps` and steps of Adam for each temperature by itself FastCLIP-v2,
    Wei et al. 2024 (arXiv:2407.01445). The model's scale takes no part. Use it where common concepts need soft and rare
    ones sharp contrast, over many epochs: like `sogclr` it works through samples that come again. A budget above the
    log of the number of negatives drives all temperatures to the floor.

    Formula: mean_i t_i [exp(log g_i - log u_i) (lse_{j != i} s_ij / t_i - s_ii / t_i)] in both directions, no gradient
    through t_i and the brackets' first factor; u_i as in sogclr; t_i -= step_size * (budget - KL_i), KL_i being the
    divergence of the softmax of s_ij / t_i over j != i from uniform weights

    Args:
        gamma: Weight of this batch in the average.
        gamma_steps: As for sogclr.
        budget: Divergence that each sample's temperature settles at, in nats; exp(-budget) is the share of the
            negatives that count (6 for CC3M).
        temperature: Where each sample starts.
        step_size: Of the temperatures' descent (FastCLIP-v2: 0.0133).
        rule: How temperatures descend: by a slope that is mostly the newest, or by Adam, whose moments count the visits
            of a sample as the authors' count epochs.
        epsilon: Added to the averages (FastCLIP: 1e-14, for LAION 1e-6).
        min_temperature: No temperature falls below it.
        max_temperature: None rises above it.

    Raises:
        ValueError: `gamma` outside (0, 1], a `budget` or `step_size` that is not positive, a negative `gamma_steps` or
            `epsilon`, or temperatures that are not in order.
    """

    needs = frozenset({"ids"})
    min_pairs = 2
    gradient_is_slope = False
    sums = (LSE("row", individual=True, mask="pair"), LSE("column", individual=True, mask="pair"))
    means = (WMEAN("row", individual=True, mask="pair"), WMEAN("column", individual=True, mask="pair"))
    requests = {"image_text": (*sums, *means)}
    num_updates: Tensor
    divergence: Tensor

    def __init__(
        self,
        *,
        gamma: float = 0.8,
        gamma_steps: int = 0,
        budget: float = 6.0,
        temperature: float = 0.01,
        step_size: float = 0.03,
        rule: Literal["momentum", "adam"] = "momentum",
        epsilon: float = 0.0,
        min_temperature: float = 0.005,
        max_temperature: float = 1.0,
    ):
        super().__init__()
        if budget <= 0 or step_size <= 0 or epsilon < 0:
            raise ValueError(f"budget {budget} and step_size {step_size} must be positive, epsilon {epsilon} from 0 up")
        if not 0 < min_temperature <= temperature <= max_temperature:
            raise ValueError(f"0 < {min_temperature} <= {temperature} <= {max_temperature} must hold of temperatures")
        self.gamma = NewestWeight(gamma, gamma_steps)
        self.budget, self.step_size = budget, step_size
        self.range = min_temperature, max_temperature
        self.is_adam, self.epsilon = rule == "adam", epsilon
        moments = 6 if self.is_adam else 2
        self.memory = SampleMemory([NEVER_SEEN] * 2 + [temperature] * 2 + [0.0] * moments)
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("divergence", torch.zeros(2))
        self._has_warned = False

    def expect(self, num_samples: int, /) -> None:
        check_budget(self.budget, num_samples)
        self.memory.reserve(num_samples)

    def plan(self, _pairs: Pairs, /) -> Mapping[str, Sequence[Request]]:
        """Ask for nothing: `forward` does, once it has looked up the temperatures."""
        return {}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        self._check_budget(pairs.num_pairs)
        visits = Visits(pairs.everyones_ids)
        before = self.memory.read(visits.ids, pairs.image.dtype)
        everyones = before[visits.places, TEMPERATURES]
        sums, means = self._ask(pairs, everyones)
        temperatures = pairs.local_part(everyones)
        positives = pairs.positive_cosines[:, None] / temperatures
        empty = lacks(sums)
        decoupled = excess(sums, positives)
        here = decoupled.detach() - log_num_negatives(pairs)[:, None].to(sums.dtype)
        gaps = means - positives.detach()
        log_means = self._update(
            pairs, visits, before, here.masked_fill(empty, -torch.inf), gaps.masked_fill(empty, torch.nan)
        )
        losses = temperatures * (here - raised(log_means, self.epsilon)).exp() * decoupled
        return pairs.mean(losses.mean(dim=1))

    def gauges(self) -> dict[str, float]:
        """Return, by direction: the last batch's mean divergence, to be compared with the budget
        (`kl_image`, `kl_text`), and percentiles of the temperatures of all samples seen so far (`t10_image`, ...)."""
        seen = self.memory.rows[self.memory.rows[:, 0] != NEVER_SEEN, TEMPERATURES].sort(dim=0).values
        numbers = {}
        for k, side in enumerate(("image", "text")):
            numbers[f"kl_{side}"] = float(self.divergence[k])
            for percent in (10, 50, 90) if len(seen) else ():
                numbers[f"t{percent}_{side}"] = float(seen[percent * (len(seen) - 1) // 100, k])
        return numbers

    def _check_budget(self, num_pairs: int) -> None:
        if not self._has_warned and self.budget >= math.log(num_pairs - 1):
            self._has_warned = True
            warnings.warn(
                f"isogclr: {num_pairs - 1} negatives in a batch bound the divergence by {math.log(num_pairs - 1):.2f}, "
                f"budget {self.budget} is not below it: temperatures may all fall to {self.range[0]}",
                VlpWarning,
                stacklevel=2,
            )

    def _ask(self, pairs: Pairs, temperatures: Float[Tensor, "b 2"]) -> tuple[Tensor, Tensor]:
        """Return log-sum-exps and softmax means of cosine / temperature over the negatives, by direction."""
        images, texts = (
            replace(pairs.side(name), scales=1 / own)
            for name, own in zip(("image", "text"), temperatures.unbind(dim=1), strict=True)
        )
        stats = pair_stats({"image_text": pairs.block_of(images, texts)}, self.requests, pairs.group)
        sums, means = ([stats["image_text", request] for request in both] for both in (self.sums, self.means))
        return torch.stack(sums, dim=1), torch.stack(means, dim=1).detach()

    @torch.no_grad()
    def _update(self, pairs: Pairs, visits: Visits, before: Tensor, here: Tensor, gaps: Tensor) -> Tensor:
        """Move averages and temperatures of the whole batch on every process alike; return the local log averages."""
        everyone, gaps = pairs.gather(torch.cat([here, gaps], dim=1)).chunk(2, dim=1)
        gamma = self.gamma(self.num_updates)
        log_means = moving_log_mean(before[:, LOG_MEANS], visits.log_mean_exp(everyone), gamma)
        own = raised(log_means, self.epsilon)[visits.places]
        slopes = visits.mean(own + self.budget - (everyone - own).exp() * gaps).clamp(-LARGEST_SLOPE, LARGEST_SLOPE)
        steps, moments = (adam_steps if self.is_adam else newest_steps)(slopes, before[:, MOMENTS])
        temperatures = (before[:, TEMPERATURES] - self.step_size * steps).clamp(*self.range)
        after = torch.cat([log_means, temperatures, moments], dim=1)
        self.memory.write(visits.ids, after.where(after.isfinite().all(dim=1, keepdim=True), before))
        divergence = (gaps - everyone).mean(dim=0)
        self.divergence.copy_(divergence.where(divergence.isfinite(), self.divergence.to(divergence)))
        self.num_updates += 1
        return pairs.local_part(log_means[visits.places])


def newest_steps(slopes: Float[Tensor, "b 2"], moments: Float[Tensor, "b 2"]) -> tuple[Tensor, Tensor]:
    """Return an average of slopes that is mostly the newest; it is its own memory."""
    velocities = NEWEST_SHARE * slopes + (1 - NEWEST_SHARE) * moments
    return velocities, velocities


def adam_steps(slopes: Float[Tensor, "b 2"], moments: Float[Tensor, "b 6"]) -> tuple[Tensor, Tensor]:
    """Return steps of Adam, and means of slopes, means of their squares, and numbers of visits to remember.

    As in the authors' code the first visit sets both means to what it finds, and their correction is for means that
    had begun at 0 all the same.
    """
    means, squares, visits = moments.split(2, dim=1)
    visits = visits + 1
    first = visits == 1
    means = torch.where(first, slopes, BETAS[0] * means + (1 - BETAS[0]) * slopes)
    squares = torch.where(first, slopes.square(), BETAS[1] * squares + (1 - BETAS[1]) * slopes.square())
    corrections = [torch.where(first, 1.0, 1 - beta**visits) for beta in BETAS]
    steps = means / corrections[0] / ((squares / corrections[1]).sqrt() + ADAM_EPSILON)
    return steps, torch.cat([means, squares, visits], dim=1)
