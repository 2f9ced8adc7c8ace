"""Several strategies may each let the objective look at a further version of a batch."""

from dataclasses import replace

import torch

from vlp.ground.types import Embeddings, Reading
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
