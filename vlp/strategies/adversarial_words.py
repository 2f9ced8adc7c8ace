"""Captions in the words that the model reads worst, as further training captions."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Int64
from torch import Tensor

from vlp.ground.types import Batch, Embeddings, Reading
from vlp.strategies.anchors import embed_anchors
from vlp.strategies.base import Strategy, strategies
from vlp.strategies.trained_tower import check_trains
from vlp.towers.dual import DualEncoder


@strategies.register("adversarial_words")
class AdversarialWords(Strategy):
    """Train on the one of several wordings of a caption that looks most like other captions, beside the caption.

    Wordings are the further text views that the data workers make by rules (`data.text_views`: synonyms, gaps, other
    orders); the text tower in evaluation mode embeds them all, and the largest softmax contrast with the clean captions
    of all processes decides. Substitution under a budget of words, as Jin et al. 2020 (arXiv:1907.11932) attack with,
    by choice among whole wordings instead of word after word. The others are dropped. Costs a forward pass of the text
    tower for each wording and for the caption, and a whole one for the chosen wording.

    Args:
        adversarial_weight: Weight of the objective on the chosen wordings, beside 1 for the captions themselves.

    Raises:
        ValueError: A weight that is not positive.
    """

    reads_images = False
    takes_text_views = True

    def __init__(self, *, adversarial_weight: float = 1.0):
        if adversarial_weight <= 0:
            raise ValueError(f"adversarial_weight {adversarial_weight} must be positive")
        self.adversarial_weight = adversarial_weight
        self._model: DualEncoder | None = None

    def start(self, model: DualEncoder) -> None:
        check_trains(model, "text")
        self._model = model

    def before_forward(self, batch: Batch) -> Batch:
        last = len(batch.tokens) - batch.num_negatives
        worst = self._worst(batch, last)
        places = worst[None, :, None].expand(1, *batch.tokens.shape[1:])
        longest = batch.lengths[1:last].amax(dim=0, keepdim=True)  # of all: nobody waits to learn which was chosen
        return replace(
            batch,
            tokens=torch.cat([batch.tokens[:1], batch.tokens[1:last].gather(0, places), batch.tokens[last:]]),
            lengths=torch.cat([batch.lengths[:1], longest, batch.lengths[last:]]),
        )

    @torch.no_grad()
    def _worst(self, batch: Batch, last: int) -> Int64[Tensor, " n"]:
        """Return which wording of each caption is missed by the most; text view 1 is the first."""
        assert self._model is not None, "start() comes first"
        anchors = embed_anchors(self._model, batch)
        right = anchors.right(batch)
        with self._model.at_rest():
            views = zip(batch.tokens[1:last], batch.lengths[1:last].numpy(), strict=True)
            misses = [anchors.miss(self._model.embed_tokens(*view), right) for view in views]
        return torch.stack(misses).argmax(dim=0)

    def readings(self, embeddings: Embeddings) -> tuple[Reading, ...]:
        others = range(2, 1 + len(embeddings.text_views))
        clean, changed = embeddings.with_texts((0, *others, 1)), embeddings.with_texts((1, *others))
        return Reading(clean), Reading(changed, self.adversarial_weight)
