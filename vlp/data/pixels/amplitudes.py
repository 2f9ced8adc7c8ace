"""The style of an image in its slow waves: their amplitudes, which can be those of another image."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Complex64, Float32, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from vlp.data.faults import BadSampleError
from vlp.data.pixels.decode import decode_image, to_rgb
from vlp.data.samples import SampleSet
from vlp.data.shards.cards import load_card
from vlp.ground.draws import pick
from vlp.ground.types import RecipeError

Spectrum = Complex64[Tensor, "n 3 f g"]
Amplitudes = Float32[Tensor, "n 3 f g"]


def check_styles(count: int, share: float) -> None:
    """Refuse numbers of which no styles can be made.

    Raises:
        RecipeError: One is out of its range.
    """
    if count < 1 or not 0 < share < 0.5:
        raise RecipeError(f"styles: count {count} must be at least 1, share {share} between 0 and 0.5")


class Styles:
    """Images of a data set as styles for others, taken at even distances.

    Args:
        card: Name or path of a card under `data/`.
        count: How many of its images.
        share: Reach of the waves that are exchanged, as a share of the shorter side.
        height: Of the images, in pixels, and `width`; the styles are resized to that.

    Raises:
        RecipeError: No such card, none of its images can be read, or a number is out of its range.
    """

    def __init__(self, card: str, count: int, share: float, height: int, width: int):
        check_styles(count, share)
        self.share = share
        self.images = _read(card, count, height, width)
        self._amplitudes: dict[tuple[int, int], Amplitudes] = {}

    def to(self, device: torch.device) -> Styles:
        """Move the images to a device."""
        self.images = self.images.to(device)
        self._amplitudes.clear()
        return self

    def give(
        self,
        pixels: UInt8[Tensor, "n 3 h w"],
        which: Float32[Tensor, " n"],
        strength: Float32[Tensor, " n"],
    ) -> UInt8[Tensor, "n 3 h w"]:
        """Return images whose slow waves are as high as those of a style, or on the way there.

        Args:
            which: Numbers in [0, 1) that choose a style for each image.
            strength: Where each image lies between itself, 0, and the style, 1.
        """
        height, width = pixels.shape[2:]
        values = pixels.float()
        found = slow_waves(values, self.share)
        goal = self._of_size(height, width)[pick(which, len(self.images))]
        here = found.abs()
        # 0 has no direction: its wave begins at its peak
        phases = torch.polar(torch.ones_like(here), found.angle())
        change = phases * ((goal - here) * strength[:, None, None, None])
        return (values + from_slow_waves(change, height, width)).round().clamp(0, 255).to(torch.uint8)

    def _of_size(self, height: int, width: int) -> Amplitudes:
        """Return the amplitudes of all styles at a size."""
        size = height, width
        if size not in self._amplitudes:
            values = self.images.float()
            if values.shape[2:] != size:
                values = functional.interpolate(values, size, mode="bilinear", antialias=True, align_corners=False)
            self._amplitudes[size] = slow_waves(values, self.share).abs()
        return self._amplitudes[size]


def slow_waves(values: Float32[Tensor, "n 3 h w"], share: float) -> Spectrum:
    """Return the part of the discrete Fourier transform within reach of frequency 0, which stands in the middle."""
    height, width = values.shape[2:]
    reach = int(share * min(height, width))
    down, across = (_waves(length, reach, values.device) for length in (height, width))
    return down @ values.to(torch.complex64) @ across.T


def from_slow_waves(spectrum: Spectrum, height: int, width: int) -> Float32[Tensor, "n 3 h w"]:
    """Return the images that have this part of a transform, and nothing beyond."""
    reach = spectrum.shape[-1] // 2
    down, across = (_waves(length, reach, spectrum.device).conj() for length in (height, width))
    return (down.T @ spectrum @ across).real / (height * width)


def _waves(length: int, reach: int, device: torch.device) -> Complex64[Tensor, "f length"]:
    frequencies = torch.arange(-reach, reach + 1, device=device, dtype=torch.float64)
    angles = -2 * math.pi / length * frequencies[:, None] * torch.arange(length, device=device)
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)


def _read(card: str, count: int, height: int, width: int) -> UInt8[Tensor, "s 3 h w"]:
    samples = SampleSet({card: load_card(card)})
    found = []
    for number in np.linspace(0, len(samples), num=min(count, len(samples)), endpoint=False).astype(int):
        try:
            image = to_rgb(decode_image(samples[int(number)].read_image()))
        except BadSampleError:
            continue
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
        found.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
    if not found:
        raise RecipeError(f"styles: not one of {count} images of card '{card}' can be read")
    return torch.stack(found)
