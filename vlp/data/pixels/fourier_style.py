"""Images in the colours and the light of others, in the worker."""

from __future__ import annotations

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from vlp.data.pixels.amplitudes import Styles, check_styles
from vlp.data.pixels.policies import Policy, policies
from vlp.ground.types import RecipeError


@policies.register("fourier_style")
class FourierStyle(Policy):
    """Give an image the low-frequency amplitudes of another one, and leave what it shows: its phases.

    Yang and Soatto 2020 (arXiv:2004.05498), there from a source domain to a target; a random part of the way as in Xu
    et al. 2021 (arXiv:2105.11120). Takes as long as `randaugment`.

    Args:
        card: Whose images are the styles: name or path of a card under `data/`.
        count: How many of them, at even distances; each process that decodes keeps them.
        share: Reach of the exchanged waves as a share of the shorter side (the paper's: 0.01, 0.05 and 0.09).
        strength: Largest part of the way to the style, drawn evenly from 0 on.
        probability: How often an image is changed.
    """

    moves_pixels = False

    def __init__(
        self,
        *,
        card: str = "embedded-photos",
        count: int = 64,
        share: float = 0.05,
        strength: float = 1.0,
        probability: float = 1.0,
    ):
        if not 0 < strength <= 1 or not 0 < probability <= 1:
            raise RecipeError(f"data.policy: strength {strength:g} and probability {probability:g} must lie in (0, 1]")
        check_styles(count, share)
        self.module = StyleChange(card, count, share, strength, probability)

    def transform(self) -> nn.Module:
        return self.module


class StyleChange(nn.Module):
    """The change of one image; it reads the styles when it sees the first."""

    def __init__(self, card: str, count: int, share: float, strength: float, probability: float):
        super().__init__()
        self.card, self.count, self.share = card, count, share
        self.strength, self.probability = strength, probability
        self.styles: Styles | None = None

    def forward(self, image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "3 h w"]:
        """Return the image, changed or not, by torch's own random numbers."""
        chance, which, strength = torch.rand(3).split(1)
        if chance >= self.probability:
            return image
        if self.styles is None:
            self.styles = Styles(self.card, self.count, self.share, *image.shape[1:])
        return self.styles.give(image[None], which, strength * self.strength)[0]
