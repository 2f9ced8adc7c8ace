"""Pull pairs together and push negatives away, each with the same force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.hardest import check_fraction, cosines_of, hardest_share, within_share
from vlp.objectives.shared.negative_sums import lacks, sum_of_negatives
from vlp.pairs import Pairs, Request, Stats


@terms.register("simple")
class SimpleTerm(Term):
    """Raise the cosine of each pair, lower the mean cosine of its negatives, or of the hardest ones among them.

    Wang and Liu 2021 (arXiv:2012.09740): the limit of softmax contrast at high temperature. A baseline: with all
    negatives alike it learns poorly; with a `fraction` the paper finds it as good as the best temperature. The model's
    scale plays no part.

    Formula: strength * mean_i mean_{j in H_i} cosine_ij - mean_i cosine_ii in both directions, H_i the negatives

    Args:
        strength: Of the push; the paper's lambda is this divided by the number of negatives that count.
        fraction: Share of the negatives that counts, the hardest, at least one; None is all of them and costs sums of
            features only.

    Raises:
        ValueError: `fraction` outside (0, 1], or a negative `strength`.
    """

    min_pairs = 2

    def __init__(self, *, strength: float = 1.0, fraction: float | None = None):
        super().__init__()
        if strength < 0:
            raise ValueError(f"strength {strength} must not be negative")
        if fraction is not None:
            check_fraction(fraction)
            self.requests = {"image_text": ()}
        self.strength = strength
        self.fraction = fraction

    def plan(self, pairs: Pairs) -> Mapping[str, Sequence[Request]]:
        return {} if self.fraction is None else {"image_text": hardest_share(pairs, self.fraction)}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        push = _mean_of_all(pairs) if self.fraction is None else _mean_of_hardest(pairs, stats, self.fraction)
        return self.strength * push - pairs.mean(pairs.positive_cosines)


def _mean_of_all(pairs: Pairs) -> Float[Tensor, ""]:
    """Return this process's share of the mean cosine of different pairs, the same in both directions."""
    if pairs.has_twins:
        sums = sum_of_negatives(pairs, "image", "text") + sum_of_negatives(pairs, "text", "image")
        return pairs.mean(sums / (2 * pairs.num_negatives.clamp(min=1)).to(sums.dtype))
    everything = pairs.share(pairs.num_pairs * (pairs.mean_image @ pairs.mean_text))
    return (everything - pairs.mean(pairs.positive_cosines)) / (pairs.num_pairs - 1)


def _mean_of_hardest(pairs: Pairs, stats: Stats, fraction: float) -> Float[Tensor, ""]:
    requests = hardest_share(pairs, fraction)
    cosines = torch.cat([within_share(pairs, fraction, cosines_of(pairs, stats, r)) for r in requests], dim=1)
    if not pairs.has_twins:
        return pairs.mean(cosines.mean(dim=1))
    absent = lacks(cosines)
    return pairs.mean(cosines.masked_fill(absent, 0).sum(dim=1) / (~absent).sum(dim=1).clamp(min=1))
