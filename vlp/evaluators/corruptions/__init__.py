"""Corruptions of images: 15 kinds in 5 severities, made when an image is read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from PIL.Image import Image
from pydantic import Field, model_validator
from torchvision.transforms import functional

from vlp.evaluators.corruptions import blur, digital, noise, weather
from vlp.evaluators.corruptions.noise import Pixels01
from vlp.ground.strict import Strict

Kind = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
]
CORRUPTIONS: Mapping[Kind, Callable[[Pixels01, int, np.random.Generator], Pixels01]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}
"""In the order of the paper: noise, blur, weather, digital."""


class Corruption(Strict):
    """Corrupt images of a set as ImageNet-C does (Hendrycks and Dietterich 2019, arXiv 1903.12261).

    Numbers are those of the paper's published code (github.com/hendrycks/robustness, ImageNet-C/create_c), which counts
    in pixels of images of one size. So images are brought to that size first, by the same cut, and the model's own
    preprocessing sees what came out. The ice of `frost` is drawn, with colours and contrasts of the photographs that
    the paper uses; the other kinds do what that code does, with random numbers of their own.

    Args:
        kind: One of the 15; without it images are only cut, for what a corruption costs beside that.
        severity: 1 to 5.
        seed: What is random depends on it, on kind, severity and the key of the sample, and on nothing else.
        size: Side of the square that is cut from the middle, the short side having been brought to 8/7 of it.
        jpeg: Quality of a JPEG that the result passes through; the files of ImageNet-C did so at 85.
    """

    kind: Kind | None = None
    severity: int = Field(default=0, ge=0, le=5)
    seed: int = 0
    size: int = Field(default=224, ge=32, le=4096)
    jpeg: int | None = Field(default=None, ge=1, le=100)

    @model_validator(mode="after")
    def _has_kind_and_severity(self) -> Corruption:
        if (self.kind is None) != (self.severity == 0):
            raise ValueError("kind and severity (1 to 5) go together; leave out both for the cut alone")
        return self


def cut_square(image: Image, size: int = 224) -> Image:
    """Cut a square from the middle of an image whose short side is brought to 8/7 of its side first."""
    return functional.center_crop(functional.resize(image, round(size * 256 / 224)), [size, size])


def corrupt(image: Image, corruption: Corruption, key: str) -> Image:
    """Corrupt an image that has been cut.

    Args:
        image: A square in RGB.
        key: The sample's.
    """
    if corruption.kind is not None:
        rng = generator(corruption.seed, corruption.kind, corruption.severity, key)
        make = CORRUPTIONS[corruption.kind]
        image = digital.to_image(make(digital.to_pixels(image), corruption.severity, rng))
    return image if corruption.jpeg is None else digital.through_jpeg(image, corruption.jpeg)


def generator(*parts: str | int) -> np.random.Generator:
    """Return random numbers that depend on these words and numbers alone."""
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))
