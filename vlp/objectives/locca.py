"""A decoder writes each caption, the box of a region's caption, and the caption of its box, given the image."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vlp.ground.types import send
from vlp.objectives.base import Term, terms
from vlp.pairs import Pairs, Stats, at_least_float32


@terms.register("locca")
class LoccaTerm(Term):
    """Predict every word of each caption, and of a region's caption and box, in both orders, by the words before.

    LocCa, Wan et al. 2024 (arXiv:2403.19596), by the decoder of the model (`model.decoder={type: locating}`), which
    looks at the tokens of the image: captioning, referring expressions (AREF: a caption, then its box) and grounded
    captioning (GCAP: a box, then its caption), all three for each image. Images without a region (`data.regions`) take
    part in captioning alone. A companion of a contrastive term: SigLIP 2 gives both the same weight (Tschannen et al.
    2025, section 2.2, arXiv:2502.14786).

    Formula: l(w) + aref l(c, b) + gcap l(b, c), l(s) = mean over all tokens t of s in the whole batch of - log p(s_t |
    x, s_1 ... s_(t-1)); w captions, c captions of regions, b the four sides of their boxes; tokens of what comes first
    in a pair weigh `given`

    Args:
        aref: Weight of referring expressions beside 1 of captions.
        gcap: Weight of grounded captioning.
        given: Weight of the tokens of what comes first, which LocCa predicts as well; 0 learns what follows alone.

    Raises:
        ValueError: A weight below 0.
    """

    needs = frozenset({"caption_losses", "region_losses"})
    discriminates = False

    def __init__(self, *, aref: float = 1.0, gcap: float = 1.0, given: float = 1.0):
        super().__init__()
        for name, value in (("aref", aref), ("gcap", gcap), ("given", given)):
            if value < 0:
                raise ValueError(f"{name} {value} must not be negative")
        self.aref, self.gcap, self.given = aref, gcap, given

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        said = pairs.embeddings
        assert said.caption_losses is not None and said.region_losses is not None, (
            "the objective checks what terms need"
        )
        assert said.caption_words is not None and said.region_words is not None, "losses come with numbers of words"
        losses = at_least_float32(said.region_losses)
        counts = send(said.region_words, losses.device)
        found = _mean(pairs, at_least_float32(said.caption_losses), send(said.caption_words, losses.device))
        for weight, first in ((self.aref, 0), (self.gcap, 2)):
            sums, words = (self.given * rows[:, first] + rows[:, first + 1] for rows in (losses, counts))
            found = found + weight * _mean(pairs, sums, words)
        return found


def _mean(pairs: Pairs, losses: Float[Tensor, " n"], words: Tensor) -> Float[Tensor, ""]:
    """Return this process's share of the mean over the words of the whole batch; 0 where it has none."""
    total = pairs.total(words.sum())
    return losses.sum() / total.masked_fill(total == 0, 1)
