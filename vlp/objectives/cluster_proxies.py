"""Softmax contrast with the centres of past embeddings as further negatives."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.order import hashed_order
from vlp.pairs import LSE, Axis, Pairs, Stats

SALT = 0xC1
EMPTY = 0.5  # a centre with less than half an embedding left is given away
NOTHING = -1e30  # log of no negatives, finite for the sake of gradients
PIECE = 4096
State = tuple[Tensor, Tensor, Tensor]
ROLES: dict[Axis, tuple[int, str, str]] = {"row": (0, "image", "text"), "column": (1, "text", "image")}


@terms.register("cluster_proxies")
class ClusterProxyTerm(Term):
    """Contrast with a memory of past batches too, kept as cluster centres and their counts.

    Adapted from Kulatilleke et al. 2022 (arXiv:2209.14067), there for nodes of a graph. For batches much smaller than
    the data. By Jensen's inequality the proxies count for less than their members, much less at scales above 10 with
    loose clusters. The memory holds what the pair's own past and its twins left there, and embeddings of older weights:
    keep it short. Centres are running averages: embeddings go to the nearest, empty centres to embeddings picked by the
    hash of their ids.

    Formula: mean_i log(exp(z_ii) + sum_{j != i} exp(z_ij) + sum_c n_c exp(scale x_i.m_c)) - z_ii in both directions,
    m_c and n_c centre and count of the other modality's past embeddings, a batch's counts times decay at each later one

    Args:
        centres: Of each modality.
        decay: Of the counts; a memory of decay / (1 - decay) batches.
        second_order: Multiply each proxy by exp(scale^2 / 2 sum_k x_ik^2 v_ck), v_c being the variances of its members'
            numbers; for small scales, where it mends most of the gap.

    Raises:
        ValueError: `centres` below 1, or `decay` outside [0, 1).
    """

    gradient_is_slope = False
    sums = {"row": LSE("row", mask="pair"), "column": LSE("column", mask="pair")}
    requests = {"image_text": tuple(sums.values())}
    counts: Tensor
    totals: Tensor
    squares: Tensor

    def __init__(self, *, centres: int = 256, decay: float = 0.9, second_order: bool = False):
        super().__init__()
        if centres < 1 or not 0 <= decay < 1:
            raise ValueError(f"centres {centres} must be at least 1, decay {decay} must lie in [0, 1)")
        self.centres, self.decay, self.second_order = centres, decay, second_order

    def create(self, embed_dim: int, /) -> None:
        """Make the memory of texts and of images: what each centre's members count for, their sums and squares."""
        self.register_buffer("counts", torch.zeros(2, self.centres))
        self.register_buffer("totals", torch.zeros(2, self.centres, embed_dim))
        self.register_buffer("squares", torch.zeros(2, self.centres, embed_dim))

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        order = hashed_order(pairs, SALT)
        misses, states = [], []
        for axis, (memory, anchor, other) in ROLES.items():
            proxies = self._log_sum(pairs, pairs.view(anchor), memory)
            misses.append(pairs.miss(torch.logaddexp(stats["image_text", self.sums[axis]], proxies)))
            states.append(self._remember(memory, pairs.side(other).everyone, order))
        # new tensors: the backward pass may still hold the old ones
        self.counts, self.totals, self.squares = (torch.stack(parts) for parts in zip(*states, strict=True))
        return pairs.mean(torch.stack(misses).mean(dim=0))

    def _log_sum(self, pairs: Pairs, anchors: Float[Tensor, "n d"], memory: int) -> Float[Tensor, " n"]:
        """Return the log of the proxies' sum for each anchor."""
        counts, centres, variances = (part.to(anchors.dtype) for part in self._clusters(memory))
        logits = pairs.scale * (anchors @ centres.T) + counts.log().clamp(min=NOTHING)
        if self.second_order:
            logits = logits + pairs.scale**2 / 2 * (anchors.square() @ variances.T)
        return logits.logsumexp(dim=1)

    def _clusters(self, memory: int) -> State:
        """Return counts, centres and variances."""
        counts = self.counts[memory]
        divisors = counts.clamp(min=torch.finfo(counts.dtype).tiny)[:, None]
        centres = self.totals[memory] / divisors
        return counts, centres, (self.squares[memory] / divisors - centres.square()).clamp(min=0)

    @torch.no_grad()
    def _remember(self, memory: int, everyone: Float[Tensor, "b d"], order: Int64[Tensor, " b"]) -> State:
        """Return the memory with one more batch, on every process alike."""
        state = self.counts[memory], self.totals[memory], self.squares[memory]
        features = everyone.to(self.totals.dtype)
        _, places, _ = self._clusters(memory)
        counts, totals, squares = (part * self.decay for part in state)
        empty = counts < EMPTY
        for part in (counts, totals, squares):
            part[empty] = 0
        slots = empty.logical_not().argsort(stable=True)[: len(order)]  # the empty ones first: nobody counts them
        places[slots] = features[order[: len(slots)]].where(empty[slots, None], places[slots])
        empty[slots] = False
        nearest = torch.cat([_nearest(piece, places, empty) for piece in features.split(PIECE)])
        counts.index_add_(0, nearest, torch.ones_like(features[:, 0]))
        totals.index_add_(0, nearest, features)
        squares.index_add_(0, nearest, features.square())
        return counts, totals, squares


def _nearest(features: Float[Tensor, "b d"], places: Float[Tensor, "k d"], empty: Tensor) -> Int64[Tensor, " b"]:
    """Return which centre each row is nearest to."""
    closeness = features @ places.T - places.square().sum(dim=1) / 2
    return closeness.masked_fill(empty, -torch.inf).argmax(dim=1)
