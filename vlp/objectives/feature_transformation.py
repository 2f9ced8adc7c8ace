"""Softmax contrast of positives pushed apart and negatives blended, both by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import scipy  # whose parts are imported when they are used
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from vlp.ground.draws import below_one, uniform
from vlp.objectives.base import Term, terms
from vlp.objectives.shared.order import hashed_order
from vlp.objectives.shared.queue import IMAGES, TEXTS, FeatureQueue
from vlp.pairs import LSE, Pairs, Request, Stats, pair_stats, pick

SALT_OF_SHARES, SALT_OF_PARTNERS, SALT_OF_KEPT = 0xF7, 0xF8, 0xFA
KEPT = {"image": IMAGES, "text": TEXTS}
GRID = 1024


@terms.register("feature_transformation")
class FeatureTransformationTerm(Term):
    """Make pairs harder by extrapolation and negatives more varied by interpolation.

    Zhu et al. 2021, sections 4.2 and 4.3 (arXiv:2108.02982), there between views. Every step blends the batch in random
    couples, and with a `queue`, as in the paper, what is kept of the last batches too: a blend that holds the anchor's
    own partner, or a twin's, is no negative of it, so the anchor sees two entries less. Both towers get the gradient
    through the blends of the batch. Extrapolation keeps pulling on pairs that plain contrast has solved; it cannot help
    while pairs are still far apart.

    Formula: mean_i log(exp(scale cos(a_i, b_i)) + sum_{j not in {i, c(i)}} exp(scale x_i.n_j)) - scale cos(a_i, b_i) in
    both directions; a_i = l x_i + (1 - l) y_i, b_i = l y_i + (1 - l) x_i, l = 1 + Beta(positive);
    n_j = norm(m y_j + (1 - m) y_c(j)), m = Beta(negative), c a random exchange of couples; blends of the queue join the
    sum over j

    Args:
        positive: Both parameters of the Beta distribution of extrapolation; 0 leaves pairs as they are.
        negative: Likewise of interpolation.
        each_dimension: Draw a number of its own for each coordinate of a blend, as the authors' code can.
        queue: Embeddings of each modality that stay from the last batches (65536 in the paper); 0 keeps none.

    Raises:
        ValueError: Negative settings, or `each_dimension` without interpolation.
    """

    min_pairs = 3
    others = LSE("row", mask="label")
    requests = {"image_text": (others,)}

    def __init__(self, *, positive: float = 2.0, negative: float = 1.6, each_dimension: bool = False, queue: int = 0):
        super().__init__()
        if min(positive, negative, queue) < 0:
            raise ValueError(f"positive {positive}, negative {negative} and queue {queue} must not be negative")
        if each_dimension and not negative:
            raise ValueError("each_dimension is of interpolation, and negative: 0 leaves that out")
        self.each_dimension = each_dimension
        self.queue = FeatureQueue(queue) if queue else None
        self.gradient_is_slope = queue == 0  # what is kept changes from call to call
        self.extrapolate = BetaQuantiles(positive) if positive else None
        self.interpolate = BetaQuantiles(negative) if negative else None

    def create(self, embed_dim: int, /) -> None:
        if self.queue is not None:
            self.queue.create(embed_dim)

    def plan(self, _pairs: Pairs, /) -> Mapping[str, Sequence[Request]]:
        """Ask for nothing: `forward` does, once it has made the blends."""
        return {}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        positives = pairs.scale * self._positive_cosines(pairs)
        couples = self._couples(pairs)
        losses = []
        for column, (anchor, other) in enumerate((("image", "text"), ("text", "image")), 1):
            wrong = self._negatives(pairs, anchor, other, couples, column)
            if self.queue is not None:
                wrong = torch.logaddexp(wrong, self._kept(pairs, anchor, other))
            losses.append(functional.softplus(wrong - positives))
        if self.queue is not None:
            self.queue.push(pairs)
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

    def _negatives(self, pairs: Pairs, anchor: str, other: str, couples: Tensor, column: int) -> Float[Tensor, " n"]:
        """Return log-sum-exps over blends of what belongs to other anchors."""
        features = pairs.view(other)
        if self.interpolate is not None:
            share = self.interpolate(self._draws(pairs, features.shape[1], column))
            partner = pairs.gather_with_gradient(features)[pairs.local_part(couples)]
            features = functional.normalize(share * features + (1 - share) * partner, dim=1)
        ids = pairs.everyones_ids
        rows = replace(pairs.side(anchor), ids=ids, labels=ids)
        columns = replace(pairs.side_of(features), ids=ids, labels=ids[couples])
        asked = {"blends": (self.others,)}
        return pair_stats({"blends": pairs.block_of(rows, columns)}, asked, pairs.group)["blends", self.others]

    def _draws(self, pairs: Pairs, width: int, column: int) -> Float[Tensor, "n w"]:
        """Return a number for each local sample, or for each coordinate of it."""
        if not self.each_dimension:
            return pairs.draws(3, SALT_OF_SHARES)[:, column, None]
        return pairs.draws(width, SALT_OF_SHARES + column)

    def _kept(self, pairs: Pairs, anchor: str, other: str) -> Float[Tensor, " n"]:
        """Return log-sum-exps over blends of what is queued, in couples that change with the step."""
        assert self.queue is not None, "asked where there is one"
        queue, anchors, modality = self.queue, pairs.view(anchor), KEPT[other]
        if self.interpolate is None:
            return queue.log_sum(pairs, anchors, modality)
        kept = queue.of(modality, anchors.dtype)
        width = kept.shape[1] if self.each_dimension else 1
        places = torch.arange(queue.size, device=kept.device)
        draws = uniform(places, pairs.step, SALT_OF_KEPT + modality, 1 + width)
        # what is empty comes first, as in the queue, so that nothing is blended with it
        order = (draws[:, 0] + queue.is_filled).argsort()
        partners = torch.empty_like(order).scatter(0, order, order.roll(1))
        partners = torch.where(queue.is_filled[partners], partners, places)
        share = self.interpolate(below_one(draws[:, 1:], kept.dtype))
        blends = functional.normalize(share * kept + (1 - share) * kept[partners], dim=1)
        return queue.log_sum(pairs, anchors, modality, blends=(blends, queue.ids[partners]))


class BetaQuantiles(nn.Module):
    """Numbers of a symmetric Beta distribution out of uniform ones: its quantiles, linear between grid points."""

    table: Tensor

    def __init__(self, parameter: float):
        super().__init__()
        table = torch.as_tensor(scipy.special.betaincinv(parameter, parameter, np.linspace(0, 1, GRID + 1)))
        self.register_buffer("table", table, persistent=False)

    def forward(self, uniform: Tensor) -> Tensor:
        """Return one number for each, in the same order."""
        place = uniform * GRID
        below = pick(uniform, GRID)
        table = self.table.to(uniform.dtype)
        return torch.lerp(table[below], table[below + 1], place - below)
