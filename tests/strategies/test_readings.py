"""Several strategies may each let the objective look at a further version of a batch."""

from dataclasses import replace

import pytest
import torch

from vlp.ground.types import Embeddings, Reading, RecipeError
from vlp.strategies.adversarial_images import AdversarialImages
from vlp.strategies.adversarial_texts import AdversarialTexts
from vlp.strategies.adversarial_words import AdversarialWords
from vlp.strategies.base import Strategy, all_readings

PAIR = torch.ones(1, 2)


class Times(Strategy):
    """Adds a version that is so many times as large, and counts as much."""

    def __init__(self, factor):
        self.factor = factor

    def readings(self, embeddings):
        return Reading(embeddings), Reading(replace(embeddings, image=self.factor * embeddings.image), self.factor)


def test_versions_of_several_strategies_are_combined_and_the_plain_one_leads():
    found = all_readings({"two": Times(2), "none": Strategy(), "three": Times(3)}, Embeddings(PAIR, PAIR, PAIR, PAIR))
    assert list(found) == ["", "two", "three", "two+three"]
    assert [float(reading.embeddings.image[0, 0]) for reading in found.values()] == [1, 2, 3, 6]
    assert [reading.weight for reading in found.values()] == [1, 2, 3, 6]


def test_strategies_that_made_views_last_take_them_first():
    class Takes(Strategy):
        def readings(self, embeddings):
            *views, last = embeddings.image_views
            return (Reading(replace(embeddings, image=last, image_views=tuple(views))),)

    views = (2 * PAIR, 3 * PAIR)
    seen = []
    used = {"first": Takes(), "second": Takes()}
    for label, strategy in used.items():
        original = strategy.readings
        strategy.readings = lambda x, label=label, original=original: seen.append(label) or original(x)
    all_readings(used, Embeddings(PAIR, PAIR, PAIR, PAIR, image_views=views))
    assert seen == ["second", "first"]


def test_two_adversaries_each_find_what_they_have_made():
    images, texts = AdversarialImages(), AdversarialTexts()
    words, later = AdversarialWords(), AdversarialImages(adversarial_weight=2.0)
    images._attacks = later._attacks = True
    made = Embeddings(PAIR, PAIR, PAIR, PAIR, image_views=(2 * PAIR, 3 * PAIR), text_views=(5 * PAIR, 4 * PAIR))
    found = all_readings({"images": images, "later": later}, made)
    assert {label: float(each.embeddings.image[0, 0]) for label, each in found.items()} == {
        "": 1, "images": 2, "later": 3, "images+later": 2,
    }  # fmt: skip
    found = all_readings({"texts": texts, "words": words}, made)
    assert {label: float(each.embeddings.text[0, 0]) for label, each in found.items()} == {
        "": 1, "texts": 4, "words": 5, "texts+words": 4,
    }  # fmt: skip


def test_what_towers_know_before_their_projections_goes_with_its_view():
    def marked(count):
        return tuple(torch.full((2, 3), float(number)) for number in range(count))

    image, *views = marked(4)
    text, *wordings = marked(3)
    made = Embeddings(
        image, text, PAIR, PAIR, tuple(views), tuple(wordings), image_features=marked(4), text_features=marked(5)
    )
    images = AdversarialImages()
    images._attacks = True
    for strategy, leading in ((images, 3), (AdversarialWords(), 1), (AdversarialTexts(), 1)):
        for reading, first in zip(strategy.readings(made), (0, leading), strict=True):
            seen = reading.embeddings
            moved = seen.image if strategy is images else seen.text
            assert moved[0, 0] == first
            for rows, known in (
                ((seen.image, *seen.image_views), seen.image_features),
                ((seen.text, *seen.text_views), seen.text_features[: 1 + len(seen.text_views)]),
            ):
                assert [float(row[0, 0]) for row in rows] == [float(row[0, 0]) for row in known]
            assert [float(row[0, 0]) for row in seen.text_features[-2:]] == [3.0, 4.0]  # of wrong captions


def test_a_decoder_that_read_clean_pairs_alone_is_refused():
    made = Embeddings(PAIR, PAIR, PAIR, PAIR, text_views=(PAIR,), caption_losses=PAIR)
    assert len(all_readings({"none": Strategy()}, made)) == 1
    with pytest.raises(RecipeError, match=r"strategies\.words: the decoder of captions reads clean pairs alone"):
        all_readings({"words": AdversarialWords()}, made)


def test_places_that_were_compared_of_clean_views_alone_are_refused():
    made = Embeddings(PAIR, PAIR, PAIR, PAIR, text_views=(PAIR,), taught_maps=(PAIR[:, None, None],))
    with pytest.raises(RecipeError, match=r"words: what compares places .* strategies\.dense_teacher or"):
        all_readings({"words": AdversarialWords()}, made)
