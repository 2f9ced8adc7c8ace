"""A sorting network that must put positives above the hardest negatives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.hardest import cosines_of, hardest
from vlp.objectives.shared.negative_sums import lacks
from vlp.objectives.shared.view_pairs import positive_cosines
from vlp.pairs import TOPK, Pairs, Request, Stats


@terms.register("groco")
class GroupOrderingTerm(Term):
    """Sort each anchor's positives and hardest negatives softly; each must end in its own group.

    Shvetsova et al. 2023 (arXiv:2301.02009), with the other modality as candidates; further views are further
    positives. Candidates get no gradient, only anchors do. At steepness 1 the value stays far above 0: cosines cannot
    saturate the comparisons. The model's scale plays no part.

    Formula: mean_i mean_r BCE(q_ir, [r is positive]) in both directions, q_ir the probability that candidate r of
    anchor i leaves an odd-even network of soft comparisons theta = 1/2 + arctan(steepness (b - a)) / pi among the
    positives

    Args:
        num_negatives: Hardest negatives of each anchor; all where there are fewer.
        steepness: Of a comparison; large values sort exactly and have no gradient.

    Raises:
        ValueError: Either is not positive.
    """

    min_pairs = 2
    reads_views = True
    gradient_is_slope = False
    requests = {"image_text": ()}

    def __init__(self, *, num_negatives: int = 10, steepness: float = 1.0):
        super().__init__()
        if num_negatives <= 0 or steepness <= 0:
            raise ValueError(f"num_negatives {num_negatives} and steepness {steepness} must be positive")
        self.num_negatives = num_negatives
        self.steepness = steepness

    def plan(self, pairs: Pairs) -> Mapping[str, Sequence[Request]]:
        return {"image_text": self._requests(pairs)}

    def _requests(self, pairs: Pairs) -> tuple[TOPK, TOPK]:
        return hardest(min(self.num_negatives, pairs.num_pairs - 1))

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        rows, columns = (self._disorder(pairs, stats, request) for request in self._requests(pairs))
        return pairs.mean((rows + columns) / 2)

    def _disorder(self, pairs: Pairs, stats: Stats, request: TOPK) -> Float[Tensor, " n"]:
        negatives = cosines_of(pairs, stats, request, detach_other=True).flip(1)
        positives = positive_cosines(pairs, "image" if request.axis == "row" else "text", detach_other=True)
        candidates = torch.cat([negatives, positives.sort(dim=1).values], dim=1)
        target = torch.cat([torch.zeros_like(negatives), torch.ones_like(positives)], dim=1)
        if pairs.has_twins:
            return self._disorder_of_present(candidates, target)
        _, comparisons = soft_sort(candidates, self.steepness)
        probability = trace_back(comparisons, target).clamp(0, 1)
        return functional.binary_cross_entropy(probability, target, reduction="none").mean(dim=1)

    def _disorder_of_present(self, candidates: Float[Tensor, "n w"], target: Float[Tensor, "n w"]) -> Tensor:
        """Return the same where some anchors have fewer negatives, hence a smaller network: the first wires of it."""
        absent, order = lacks(candidates).sort(dim=1, stable=True)
        target = target.gather(1, order)
        sizes = (~absent).sum(dim=1)
        _, comparisons = soft_sort(candidates.gather(1, order).masked_fill(absent, 0), self.steepness, sizes)
        probability = trace_back(comparisons, target).clamp(0, 1)
        misses = functional.binary_cross_entropy(probability, target, reduction="none")
        return misses.masked_fill(absent, 0).sum(dim=1) / sizes


def soft_sort(
    values: Float[Tensor, "n w"], steepness: float, sizes: Int64[Tensor, " n"] | None = None
) -> tuple[Float[Tensor, "n w"], list[Tensor]]:
    """Return softly rising values, and for each layer of the network how much every comparison keeps the order.

    Args:
        sizes: How many values of each row, the first ones, are to be sorted; None sorts all.
    """
    comparisons: list[Tensor] = []
    for layer in range(values.shape[1]):
        neighbours = _neighbours(values, layer)
        keep = 0.5 + torch.arctan(steepness * neighbours.diff(dim=2).squeeze(2)) / math.pi
        comparisons.append(keep if sizes is None else keep.masked_fill(_is_idle(keep, layer, sizes), 1))
        values = _mix(values, comparisons[-1], layer)
    return values, comparisons


def _is_idle(keep: Float[Tensor, "n c"], layer: int, sizes: Int64[Tensor, " n"]) -> Bool[Tensor, "n c"]:
    """Return which comparisons of a layer a network of each row's size does not have."""
    second = layer % 2 + 2 * torch.arange(keep.shape[1], device=keep.device) + 1
    return (second >= sizes[:, None]) | (layer >= sizes[:, None])


def trace_back(comparisons: Sequence[Tensor], marks: Float[Tensor, "n w"]) -> Float[Tensor, "n w"]:
    """Return each input's probability to end at a marked place, without the matrix of all inputs and places."""
    for layer in reversed(range(len(comparisons))):
        marks = _mix(marks, comparisons[layer], layer)
    return marks


def _neighbours(values: Float[Tensor, "n w"], layer: int) -> Float[Tensor, "n c 2"]:
    """Return the pairs that a layer compares: from the first place in even layers, from the second in odd ones."""
    start = layer % 2
    count = (values.shape[1] - start) // 2
    return values[:, start : start + 2 * count].unflatten(1, (count, 2))


def _mix(values: Float[Tensor, "n w"], keep: Float[Tensor, "n c"], layer: int) -> Float[Tensor, "n w"]:
    neighbours = _neighbours(values, layer)
    mixed = torch.lerp(neighbours.flip(2), neighbours, keep.unsqueeze(2))
    start, end = layer % 2, layer % 2 + 2 * keep.shape[1]
    return torch.cat([values[:, :start], mixed.flatten(1), values[:, end:]], dim=1)
