"""Softmax contrast of every image view with every text view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.smoothing import smoothing
from vlp.pairs import LSE, DerivedPairs, Pairs, Request, Stats


@terms.register("clip_views")
class ClipViewsTerm(Term):
    """Pick the right caption and the right image in each combination of an image view and a text view.

    The local loss of Fini et al. 2023 (arXiv:2305.08675), there of two changed images and two changed captions behind
    heads of their own, `views: further`, beside clip on the pair as it stands: (clip + 2 of this) / 3, times two where
    the authors sum. With one view of each it is clip. Costs a similarity matrix for every combination.

    Formula: mean over k, l of mean_i lse_j scale u_ik.v_jl - scale u_ik.v_il in both directions, u_ik view k of image i
    and v_il view l of text i; smoothed targets add label_smoothing (u_ik.v_il - mean_j u_ik.v_jl) scale

    Args:
        label_smoothing: Share of the target spread evenly over the batch (the paper's: 0.1, here alone).

    Raises:
        ValueError: It lies outside [0, 1].
    """

    reads_views = True
    rows, columns = LSE("row", mask="pair"), LSE("column", mask="pair")
    requests = {"image_text": (rows, columns)}

    def __init__(self, *, label_smoothing: float = 0.0):
        super().__init__()
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing {label_smoothing} must lie in [0, 1]")
        self.label_smoothing = label_smoothing

    def plan(self, pairs: Pairs, /) -> Mapping[str, Sequence[Request]]:
        return {f"{i}_{t}": (self.rows, self.columns) for i in pairs.image_names for t in pairs.text_names}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        names = [(image, text) for image in pairs.image_names for text in pairs.text_names]
        return torch.stack([self._contrast(pairs, stats, *each) for each in names]).mean()

    def _contrast(self, pairs: Pairs, stats: Stats, image: str, text: str) -> Float[Tensor, ""]:
        seen = replace(pairs.embeddings, image=pairs.view(image), text=pairs.view(text), image_views=(), text_views=())
        two = DerivedPairs(pairs, seen)
        misses = [two.miss(stats[f"{image}_{text}", request]) for request in (self.rows, self.columns)]
        loss = two.mean((misses[0] + misses[1]) / 2)
        return loss if self.label_smoothing == 0 else loss + self.label_smoothing * smoothing(two, text_share=0.5)
