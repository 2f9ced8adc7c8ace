"""Each modality predicts the other, without negatives."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.heads import Perceptron, miss
from vlp.pairs import Pairs, Stats


@terms.register("siamlip")
class SiamlipTerm(Term):
    """Predict each text embedding from its image and the other way round; targets carry no gradient.

    SiamLIP, Fini et al. 2023 (arXiv:2305.08675), after SimSiam (arXiv:2011.10566). A companion of a
    contrastive term: alone it may collapse, and with a strong recipe the authors found no gain. Each modality has a
    predictor with one hidden layer, normalised over the whole batch. Mean over all pairs of an image and a text view.

    Formula: mean_i 2 - 2 cos(p(x_i), y_i) in both directions, no gradient through what p predicts

    Args:
        hidden_width: Of the predictors.
    """

    min_pairs = 2
    gradient_is_slope = False
    discriminates = False
    reads_views = True

    def __init__(self, *, hidden_width: int = 2048):
        super().__init__()
        if hidden_width < 1:
            raise ValueError(f"hidden_width {hidden_width} must be at least 1")
        self.hidden_width = hidden_width

    def create(self, embed_dim: int, /) -> None:
        widths = (embed_dim, self.hidden_width, embed_dim)
        self.predict_text, self.predict_image = Perceptron(*widths), Perceptron(*widths)

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        images = [pairs.view(name) for name in pairs.image_names]
        texts = [pairs.view(name) for name in pairs.text_names]
        text_guesses = [self.predict_text(pairs, image) for image in images]
        image_guesses = [self.predict_image(pairs, text) for text in texts]
        losses = [miss(guess, text) for guess in text_guesses for text in texts]
        losses += [miss(guess, image) for guess in image_guesses for image in images]
        return pairs.mean(torch.stack(losses).mean(dim=0))
