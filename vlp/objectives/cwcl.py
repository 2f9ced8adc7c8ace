"""Softmax contrast with soft targets: pairs that a reference model finds alike count as partial matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.pairs import KMEAN, LSE, TOPK, Pairs, Request, Stats, affinity, nearness, pair_stats, products_at

KERNEL_TEMPERATURE = 0.07  # 0.05 to 0.1 keeps near-duplicates only
NUM_NEAREST = 8


@terms.register("cwcl")
class CwclTerm(Term):
    """Pull towards all samples in proportion to the similarity of their reference features, in one direction.

    Srinivasa et al. 2023 (arXiv:2309.14580); the other direction is plain softmax contrast. With the linear kernel
    the optimum separates a pair from unrelated ones by log 2 only: prefer the exp or topk kernel, or a small mix, from
    scratch.

    Formula: mean_i lse_j z_ij - sum_j w_ij z_ij / sum_j w_ij, plus mean_i lse_j z_ji - z_ii

    Args:
        kernel: `linear` is the paper's (1 + cosine) / 2 and costs sums of features only; `exp` is
            exp((cosine - 1) / kernel_temperature); `topk` is the linear one for the nearest `k` and 0 elsewhere.
        kernel_temperature: Of the `exp` kernel; None takes 0.07.
        k: Of the `topk` kernel, the sample itself included; None takes 8, and 1 is softmax contrast.
        mix: Share of the soft target; the rest stays on the pair. 1 is the paper's.
        anchor: Modality whose samples get soft targets; the paper's is that of the reference features.
        reduction: Of the two directions; `sum` is the paper's.

    Raises:
        ValueError: `mix` outside [0, 1], or a temperature or `k` that is not positive or set for another kernel.
    """

    needs = frozenset({"reference"})

    def __init__(
        self,
        *,
        kernel: Literal["linear", "exp", "topk"] = "linear",
        kernel_temperature: float | None = None,
        k: int | None = None,
        mix: float = 1.0,
        anchor: Literal["image", "text"] = "image",
        reduction: Literal["sum", "mean"] = "sum",
    ):
        super().__init__()
        if not 0 <= mix <= 1:
            raise ValueError(f"mix {mix} must lie in [0, 1]")
        for name, value, user in (("kernel_temperature", kernel_temperature, "exp"), ("k", k, "topk")):
            if value is not None and kernel != user:
                raise ValueError(f"{name} has no effect on the {kernel} kernel: set kernel to {user} or leave it out")
            if value is not None and value <= 0:
                raise ValueError(f"{name} {value} must be positive")
        self.mix = mix
        self.anchor = anchor
        self.num_nearest = k or NUM_NEAREST
        self.is_truncated = kernel == "topk"
        self.share = 0.5 if reduction == "mean" else 1.0
        self.rows, self.columns = LSE("row", mask="pair"), LSE("column", mask="pair")
        axis: Literal["row", "column"] = "row" if anchor == "image" else "column"
        self.is_linear = kernel == "linear"
        self.soft = KMEAN(
            axis, affinity() if self.is_linear else nearness(kernel_temperature or KERNEL_TEMPERATURE), mask="twin"
        )
        self.requests = {"image_text": (self.rows, self.columns, *(() if kernel != "exp" else (self.soft,)))}

    def plan(self, pairs: Pairs, /) -> Mapping[str, Sequence[Request]]:
        """Ask for linear means where sums of features would include twins."""
        more = (self.soft,) if self.is_linear and pairs.has_twins else ()
        return {"image_text": (*self.requests["image_text"], *more)}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        hard = pairs.miss(stats["image_text", self.rows]) + pairs.miss(stats["image_text", self.columns])
        soft_logits = self._soft_logits(pairs, stats)
        return self.share * pairs.mean(hard + self.mix * (pairs.positive_logits - soft_logits))

    def _soft_logits(self, pairs: Pairs, stats: Stats) -> Float[Tensor, " n"]:
        if self.is_truncated:
            return _nearest_mean(pairs, self.anchor, self.num_nearest)
        if self.is_linear and not pairs.has_twins:
            return _linear_mean(pairs, self.anchor)
        return stats["image_text", self.soft]


def _linear_mean(pairs: Pairs, anchor: Literal["image", "text"]) -> Float[Tensor, " n"]:
    """Return each anchor's mean logit under the weights (1 + cosine of references) / 2, from sums of features."""
    anchors, others = (pairs.image, pairs.text) if anchor == "image" else (pairs.text, pairs.image)
    reference = pairs.reference
    assert reference is not None
    feature_sum = pairs.total(others.sum(dim=0))
    feature_by_reference = pairs.total(others.T @ reference)
    reference_sum = pairs.total(reference.sum(dim=0))
    cosines = (anchors * (feature_sum + reference @ feature_by_reference.T)).sum(dim=1)
    weights = pairs.num_pairs + reference @ reference_sum
    return pairs.scale * cosines / weights


def _nearest_mean(pairs: Pairs, anchor: Literal["image", "text"], num_nearest: int) -> Float[Tensor, " n"]:
    """Return each anchor's mean logit over itself and its nearest references, under their linear weights."""
    num_others = min(num_nearest, pairs.num_pairs) - 1
    if num_others == 0:
        return pairs.positive_logits
    reference = pairs.reference
    assert reference is not None
    side = pairs.side_of(reference)
    nearest = TOPK("row", num_others)
    with torch.no_grad():
        block = pairs.block_of(side, side)
        positions = pair_stats({"references": block}, {"references": (nearest,)}, pairs.group)["references", nearest]
        absent = positions < 0
        weights = (1 + products_at(reference, side.everyone, positions.clamp(min=0))) / 2
        weights = weights.masked_fill(absent, 0)
    cosines = pairs.cosines_at(anchor, "text" if anchor == "image" else "image", positions).masked_fill(absent, 0)
    return pairs.scale * (pairs.positive_cosines + (weights * cosines).sum(dim=1)) / (1 + weights.sum(dim=1))
