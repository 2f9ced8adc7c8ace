"""Softmax contrast of positives pushed apart and negatives blended, both by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.special import betaincinv
from torch import Tensor, nn
from torch.nn import functional

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.order import hashed_order
from vlp.pairs import LSE, Pairs, Request, Stats, pair_stats, pick

SALT_OF_SHARES, SALT_OF_PARTNERS = 0xF7, 0xF8
GRID = 1024


@terms.register("feature_transformation")
class FeatureTransformationTerm(Term):
    """Make pairs harder by extrapolation and negatives more varied by interpolation.

    Zhu et al. 2021, sections 4.2 and 4.3 (arXiv:2108.02982), there between views and with a queue. Every step blends
    the batch in random couples: a blend that holds the anchor's own partner, or a twin's, is no negative of it, so the
    anchor sees two entries less. Both towers get the gradient through the blends. Extrapolation keeps pulling on pairs
    that plain contrast has solved; it cannot help while pairs are still far apart.

    Formula: mean_i log(exp(scale cos(a_i, b_i)) + sum_{j not in {i, c(i)}} exp(scale x_i.n_j)) - scale cos(a_i, b_i) in
    both directions; a_i = l x_i + (1 - l) y_i, b_i = l y_i + (1 - l) x_i, l = 1 + Beta(positive);
    n_j = norm(m y_j + (1 - m) y_c(j)), m = Beta(negative), c a random exchange of couples

    Args:
        positive: Both parameters of the Beta distribution of extrapolation; 0 leaves pairs as they are.
        negative: Likewise of interpolation.

    Raises:
        ValueError: Negative settings.
    """

    min_pairs = 3
    others = LSE("row", mask="label")
    requests = {"image_text": (others,)}

    def __init__(self, *, positive: float = 2.0, negative: float = 1.6):
        super().__init__()
        if positive < 0 or negative < 0:
            raise ValueError(f"positive {positive} and negative {negative} must not be negative")
        self.extrapolate = BetaQuantiles(positive) if positive else None
        self.interpolate = BetaQuantiles(negative) if negative else None

    def plan(self, _pairs: Pairs, /) -> Mapping[str, Sequence[Request]]:
        """Ask for nothing: `forward` does, once it has made the blends."""
        return {}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        positives = pairs.scale * self._positive_cosines(pairs)
        couples = self._couples(pairs)
        shares = pairs.draws(3, SALT_OF_SHARES)
        losses = [
            functional.softplus(self._negatives(pairs, anchor, other, couples, share) - positives)
            for anchor, other, share in (("image", "text", shares[:, 1]), ("text", "image", shares[:, 2]))
        ]
        return pairs.mean(torch.stack(losses).mean(dim=0))

    def _positive_cosines(self, pairs: Pairs) -> Float[Tensor, " n"]:
        if self.extrapolate is None:
            return pairs.positive_cosines
        factor = 1 + self.extrapolate(pairs.draws(3, SALT_OF_SHARES)[:, :1])
        image = factor * pairs.image + (1 - factor) * pairs.text
        text = factor * pairs.text + (1 - factor) * pairs.image
        return functional.cosine_similarity(image, text, dim=1)

    def _couples(self, pairs: Pairs) -> Int64[Tensor, " b"]:
        """Return whom each sample of the whole batch is blended with: itself where one is left over, or always."""
        order = hashed_order(pairs, SALT_OF_PARTNERS)
        partners = torch.arange(len(order), device=order.device)
        if self.interpolate is not None:
            even = len(order) // 2 * 2
            first, second = order[:even:2], order[1:even:2]
            partners[first], partners[second] = second, first
        return partners

    def _negatives(self, pairs: Pairs, anchor: str, other: str, couples: Tensor, draws: Tensor) -> Float[Tensor, " n"]:
        """Return log-sum-exps over blends of what belongs to other anchors."""
        features = pairs.view(other)
        if self.interpolate is not None:
            share = self.interpolate(draws[:, None])
            partner = pairs.gather_with_gradient(features)[pairs.local_part(couples)]
            features = functional.normalize(share * features + (1 - share) * partner, dim=1)
        ids = pairs.everyones_ids
        rows = replace(pairs.side(anchor), ids=ids, labels=ids)
        columns = replace(pairs.side_of(features), ids=ids, labels=ids[couples])
        asked = {"blends": (self.others,)}
        return pair_stats({"blends": pairs.block_of(rows, columns)}, asked, pairs.group)["blends", self.others]


class BetaQuantiles(nn.Module):
    """Numbers of a symmetric Beta distribution out of uniform ones: its quantiles, linear between grid points."""

    table: Tensor

    def __init__(self, parameter: float):
        super().__init__()
        table = torch.as_tensor(betaincinv(parameter, parameter, np.linspace(0, 1, GRID + 1)))
        self.register_buffer("table", table, persistent=False)

    def forward(self, uniform: Tensor) -> Tensor:
        """Return one number for each, in the same order."""
        place = uniform * GRID
        below = pick(uniform, GRID)
        table = self.table.to(uniform.dtype)
        return torch.lerp(table[below], table[below + 1], place - below)
