"""Tip-Adapter: a memory of a few images beside prompts, against the formula in plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.evaluators.kinds import check_intervals, check_samples, values_of
from tests.evaluators.sets import HashEncoder
from tests.evaluators.splits import write_splits
from vlp.evaluators.dataset import DataSource, open_set
from vlp.evaluators.layout import TEMPLATES
from vlp.evaluators.probes.few import draw_few
from vlp.evaluators.prompts import class_embeddings
from vlp.evaluators.shared import SharedEncoder
from vlp.evaluators.tip_adapter import TipAdapter, recall
from vlp.ground.types import RecipeError

TRAIN = [i % 3 for i in range(24)]
TEST = [i % 3 for i in range(18)]


@pytest.fixture
def root(tmp_path):
    folder = write_splits(tmp_path / "set", train=TRAIN, test=TEST)
    (folder / TEMPLATES).write_text("a photo of a {c}\n")
    return folder


def test_a_draw_is_scored_as_the_paper_says(root):
    evaluator = TipAdapter(open_set(DataSource(root=str(root))), shots=(1, 4), draws=3, weight=20.0)
    shared = SharedEncoder(HashEncoder())
    found = evaluator.run(shared)
    classes = class_embeddings(shared, evaluator.prompts)
    train, test = (shared.images(open_set(DataSource(root=str(root), split=split))) for split in ("train", "test"))
    truth, alone = np.array(TRAIN), []
    for number in (1, 4):
        for draw in range(3):
            chosen, right = draw_few(truth, number, 0, draw), []
            for row, label in zip(test, TEST, strict=True):
                scores = [100 * float(row @ name) for name in classes]
                alone.append(np.argmax(scores) == label)
                for kind in range(3):
                    for place in chosen[kind]:
                        scores[kind] += 20 * math.exp(-5.5 * (1 - float(row @ train[place])))
                right.append(np.argmax(scores) == label)
            assert found.details["draws"][f"acc1_{number}shot"][draw] == pytest.approx(np.mean(right))
    values = values_of(found)
    assert values["acc1_0shot"] == pytest.approx(np.mean(alone))
    assert list(values) == ["acc1_0shot", "acc1_1shot", "acc1_4shot"]
    check_samples(found, list(values))
    check_intervals(found)


def test_an_image_remembers_itself_the_most():
    rows = torch.eye(3)
    votes = recall(rows, rows, torch.tensor([2, 0, 0]), 3, 1.0)
    far = math.exp(-1)
    torch.testing.assert_close(votes, torch.tensor([[2 * far, 0, 1.0], [1 + far, 0, far], [1 + far, 0, far]]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shots": (0,)}, "settings.shots is"),
        ({"draws": 1}, "settings.draws is 1"),
        ({"weight": 0.0}, "settings.weight is 0"),
        ({"shots": (9,)}, "9 samples of each class .* and class 0 has 8"),
    ],
)
def test_impossible_settings_are_refused(root, settings, message):
    with pytest.raises(RecipeError, match=message):
        TipAdapter(open_set(DataSource(root=str(root))), **settings).run(SharedEncoder(HashEncoder()))
