"""A ranker that looks at images and captions together learns beside the towers, which learn from it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vlp.ground import dist
from vlp.ground.types import send
from vlp.objectives.base import Term, terms
from vlp.objectives.shared.ranking import candidates, logits_of, rank_as
from vlp.pairs import TOPK, Pairs, Stats, at_least_float32

PIECE = 1024  # images with captions that are looked at at once


@terms.register("adversarial_ranker")
class AdversarialRankerTerm(Term):
    """Train a cross-attention ranker on what the towers confuse, and let the towers rank that as it does.

    AR2, Zhang et al. 2021 (arXiv:2110.03611), as in its code: the ranker learns by softmax cross-entropy to find the
    partner among the candidates that the towers find most alike; the towers learn its softmax, and with `adversarial`
    to raise negatives that fool it. There both take turns; here both learn at every step. Candidates are the hardest of
    the batch to the towers of that step and, with `mined`, the wrong captions of each image: those of an index over the
    whole data that is built anew every few thousand steps, as in the paper, with `data.captions.negatives.mining`. The
    ranker is the multimodal half of a CoCa decoder with a score on top; it reads places of the image tower, without
    gradient to it, and tokens by a table of its own, and is thrown away. A companion of a contrastive term. Each
    candidate costs a pass of the ranker and one more, for its activations are made again.

    Formula: mean_i - log softmax_k(f_ik) at k = i + [step >= first_step] (- sum_k q_ik log p_ik + adversarial *
    sum_{k != i} log sigmoid(f_ii - f_ik) log p_ik) in both directions; k over the partner, the `num_negatives` largest
    z_ij, j != i, and for images, where `mined`, the wrong captions; f = ranker(image, text), p = softmax_k z_ik,
    q = softmax_k(f_ik / temperature); no gradient to f behind the bracket

    Args:
        num_negatives: Candidates of the batch beside the partner.
        mined: Let each image's wrong captions be candidates too, where it looks for its caption.
        width: Of the ranker; a width and number of layers like those of the text tower can learn more.
        layers: Of the ranker, each a block for the caption and one for the image.
        context_length: Tokens of a caption that the ranker reads.
        temperature: Of the ranking that the towers learn.
        adversarial: Weight of raising the negatives that the ranker takes for the partner.
        first_step: Steps in which the ranker learns alone.

    Raises:
        ValueError: A number that is not positive, or a negative weight or step.
    """

    needs = frozenset({"maps", "tokens"})
    min_pairs = 2

    def __init__(
        self,
        *,
        num_negatives: int = 7,
        mined: bool = False,
        width: int = 128,
        layers: int = 1,
        context_length: int = 32,
        temperature: float = 1.0,
        adversarial: float = 0.0,
        first_step: int = 0,
    ):
        super().__init__()
        if min(num_negatives, width, layers, context_length, temperature) <= 0:
            raise ValueError("num_negatives, width, layers, context_length and temperature must be positive")
        if min(adversarial, first_step) < 0:
            raise ValueError(f"adversarial {adversarial} and first_step {first_step} must not be negative")
        if mined:
            self.needs = self.needs | {"negatives"}
        self.mined = mined
        self.width, self.layers, self.context_length = width, layers, context_length
        self.temperature, self.adversarial, self.first_step = temperature, adversarial, first_step
        self.texts, self.images = TOPK("row", num_negatives), TOPK("column", num_negatives)
        self.requests = {"image_text": (self.texts, self.images)}
        self.channels: int | None = None
        self.num_tokens = 1

    def fit_maps(self, channels: int, /) -> None:
        self.channels = channels

    def fit_vocabulary(self, num_tokens: int, /) -> None:
        self.num_tokens = num_tokens

    def create(self, embed_dim: int, /) -> None:
        from vlp.towers.cross_ranker import CrossRanker  # open_clip takes seconds, which lists of terms need not wait

        self.ranker = CrossRanker(
            self.num_tokens,
            self.channels or embed_dim,
            width=self.width,
            layers=self.layers,
            context_length=self.context_length,
        )

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        whole = _read(pairs, self.context_length, mined=self.mined)
        own = pairs.local_part(torch.arange(pairs.num_pairs, device=pairs.ids.device))
        right = self._scores(pairs, whole, own, own)
        loss = torch.zeros_like(right)
        for anchor, other, request in (("image", "text", self.texts), ("text", "image", self.images)):
            has_mined = self.mined and anchor == "image"
            hardest = stats["image_text", request]
            chosen = torch.cat([hardest, _places_of_mined(pairs)], dim=1) if has_mined else hardest
            sides = own[:, None].expand_as(chosen), chosen.clamp(min=0)
            wrong = self._scores(pairs, whole, *(sides if anchor == "image" else sides[::-1]))
            absent = functional.pad(chosen < 0, (1, 0))
            scores = logits_of(candidates(right, wrong), 1.0, absent)
            loss = loss - scores.log_softmax(dim=1)[:, 0]
            if pairs.step >= self.first_step:
                cosines = pairs.cosines_at(anchor, other, hardest)
                cosines = torch.cat([cosines, _cosines_of_mined(pairs)], dim=1) if has_mined else cosines
                cosines = candidates(pairs.positive_cosines, cosines)
                ranking = scores.detach() / self.temperature
                loss = loss + rank_as(ranking, logits_of(cosines, pairs.scale, absent), absent, self.adversarial)
        return pairs.mean(loss / 2)

    def _scores(
        self, pairs: Pairs, whole: Read, images: Int64[Tensor, "*n"], texts: Int64[Tensor, "*n"]
    ) -> Float[Tensor, "*n"]:
        """Return the ranker's scores of images with captions, by their places in what it reads; as many of both."""

        def piece(some: Tensor, others: Tensor) -> Tensor:
            with pairs.own_network():
                shown = whole.places[some].to(self.ranker.places.dtype)
                found: Tensor = self.ranker(shown, whole.tokens[others], whole.counts[others])
            return at_least_float32(found)

        parts = zip(images.flatten().split(PIECE), texts.flatten().split(PIECE), strict=True)
        found = [checkpoint(piece, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
        return torch.cat(found).view(images.shape)


class Read(NamedTuple):
    """What the ranker looks at: of the whole batch, and behind its captions the wrong ones of this process's images."""

    places: Float[Tensor, "b p c"]
    tokens: Int64[Tensor, "c l"]
    counts: Int64[Tensor, " c"]


def _read(pairs: Pairs, context_length: int, *, mined: bool) -> Read:
    said = pairs.embeddings
    assert said.tokens is not None, "the objective checks what terms need"
    assert said.token_counts is not None, "tokens come with their counts"
    width = min(context_length, dist.largest(said.tokens.shape[1], pairs.group))  # each cuts to its own longest caption
    tokens = functional.pad(said.tokens[:, :width], (0, max(0, width - said.tokens.shape[1])))
    counts = send(said.token_counts, tokens.device)
    read = Read(*map(pairs.gather, (said.image_maps[0].detach().flatten(1, 2), tokens, counts)))
    if not mined:
        return read
    assert said.negative_tokens is not None, "wrong captions come with their tokens"
    assert said.negative_token_counts is not None, "tokens come with their counts"
    wrong = said.negative_tokens.flatten(0, 1)
    further = functional.pad(wrong[:, :width], (0, max(0, width - wrong.shape[1])))
    of_further = send(said.negative_token_counts.flatten(), tokens.device)
    return read._replace(tokens=torch.cat([read.tokens, further]), counts=torch.cat([read.counts, of_further]))


def _places_of_mined(pairs: Pairs) -> Int64[Tensor, "n m"]:
    """Return where `Read` has the wrong captions of each image."""
    tokens = pairs.embeddings.negative_tokens
    assert tokens is not None, "wrong captions come with their tokens"
    size, number, _ = tokens.shape
    return pairs.num_pairs + torch.arange(size * number, device=tokens.device).view(size, number)


def _cosines_of_mined(pairs: Pairs) -> Float[Tensor, "n m"]:
    negatives = pairs.embeddings.negatives
    assert negatives is not None, "the objective checks what terms need"
    return torch.einsum("nd,nmd->nm", pairs.image, negatives.to(pairs.image.dtype))
