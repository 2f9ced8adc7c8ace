"""The typographic attack: whom does a model believe?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.evaluators.kinds import check_samples, values_of, write_set
from tests.evaluators.sets import HashEncoder, opened, unit, write_classes
from vlp.evaluators.shared import SharedEncoder
from vlp.evaluators.typographic import Typographic
from vlp.ground.types import RecipeError

NAMES = ("red cat", "green dog", "blue bird")


class Reader:
    """A model that takes an image for what is written on it, and for its picture where nothing is."""

    scale = 100.0

    def __init__(self, evaluator: Typographic, believes: float):
        self.labels = {}
        data = evaluator.data
        rows = torch.eye(len(data.class_names))
        for index in range(len(data)):
            written = index < believes * len(data)
            self.labels[evaluator.attacked.image(index).tobytes()] = rows[
                evaluator.written[index] if written else data.labels[index]
            ]
            self.labels[evaluator.clean.image(index).tobytes()] = rows[data.labels[index]]
        self.rows = {text: rows[number // 2] for number, text in enumerate(evaluator.texts)}

    def embed_images(self, images):
        return torch.stack([self.labels[image.tobytes()] for image in images])

    def embed_texts(self, texts):
        return torch.stack([self.rows[text] for text in texts])


@pytest.fixture
def data(tmp_path):
    return opened(write_classes(tmp_path / "set", labels=[i % 3 for i in range(20)]))


@pytest.mark.parametrize("believes", [0.0, 0.25, 1.0])
def test_the_share_that_follows_the_words_is_counted(data, believes):
    evaluator = Typographic(data)
    evaluation = evaluator.run(SharedEncoder(Reader(evaluator, believes)))
    assert values_of(evaluation) == {
        "acc1": 1 - believes,
        "followed": believes,
        "acc1_clean": 1.0,
        "followed_clean": 0.0,
    }
    assert evaluation.metrics[1].count == 20
    check_samples(evaluation, ["acc1", "followed", "acc1_clean", "followed_clean"])
    assert evaluation.details["written"] == list(evaluator.written)


def test_the_written_class_is_wrong_and_any_of_the_others(data):
    written = Typographic(data).written
    assert all(wrong != label for wrong, label in zip(written, data.labels, strict=True))
    assert set(written) == {0, 1, 2}
    assert written != Typographic(data, seed=1).written
    assert written == Typographic(data).written


def test_only_the_words_differ_from_the_clean_images(data):
    evaluator = Typographic(data)
    attacked, clean = (np.asarray(each.image(3)).astype(int) for each in (evaluator.attacked, evaluator.clean))
    assert attacked.shape == clean.shape == (224, 224, 3)
    assert 0.002 < (attacked != clean).any(axis=2).mean() < 0.5


def test_two_classes_of_one_name_are_not_wrong_for_each_other(tmp_path):
    root = write_set(
        tmp_path / "set",
        "classification",
        {f"s{i}": {"cls": str(i % 3).encode()} for i in range(12)},
        ["crane", "Crane", "dog"],
    )
    data = opened(root)
    evaluator = Typographic(data)
    for label, wrong in zip(data.labels, evaluator.written, strict=True):
        assert (data.class_names[label] == "dog") != (data.class_names[wrong] == "dog")

    class SaysCrane(HashEncoder):
        def embed_images(self, images):
            return unit(torch.ones(len(list(images)), self.width)) * 0 + self.embed_texts(["a crane"])

    found = evaluator.run(SharedEncoder(SaysCrane()))
    # all dogs are taken for the first crane, whichever of the two is written on them
    assert values_of(found)["followed"] == pytest.approx(4 / 12)


def test_names_that_leave_nothing_wrong_or_cannot_be_written_are_refused(tmp_path):
    samples = {f"s{i}": {"cls": str(i).encode()} for i in range(2)}
    with pytest.raises(RecipeError, match="all classes have one name"):
        Typographic(opened(write_set(tmp_path / "one", "classification", samples, ["a", "A"])))
    with pytest.raises(RecipeError, match="class name '猫'"):
        Typographic(opened(write_set(tmp_path / "cat", "classification", samples, ["a", "猫"])))


def test_images_of_any_size_are_written_on(tmp_path):
    data = opened(write_classes(tmp_path / "set"))
    assert isinstance(Typographic(data).attacked.image(0), Image.Image)
