"""One word of a caption in place of another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float32
from torch import Tensor

from vlp.ground.ranges import Count
from vlp.robust.attacks.base import Attack, attacks
from vlp.robust.caption_words import changeable, common_words, exchanged, left_out
from vlp.robust.findings import Outcome
from vlp.robust.problem import margin
from vlp.robust.stage import Stage


@attacks.register("one_word")
class OneWord(Attack):
    """Put another word in the place of the one that a caption needs most, so that its image is not found.

    The search of Li et al. 2020 (BERT-Attack, arXiv:2004.09984): the word without which the margin falls most, then the
    candidate under which it is lowest; candidates are the commonest words of the set's captions, instead of a language
    model's. Another word may mean another thing: this says how much hangs on one word.

    Args:
        candidates: Words that are tried.
        places: Words of a caption that are tried, those that it needs most.
    """

    side = "texts"
    needs_gradients = False
    radii = (1.0,)
    unit = " word"

    def __init__(self, *, candidates: Count = 64, places: Count = 1):
        self.candidates, self.places = candidates, places
        self.passes = candidates * places + 8

    def change(self, stage: Stage, radius: float) -> Outcome:
        return stage.change_texts(partial(self._replace, stage, common_words(stage.evaluator.texts, self.candidates)))

    def _replace(self, stage: Stage, words: Sequence[str], places: Sequence[int]) -> Outcome:
        texts = [stage.evaluator.texts[place] for place in places]
        without = [[(at, left_out(text, at)) for at in changeable(text)] for text in texts]
        losses = _losses(stage, places, [[changed for _, changed in each] for each in without])
        tried = []
        for text, options, found in zip(texts, without, losses, strict=True):
            best = found.argsort(descending=True, stable=True)[: self.places].tolist()
            tried.append([exchanged(text, options[each][0], word) for each in best for word in words])
        margins = _losses(stage, places, [[text, *each] for text, each in zip(texts, tried, strict=True)])
        chosen = [[text, *each][int(loss.argmax())] for text, each, loss in zip(texts, tried, margins, strict=True)]
        return Outcome(
            rows=stage.shared.encoder.embed_texts(chosen).float().cpu(),
            distance=torch.tensor([float(text != other) for text, other in zip(texts, chosen, strict=True)]),
            texts=tuple(chosen),
        )


def _losses(stage: Stage, places: Sequence[int], options: Sequence[Sequence[str]]) -> list[Float32[Tensor, " o"]]:
    """Return the margin of wrong images over the right one, of each option of each caption."""
    flat = [text for each in options for text in each]
    owners = [place for place, each in zip(places, options, strict=True) for _ in each]
    if not flat:
        return [torch.empty(0) for _ in options]
    problem = stage.problem_of_texts(owners, lambda rows: rows)
    rows = stage.shared.encoder.embed_texts(flat).float().to(problem.candidates.device)
    return list(problem.judge(rows, margin).loss.cpu().split([len(each) for each in options]))
