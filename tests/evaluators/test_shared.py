"""Every image and every text is embedded once, and only usable embeddings count."""

from __future__ import annotations

import pytest
import torch

from tests.evaluators.sets import HashEncoder, task_on, write_captions
from vlp.evaluators.shared import SharedEncoder, chunk_size, decode_ahead
from vlp.evaluators.tasks import run_tasks
from vlp.ground.types import RecipeError


class Broken(HashEncoder):
    """Embeds with whatever function it is given."""

    def __init__(self, spoil):
        super().__init__()
        self.spoil = spoil

    def embed_texts(self, texts):
        return self.spoil(super().embed_texts(texts))


def test_images_are_embedded_once_for_all_tasks_on_a_set(tmp_path):
    root = write_captions(tmp_path / "set")
    encoder = HashEncoder()
    tasks = [task_on(root, "retrieval", "mean_recall@1", samples=40), task_on(root, "geometry", "auc")]
    records = run_tasks(tasks, encoder, model="m")
    assert all("error" not in record for record in records)
    assert encoder.num_images == 40


def test_each_distinct_text_is_embedded_once():
    encoder = HashEncoder()
    shared = SharedEncoder(encoder)
    first = shared.texts(["a", "b", "a"])
    second = shared.texts(["c", "b"])
    assert encoder.texts == ["a", "b", "c"]
    assert torch.equal(first[0], first[2])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows * torch.nan, "not finite"),
        (lambda rows: rows * 2, "unit norm"),
        (lambda rows: rows[1:], "for 2 inputs"),
    ],
)
def test_unusable_embeddings_are_an_error(spoil, message):
    with pytest.raises(RecipeError, match=message):
        SharedEncoder(Broken(spoil)).texts(["a", "b"])


def test_images_decoded_ahead_keep_their_order():
    assert list(decode_ahead(lambda index: index * index, range(3, 100))) == [i * i for i in range(3, 100)]


def test_an_image_that_fails_ahead_fails_in_its_turn():
    images = decode_ahead(lambda index: 1 // (5 - index), range(10))
    assert [next(images) for _ in range(5)] == [0, 0, 0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(images)


@pytest.mark.parametrize(
    ("size", "least", "expected"), [(1, 16, 16), (353, 16, 16), (353, 64, 64), (5000, 64, 79), (50_000, 16, 256)]
)
def test_chunks_depend_on_the_number_of_samples_alone(size, least, expected):
    assert chunk_size(size, least) == expected
