"""An auto-encoder in front of the image tower that leaves clean images alone."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.pairs import Pairs, Stats, at_least_float32


@terms.register("pixel_change")
class PixelChangeTerm(Term):
    """Keep what a purifier makes of a clean image near the image, colour by colour.

    The reconstruction loss of Liu et al. 2025 (arXiv:2504.10850, adapted), beside a term that draws together what the
    frozen model says of changed and of clean images, such as `feature_distillation` with `strategies.fare`. The
    auto-encoder (`model.tune: {type: purifier}`) is shown the images as they were before any adversary: one pass of it
    more.

    Formula: mean_i |A(x_i) - x_i|^2 / number of colours of an image, A the auto-encoder, x pixels from 0 to 255
    """

    needs = frozenset({"pixel_changes"})
    discriminates = False

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        changes = pairs.embeddings.pixel_changes
        assert changes is not None, "the objective checks what terms need"
        return pairs.mean(at_least_float32(changes))
