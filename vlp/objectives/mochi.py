"""Softmax contrast with synthetic negatives, mixed of each anchor's hardest ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.negative_sums import NOTHING
from vlp.objectives.shared.queue import IMAGES, TEXTS, FeatureQueue
from vlp.pairs import LSE, TOPK, Axis, Pairs, Request, Stats, pick, products_at

SIDES: dict[Axis, tuple[str, str]] = {"row": ("image", "text"), "column": ("text", "image")}
KEPT = {"image": IMAGES, "text": TEXTS}
SALTS: dict[Axis, int] = {"row": 0x30C1, "column": 0x30C2}
PRODUCTS = 2**15  # inner products of chosen negatives at once: 128 MB of partners at width 512


@terms.register("mochi")
class MochiTerm(Term):
    """Add mixes of each anchor's hardest negatives to its negatives.

    Kalantidis et al. 2020, section 3.2 (arXiv:2010.01028), in both directions; within the batch, or with a queue of the
    last batches' embeddings, which are further negatives, as in the paper. For batches too small to hold hard
    negatives. Mixes and what is queued carry no gradient, anchors do. Mixes with the anchor itself cross the modality
    gap and lie off both clouds: `anchor_mixes` is best left at 0 for images and texts.

    Formula: mean_i log(exp(z_ii) + sum_{j != i} exp(z_ij) + sum_q exp(scale x_i.q) + sum_m exp(scale x_i.h_m)) - z_ii
    in both directions, q what is queued, h_m = norm(a n + (1 - a) n'), a uniform in (0, 1), n and n' among the hardest
    negatives of i

    Args:
        hardest: From how many negatives mixes are made, of the batch at most a quarter (1024 of 65536 in the paper).
        mixes: Of two negatives, for each anchor (1024 in the paper).
        anchor_mixes: Of the anchor, by less than a half, and a negative (128 in the paper).
        first_step: Mix from this step on (10 epochs in the paper).
        queue: Embeddings of each modality that stay from the last batches (65536 in the paper); 0 keeps none.

    Raises:
        ValueError: `hardest` below 1, or negative numbers.
    """

    min_pairs = 2

    def __init__(
        self, *, hardest: int = 64, mixes: int = 64, anchor_mixes: int = 0, first_step: int = 0, queue: int = 0
    ):
        super().__init__()
        if hardest < 1 or min(mixes, anchor_mixes, first_step, queue) < 0:
            raise ValueError(
                f"hardest {hardest} must be at least 1; mixes, anchor_mixes, first_step and queue must not be negative"
            )
        self.hardest, self.mixes, self.anchor_mixes, self.first_step = hardest, mixes, anchor_mixes, first_step
        self.queue = FeatureQueue(queue) if queue else None
        self.gradient_is_slope = mixes == anchor_mixes == queue == 0
        self.sums = {axis: LSE(axis, mask="pair") for axis in SIDES}
        self.requests = {"image_text": (*self.sums.values(), *(TOPK(axis, hardest) for axis in SIDES))}

    def create(self, embed_dim: int, /) -> None:
        if self.queue is not None:
            self.queue.create(embed_dim)

    def plan(self, pairs: Pairs, /) -> Mapping[str, Sequence[Request]]:
        """Ask for the hardest negatives where they are used, never for more than there are."""
        chosen = [self._chosen(pairs, axis) for axis in SIDES] if self._mixes_now(pairs) else []
        return {"image_text": (*self.sums.values(), *chosen)}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        misses = [pairs.miss(self._negatives(pairs, stats, axis)) for axis in SIDES]
        if self.queue is not None:
            self.queue.push(pairs)
        return pairs.mean(torch.stack(misses).mean(dim=0))

    def _mixes_now(self, pairs: Pairs) -> bool:
        return self.mixes + self.anchor_mixes > 0 and pairs.step >= self.first_step

    def _chosen(self, pairs: Pairs, axis: Axis) -> TOPK:
        return TOPK(axis, max(1, min(self.hardest, pairs.num_pairs // 4)))

    def _negatives(self, pairs: Pairs, stats: Stats, axis: Axis) -> Float[Tensor, " n"]:
        real = stats["image_text", self.sums[axis]]
        anchor, other = SIDES[axis]
        if self.queue is not None:
            real = torch.logaddexp(real, self.queue.log_sum(pairs, pairs.view(anchor), KEPT[other]))
        if not self._mixes_now(pairs):
            return real
        positions, bank = self._candidates(pairs, stats["image_text", self._chosen(pairs, axis)], axis)
        synthetic = (pairs.scale * self._mix(pairs, positions, bank, axis)).logsumexp(dim=1)
        return torch.logaddexp(real, synthetic.masked_fill((positions < 0).all(dim=1), NOTHING))

    def _candidates(
        self, pairs: Pairs, positions: Int64[Tensor, "n k"], axis: Axis
    ) -> tuple[Int64[Tensor, "n h"], Float[Tensor, "b d"]]:
        """Return each anchor's hardest negatives, the hardest first and then -1, as places among rows."""
        anchor, other = SIDES[axis]
        everyone = pairs.side(other).everyone
        if self.queue is None:
            return positions, everyone
        here = pairs.cosines_at(anchor, other, positions, detach_other=True).detach()
        kept, places = self.queue.hardest(pairs, pairs.view(anchor), KEPT[other], self.hardest)
        both = torch.cat([here, kept], dim=1).topk(min(self.hardest, here.shape[1] + kept.shape[1]), dim=1)
        joined = torch.cat([positions, places + len(everyone)], dim=1).gather(1, both.indices)
        bank = torch.cat([everyone, self.queue.of(KEPT[other], everyone.dtype)])
        return joined.masked_fill(both.values == -torch.inf, -1), bank

    def _mix(
        self, pairs: Pairs, positions: Int64[Tensor, "n k"], bank: Float[Tensor, "b d"], axis: Axis
    ) -> Float[Tensor, "n s"]:
        """Return each anchor's cosines with its mixes, which are never formed."""
        anchor = SIDES[axis][0]
        draws = pairs.draws(3 * self.mixes + 2 * self.anchor_mixes, SALTS[axis])
        shares, ranks = draws.tensor_split([self.mixes + self.anchor_mixes], dim=1)
        share, anchor_share = shares.tensor_split([self.mixes], dim=1)
        present = (positions >= 0).sum(dim=1, keepdim=True).clamp(min=1)  # the first so many; fewer beside twins
        chosen = pick(ranks, present)
        first, second, single = chosen.split([self.mixes, self.mixes, self.anchor_mixes], dim=1)
        positions = positions.clamp(min=0)
        cosines = products_at(pairs.view(anchor), bank, positions)
        between = _products(bank, positions.gather(1, first), positions.gather(1, second))
        of_negatives = _mixed(share, cosines.gather(1, first), cosines.gather(1, second), between)
        features, near = pairs.view(anchor), cosines.gather(1, single)
        with_itself = (features.detach() * features).sum(dim=1, keepdim=True)
        of_anchor = _mixed(anchor_share / 2, with_itself, near, near.detach())
        return torch.cat([of_negatives, of_anchor], dim=1)


def _mixed(share: Tensor, first: Tensor, second: Tensor, between: Tensor) -> Float[Tensor, "n s"]:
    """Return cosines with norm(share * a + (1 - share) * b), given those with a and with b and that between them."""
    squared = share**2 + (1 - share) ** 2 + 2 * share * (1 - share) * between
    return (share * first + (1 - share) * second) / squared.clamp(min=1e-12).sqrt()


def _products(
    features: Float[Tensor, "b d"], first: Int64[Tensor, "n s"], second: Int64[Tensor, "n s"]
) -> Float[Tensor, "n s"]:
    """Return products of chosen rows, piece by piece."""
    pieces = zip(first.flatten().split(PRODUCTS), second.flatten().split(PRODUCTS), strict=True)
    return torch.cat([(features[one] * features[other]).sum(dim=1) for one, other in pieces]).view(first.shape)
