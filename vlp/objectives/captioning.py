"""A decoder writes each caption, given its image."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vlp.ground.types import send
from vlp.objectives.base import Term, terms
from vlp.pairs import Pairs, Stats, at_least_float32


@terms.register("captioning")
class CaptioningTerm(Term):
    """Predict each token of a caption from its image and the tokens before it.

    CoCa, Yu et al. 2022, eq. 3 (arXiv:2205.01917; weight 2 there, 1 in COSMO, arXiv:2401.00849), by the decoder of the
    model (`model.decoder`), which reads the states of the text tower and looks at the tokens of the image. A companion
    of a contrastive term, which shares both towers' passes with it.

    Formula: - mean over all tokens t but the first of all captions i of log p(w_it | x_i, w_i1 ... w_i(t-1)); padding
    left out
    """

    needs = frozenset({"caption_losses"})
    discriminates = False

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        losses, words = pairs.embeddings.caption_losses, pairs.embeddings.caption_words
        assert losses is not None, "the objective checks what terms need"
        assert words is not None, "losses come with numbers of words"
        return at_least_float32(losses).sum() / pairs.total(send(words, losses.device).sum())
