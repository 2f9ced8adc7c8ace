"""Softmax contrast with soft targets: pairs that a reference model finds alike count as partial matches."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.pairs import KMEAN, LSE, Pairs, Stats, nearness

KERNEL_TEMPERATURE = 0.07  # 0.05 to 0.1 keeps near-duplicates only


@terms.register("cwcl")
class CwclTerm(Term):
    """Pull towards all samples in proportion to the similarity of their reference features, in one direction.

    Srinivasa et al. 2023 (arXiv:2309.14580); the other direction is plain softmax contrast. With the linear kernel
    the optimum separates a pair from unrelated ones by log 2 only: prefer the exp kernel or a small mix from scratch.

    Formula: mean_i lse_j z_ij - sum_j w_ij z_ij / sum_j w_ij, plus mean_i lse_j z_ji - z_ii

    Args:
        kernel: `linear` is the paper's (1 + cosine) / 2 and costs sums of features only; `exp` is
            exp((cosine - 1) / kernel_temperature).
        kernel_temperature: Of the `exp` kernel; None takes `KERNEL_TEMPERATURE`.
        mix: Share of the soft target; the rest stays on the pair. 1 is the paper's.
        anchor: Modality whose samples get soft targets; the paper's is that of the reference features.
        reduction: Of the two directions; `sum` is the paper's.

    Raises:
        ValueError: `mix` outside [0, 1], or a temperature that is not positive or set for the linear kernel.
    """

    needs = frozenset({"reference"})

    def __init__(
        self,
        *,
        kernel: Literal["linear", "exp"] = "linear",
        kernel_temperature: float | None = None,
        mix: float = 1.0,
        anchor: Literal["image", "text"] = "image",
        reduction: Literal["sum", "mean"] = "sum",
    ):
        super().__init__()
        if not 0 <= mix <= 1:
            raise ValueError(f"mix {mix} must lie in [0, 1]")
        if kernel == "linear" and kernel_temperature is not None:
            raise ValueError("kernel_temperature has no effect on the linear kernel: set kernel to exp or leave it out")
        if kernel_temperature is not None and kernel_temperature <= 0:
            raise ValueError(f"kernel_temperature {kernel_temperature} must be positive")
        self.mix = mix
        self.anchor = anchor
        self.share = 0.5 if reduction == "mean" else 1.0
        self.rows, self.columns = LSE("row", mask="pair"), LSE("column", mask="pair")
        axis: Literal["row", "column"] = "row" if anchor == "image" else "column"
        self.soft = KMEAN(axis, nearness(kernel_temperature or KERNEL_TEMPERATURE)) if kernel == "exp" else None
        self.requests = {"image_text": (self.rows, self.columns) + ((self.soft,) if self.soft else ())}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        hard = pairs.miss(stats["image_text", self.rows]) + pairs.miss(stats["image_text", self.columns])
        soft_logits = _linear_mean(pairs, self.anchor) if self.soft is None else stats["image_text", self.soft]
        return self.share * pairs.mean(hard + self.mix * (pairs.positive_logits - soft_logits))


def _linear_mean(pairs: Pairs, anchor: Literal["image", "text"]) -> Float[Tensor, " n"]:
    """Return each anchor's mean logit under the weights (1 + cosine of references) / 2, from sums of features."""
    anchors, others = (pairs.image, pairs.text) if anchor == "image" else (pairs.text, pairs.image)
    reference = pairs.reference
    assert reference is not None
    feature_sum = pairs.total(others.sum(dim=0))
    feature_by_reference = pairs.total(others.T @ reference)
    reference_sum = pairs.total(reference.sum(dim=0))
    cosines = anchors @ feature_sum + ((anchors @ feature_by_reference) * reference).sum(dim=1)
    weights = pairs.num_pairs + reference @ reference_sum
    return pairs.scale * cosines / weights
