"""What an attack climbs: losses of the scores that a model gives to changed inputs, one number per sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from vlp.attacks.pgd import gradient_of

Scores = Float32[Tensor, "n m"]
Right = Bool[Tensor, "n m"]
ScoreLoss = Callable[[Scores, Right], Float32[Tensor, " n"]]
FLOOR = 1e-12  # of a spread of scores that a loss is divided by


@dataclass(frozen=True)
class Problem:
    """Some samples, what the model says of them, and what it should not.

    Args:
        embed: Inputs of any change to embeddings of unit norm, in float32.
        candidates: What each embedding is held against.
        positives: Which candidates are right for each sample.
        scale: The model's inverse temperature: without it the cross-entropy hardly moves, and attacks by it fail.
    """

    embed: Callable[[Tensor], Float32[Tensor, "n d"]]
    candidates: Float32[Tensor, "m d"]
    positives: Right
    scale: float

    def scores(self, inputs: Tensor) -> Scores:
        """Return scale times cosine of inputs with all candidates."""
        return self.scale * self.embed(inputs) @ self.candidates.T

    def at(self, chosen: Tensor) -> Problem:
        """Return the same of some samples.

        Args:
            chosen: Their places, or which they are.
        """
        return replace(self, positives=self.positives[chosen])

    @torch.no_grad()
    def judge(self, inputs: Tensor, loss: ScoreLoss) -> Judged:
        """Say how inputs do, without a gradient."""
        scores = self.scores(inputs)
        return Judged(loss(scores, self.positives), margin(scores, self.positives) > 0)

    def climb(self, inputs: Tensor, loss: ScoreLoss) -> tuple[Judged, Tensor]:
        """Say how inputs do, and which way the loss grows."""
        seen: list[Judged] = []

        def follow(values: Tensor) -> Float32[Tensor, " n"]:
            scores = self.scores(values)
            losses = loss(scores, self.positives)
            seen.append(Judged(losses.detach(), margin(scores.detach(), self.positives) > 0))
            return losses

        gradient = gradient_of(follow, inputs)
        return seen[0], gradient


@dataclass(frozen=True)
class Judged:
    """How changed inputs do.

    Args:
        loss: What the attack climbs.
        is_wrong: Whether a wrong candidate scores more than every right one.
    """

    loss: Float32[Tensor, " n"]
    is_wrong: Bool[Tensor, " n"]


def best_right(scores: Scores, positives: Right) -> Float32[Tensor, " n"]:
    """Return the score of the best right candidate."""
    return scores.masked_fill(~positives, -torch.inf).amax(dim=1)


def best_wrong(scores: Scores, positives: Right) -> Float32[Tensor, " n"]:
    """Return the score of the best wrong candidate."""
    return scores.masked_fill(positives, -torch.inf).amax(dim=1)


def cross_entropy(scores: Scores, positives: Right) -> Float32[Tensor, " n"]:
    """Return minus the logarithm of what the softmax gives to the right candidates together."""
    return scores.logsumexp(dim=1) - scores.masked_fill(~positives, -torch.inf).logsumexp(dim=1)


def margin(scores: Scores, positives: Right) -> Float32[Tensor, " n"]:
    """Return by how much the best wrong candidate is ahead of the best right one (Carlini and Wagner 2017)."""
    return best_wrong(scores, positives) - best_right(scores, positives)


def logit_ratio(scores: Scores, positives: Right) -> Float32[Tensor, " n"]:
    """Return the margin over the spread of the best three scores, whatever the scale: DLR.

    Croce and Hein 2020, equation 6 (arXiv:2003.01690); with fewer than three candidates, the margin.
    """
    if scores.shape[1] < 3:
        return margin(scores, positives)
    best = scores.topk(3, dim=1).values
    return margin(scores, positives) / (best[:, 0] - best[:, 2]).clamp(min=FLOOR)


def towards(targets: Sequence[int] | Tensor) -> ScoreLoss:
    """Return the loss that grows as a certain wrong candidate comes ahead: targeted DLR.

    Croce and Hein 2020, equation 7; with fewer than four candidates, the margin to the target.

    Args:
        targets: A candidate for each sample.
    """

    def ratio(scores: Scores, positives: Right) -> Float32[Tensor, " n"]:
        places = torch.as_tensor(targets, device=scores.device)[:, None]
        ahead = scores.gather(1, places)[:, 0] - best_right(scores, positives)
        if scores.shape[1] < 4:
            return ahead
        best = scores.topk(4, dim=1).values
        return ahead / (best[:, 0] - (best[:, 2] + best[:, 3]) / 2).clamp(min=FLOOR)

    return ratio
