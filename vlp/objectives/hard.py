"""Softmax contrast against the hardest negatives only."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.hardest import Both, check_fraction, cosines_of, hardest_share, within_share
from vlp.objectives.shared.negative_sums import NOTHING, lacks
from vlp.pairs import TOPK, Mask, Pairs, Stats


@terms.register("hard")
class HardTerm(Term):
    """Tell each pair from the most similar of its negatives and forget the rest; selection carries no gradient.

    Wang and Liu 2021 (arXiv:2012.09740), for scales too low for plain softmax contrast. With noisy captions many of the
    hardest negatives are matches. Memory and time grow with batch size * negatives kept.

    Formula: mean_i log(exp(z_ii) + sum_{j in H_i} exp(z_ij)) - z_ii in both directions, H_i the hardest negatives

    Args:
        fraction: Share of the negatives that stays, at least one (the paper: 0.03 to 0.08); 1 is softmax contrast.
        mask_duplicates: Equal captions in a batch are no negatives of each other's images.

    Raises:
        ValueError: `fraction` outside (0, 1].
    """

    requests = {"image_text": ()}

    def __init__(self, *, fraction: float = 0.05, mask_duplicates: bool = False):
        super().__init__()
        check_fraction(fraction)
        self.fraction = fraction
        self.mask: Mask = "label" if mask_duplicates else "pair"
        self.needs = frozenset({"caption_ids"} if mask_duplicates else ())

    def plan(self, pairs: Pairs) -> Mapping[str, Both]:
        return {"image_text": hardest_share(pairs, self.fraction, self.mask)}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        rows, columns = (self._miss(pairs, stats, request) for request in self.plan(pairs)["image_text"])
        return pairs.mean((rows + columns) / 2)

    def _miss(self, pairs: Pairs, stats: Stats, request: TOPK) -> Float[Tensor, " n"]:
        cosines = within_share(pairs, self.fraction, cosines_of(pairs, stats, request))
        absent = lacks(cosines)
        logits = (pairs.scale * cosines.masked_fill(absent, 0)).masked_fill(absent, NOTHING)
        return pairs.miss(logits.logsumexp(dim=1))
