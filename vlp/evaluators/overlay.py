"""Words written on images."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlp.evaluators.corruptions import generator
from vlp.ground.types import RecipeError

SIZES = (20, 40)  # pixels of letters on an image of 224, before long words are made to fit
MARGIN = 0.03
COLOURS = (("white", "black"), ("black", "white"))  # letters, outline
UNKNOWN = "\uffff"


@dataclass(frozen=True)
class Overlay:
    """What is written on each image of a set.

    Args:
        words: One per image; an empty one leaves it as it is.
        seed: Size, colour and place depend on it and on the key of the sample.
    """

    words: tuple[str, ...]
    seed: int = 0


def write_word(image: Image.Image, word: str, seed: int, key: str) -> Image.Image:
    """Return a square image with a word on it, whole, at a random place, in white or black with an outline.

    Args:
        key: The sample's.
    """
    word = without_accents(word)
    if not word:
        return image
    rng = generator(seed, "overlay", key)
    side = image.width
    room = side * (1 - 2 * MARGIN)
    size = int(rng.integers(SIZES[0], SIZES[1] + 1)) * side // 224
    colour, outline = COLOURS[rng.integers(len(COLOURS))]
    share = rng.random(2)
    edge = max(1, side // 160)
    written = image.copy()
    draw = ImageDraw.Draw(written)
    box = draw.textbbox((0, 0), word, font=_font(size), stroke_width=edge)
    if (wide := box[2] - box[0]) > room:
        size = max(1, int(min(size * room / wide, size)))
        box = draw.textbbox((0, 0), word, font=_font(size), stroke_width=edge)
    left, top = (
        MARGIN * side + part * max(0.0, room - length)
        for part, length in zip(share, (box[2] - box[0], box[3] - box[1]), strict=True)
    )
    place = (round(left - box[0]), round(top - box[1]))
    draw.text(place, word, font=_font(size), fill=colour, stroke_width=edge, stroke_fill=outline)
    return written


def check_letters(words: Iterable[str]) -> None:
    """Refuse words that the font, which comes with Pillow, cannot write.

    Raises:
        RecipeError: It lacks a letter.
    """
    font = _font(SIZES[1])
    blank = _picture(font, UNKNOWN)
    known: dict[str, bool] = {" ": True}
    for word in words:
        for letter in without_accents(word):
            if letter not in known:
                known[letter] = letter.isprintable() and _picture(font, letter) != blank
            if not known[letter]:
                raise RecipeError(f"class name '{word}': Pillow's font has no '{letter}'; the word cannot be written")


def without_accents(word: str) -> str:
    """Return a word as one writes it without them: the font has none."""
    return "".join(part for part in unicodedata.normalize("NFKD", word) if not unicodedata.combining(part))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RecipeError("this Pillow was built without FreeType and cannot write words; install a wheel of it")
    return font


def _picture(font: ImageFont.FreeTypeFont, letter: str) -> bytes:
    return np.asarray(font.getmask(letter), dtype=np.uint8).tobytes()
