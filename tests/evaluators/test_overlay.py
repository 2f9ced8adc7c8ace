"""Words on images: whole, where seed and sample put them, and refused where they cannot be written."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vlp.evaluators.overlay import check_letters, write_word
from vlp.ground.types import RecipeError

GREY = Image.new("RGB", (224, 224), (120, 120, 120))


def box_of(image: Image.Image, plain: Image.Image = GREY) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of what differs."""
    changed = (np.asarray(image) != np.asarray(plain)).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    return rows[0], rows[-1], columns[0], columns[-1]


@pytest.mark.parametrize("word", ["dog", "a very long name of a class that would not fit on the image", "Ag", "i"])
def test_a_word_stands_whole_on_the_image(word):
    for number in range(30):
        top, bottom, left, right = box_of(write_word(GREY, word, 0, f"s{number}"))
        assert 4 <= top <= bottom <= 219
        assert 4 <= left <= right <= 219


def test_letters_have_black_and_white_and_their_size_is_of_the_image():
    found = [write_word(GREY, "elephant", 0, f"s{number}") for number in range(40)]
    heights = [bottom - top + 1 for top, bottom, _, _ in map(box_of, found)]
    assert 14 <= min(heights) < 25 < max(heights) <= 44
    for image in found:
        colours = np.asarray(image).reshape(-1, 3)
        assert (colours == 0).all(axis=1).any() and (colours == 255).all(axis=1).any()
    large = Image.new("RGB", (448, 448), (120, 120, 120))
    top, bottom, _, _ = box_of(write_word(large, "elephant", 0, "s0"), large)
    assert bottom - top + 1 == pytest.approx(2 * heights[0], abs=3)


def test_words_stand_everywhere():
    tops = [box_of(write_word(GREY, "dog", 0, f"s{number}"))[0] for number in range(60)]
    assert min(tops) < 30 and max(tops) > 160


def test_seed_and_sample_decide_and_the_image_is_left_alone():
    first = write_word(GREY, "dog", 0, "s1").tobytes()
    assert first == write_word(GREY, "dog", 0, "s1").tobytes()
    others = [write_word(GREY, "dog", 1, "s1").tobytes(), write_word(GREY, "dog", 0, "s2").tobytes()]
    assert len({first, *others, GREY.tobytes()}) == 4
    assert GREY.getcolors() == [(224 * 224, (120, 120, 120))]


def test_an_empty_word_leaves_the_image_as_it_is():
    assert write_word(GREY, "", 0, "s1").tobytes() == GREY.tobytes()


def test_letters_that_the_font_lacks_are_refused():
    check_letters(["tiger cat", "crème brûlée", "Boeing 737-800", "jack-o'-lantern"])
    with pytest.raises(RecipeError, match="class name 'щит': Pillow's font has no 'щ'"):
        check_letters(["bull", "щит"])
    with pytest.raises(RecipeError, match="has no"):
        check_letters(["two\nlines"])
