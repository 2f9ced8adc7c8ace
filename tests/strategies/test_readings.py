"""Several strategies may each let the objective look at a further version of a batch."""

from dataclasses import replace

import torch

from vlp.ground.types import Embeddings, Reading
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
