"""Word embeddings that are moved."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vlp.attacks.ball import into_round_ball
from vlp.ground.offers import offers
from vlp.ground.ranges import Count, Positive
from vlp.ground.types import RecipeError, WordEncoder
from vlp.robust.attacks.base import Attack, Radii, attacks
from vlp.robust.findings import Outcome, Worst, blind
from vlp.robust.problem import cross_entropy
from vlp.robust.stage import Stage


@attacks.register("text_embedding")
class TextEmbedding(Attack):
    """Move the embedding of every word of a caption, in signed steps up the cross-entropy of its image.

    The continuous attack of Xhonneux et al. 2024 (arXiv:2405.15589, section 3), on the search for images: each word may
    move by a share of the mean length of all word embeddings; padding and marks of begin and end stay. No text reads
    like that: what is left is what a text tower withstands at least.

    Args:
        radii: Shares of the mean length.
        steps: Gradients.
        step: Length of a step, as a share of the radius.
    """

    side = "texts"
    unit = " of a word"

    def __init__(self, *, radii: Radii = (0.05, 0.1, 0.2), steps: Count = 10, step: Positive = 0.25):
        self.radii = radii
        self.steps, self.step = steps, step
        self.passes = 3 * steps

    def change(self, stage: Stage, radius: float) -> Outcome:
        encoder = stage.encoder
        if not offers(encoder, WordEncoder):
            raise RecipeError(f"text_embedding: the words of a {type(encoder).__name__} cannot be moved; use one_word")
        words: WordEncoder = encoder
        return stage.change_texts(lambda places: self._move(stage, words, places, radius))

    def _move(self, stage: Stage, encoder: WordEncoder, places: Sequence[int], radius: float) -> Outcome:
        tokens, is_word = encoder.read_texts([stage.evaluator.texts[place] for place in places])
        length = float(encoder.words.norm(dim=1).mean())
        problem = stage.problem_of_texts(places, lambda shift: encoder.embed_shifted(tokens, is_word, shift))
        shift = torch.zeros(*tokens.shape, encoder.words.shape[1], device=tokens.device)
        size = self.step * radius * length / shift.shape[-1] ** 0.5  # of a step in each coordinate
        worst, no_gradient = Worst(shift), None
        for _ in range(self.steps):
            judged, gradient = problem.climb(shift, cross_entropy)
            no_gradient = blind(gradient) if no_gradient is None else no_gradient
            worst.add(shift, judged)
            shift = into_round_ball(shift + size * gradient.sign(), torch.zeros_like(shift), radius * length)
        worst.add(shift, problem.judge(shift, cross_entropy))
        with torch.inference_mode():
            rows = encoder.embed_shifted(tokens, is_word, worst.inputs)
        return Outcome(
            rows=rows.cpu(),
            distance=((worst.inputs.norm(dim=-1) * is_word).amax(dim=1) / length).cpu(),
            is_blind=None if no_gradient is None else no_gradient.cpu(),
        )
