"""A fixed set of images and texts on which exported models are compared."""

from __future__ import annotations

import numpy as np
from PIL import Image

SHAPES = ((1.0, 1.0), (1.0, 1.37), (2.11, 1.0), (0.4, 0.7), (3.3, 0.9), (1.5, 1.5))
TEXTS = (
    "a photo of a cat",
    "A Photo of TWO dogs, playing in the snow!",
    "",
    " leading and   inner\twhite\nspace ",
    "one very long caption " * 40,
    "it's 3.14 o'clock; they'll say we're #1 @ 100%",
    "dog!! what?! (yes) [no] {maybe} <b>",
    "caf\u00e9 cr\u00e8me br\u00fbl\u00e9e na\u00efve",
    "\u732b\u3068\u72ac \u0441\u043e\u0431\u0430\u043a\u0430 \u03b3\u03ac\u03c4\u03b1",
    "emoji \U0001f436\u200d\U0001f98a and \u2665\ufe0f",
    "salt &amp; pepper &quot;quoted&quot; &#39;single&#39;",
    "\u2019s \u201ccurly\u201d \u2018quotes\u2019 \ufb01ne \u2122",
    "<|endoftext|> in the text",
    "<end_of_text> before the end",
    "mojibake: sch\u00c3\u00b6n \u00e2\u20ac\u2122",
    "\uff26\uff35\uff2c\uff2c width",
)


def probe_images(side: int) -> dict[str, Image.Image]:
    """Return named images around a model's input size: odd shapes, strong gradients, noise and other modes.

    None is transparent: how transparency is resolved changes with transformers' versions.
    """
    numbers = np.random.default_rng(20260101)
    images = {}
    for place, (height, width) in enumerate(SHAPES):
        shape = (max(2, int(side * height) + place % 2), max(2, int(side * width)))
        noise = numbers.integers(0, 256, (*shape, 3))
        ramp = np.add.outer(np.arange(shape[0]) * 3, np.arange(shape[1]) * 5)[..., None] % 256
        pixels = noise if place % 2 else (3 * ramp + noise) // 4
        images[f"RGB {shape[1]}x{shape[0]}"] = Image.fromarray(pixels.astype(np.uint8))
    odd = list(images.values())[1]
    images["L"] = odd.convert("L")
    images["RGBA"] = odd.convert("RGBA")
    images["P"] = odd.convert("P")
    return images
