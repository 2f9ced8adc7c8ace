"""One word for all captions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vlp.ground.ranges import Count
from vlp.robust.attacks.base import Attack, attacks
from vlp.robust.caption_words import common_words, exchanged
from vlp.robust.findings import Outcome
from vlp.robust.learning_pairs import LearningPairs, read_pairs
from vlp.robust.needed_words import needed_places, write_word_into
from vlp.robust.stage import Stage


@attacks.register("universal_word")
class UniversalWord(Attack):
    """Put one and the same word in the place of the one that a caption needs most.

    The textual half of Fang et al. 2024 (arXiv:2406.05491) without their generator: the word is the one of many
    candidates under which the captions of another data set are least like their images.

    Args:
        card: Name of a card under `data/`, or a YAML file: what the word is chosen on.
        pairs: How many pairs of the data set are used, at most.
        candidates: How many words are tried: the commonest of its captions.
    """

    side = "texts"
    needs_gradients = False
    radii = (1.0,)
    unit = " word"

    def __init__(self, *, card: str, pairs: Count = 128, candidates: Count = 128):
        self.card, self.pairs, self.candidates = card, pairs, candidates
        self.passes = 8
        self._word: str | None = None

    def change(self, stage: Stage, radius: float) -> Outcome:
        if self._word is None:
            pairs = read_pairs(stage, self.card, self.pairs)
            self._word = self.choose(stage, pairs, common_words(pairs.captions, self.candidates))
        return write_word_into(stage, self._word)

    def choose(self, stage: Stage, pairs: LearningPairs, words: Sequence[str]) -> str:
        """Return the word under which captions are least like their images."""
        places = needed_places(stage.shared.encoder, pairs.captions, pairs.images)
        likeness = []
        for word in words:
            changed = [exchanged(text, place, word) for text, place in zip(pairs.captions, places, strict=True)]
            rows = stage.shared.texts(changed)
            likeness.append(float((rows * pairs.images).sum(dim=1).mean()))
        return words[int(torch.tensor(likeness).argmin())]
