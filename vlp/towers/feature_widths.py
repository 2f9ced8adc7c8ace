"""How wide towers are before their projections into the shared space."""

from __future__ import annotations

import torch

from vlp.ground.types import RecipeError
from vlp.towers.before_projection import image_and_features, text_and_features
from vlp.towers.dual import DualEncoder
from vlp.towers.trial_inputs import one_image, one_text


@torch.no_grad()
def feature_widths(model: DualEncoder) -> tuple[int, int]:
    """Return how wide the towers are before their projections, images first.

    Raises:
        RecipeError: A tower has no projection to look behind, or a decoder reads it.
    """
    if model.decoder is not None:
        raise RecipeError(
            "model.decoder: towers that a decoder reads do not say what stands before their projections: leave the "
            "decoder out, or what asks for it (objective.LABEL.head, and terms that read features)"
        )
    was_training = model.training
    model.eval()
    visual, text = model.core.visual, model.core.text
    image = image_and_features(visual, one_image(visual)).shape[1]
    caption = text_and_features(text, one_text(text, model.context_length)).shape[1]
    model.train(was_training)
    return image - model.embed_dim, caption - model.embed_dim
