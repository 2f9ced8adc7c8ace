"""Every image and every text is embedded once, and only usable embeddings count."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.evaluators.sets import HashEncoder, task_on, write_captions
from vlp.evaluators import shared as shared_module
from vlp.evaluators.dataset import DataSource, open_set
from vlp.evaluators.overlay import Overlay
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


def test_corrupted_images_are_embedded_apart_and_the_set_is_opened_once(tmp_path, monkeypatch):
    root = write_captions(tmp_path / "set")
    opened = []
    monkeypatch.setattr(shared_module, "open_set", lambda source: opened.append(source) or open_set(source))
    encoder = HashEncoder()
    shared = SharedEncoder(encoder)
    fog, snow = ({"kind": kind, "severity": 2} for kind in ("fog", "snow"))
    sources = [DataSource(root=str(root), corruption=corruption) for corruption in (None, fog, snow, fog)]
    rows = [shared.images(shared.open(source)) for source in sources]
    assert len(opened) == 1
    assert encoder.num_images == 3 * 40
    assert torch.equal(rows[1], rows[3])
    assert not torch.equal(rows[0], rows[1]) and not torch.equal(rows[1], rows[2])
    written = replace(shared.open(sources[0]), overlay=Overlay(("dog",) * 40))
    assert not torch.equal(shared.images(written), rows[0])


def test_embeddings_of_one_corruption_go_when_the_tasks_on_it_are_done(tmp_path):
    root = write_captions(tmp_path / "set")
    encoder = HashEncoder()
    shared = SharedEncoder(encoder)
    fog, snow = (
        DataSource(root=str(root), corruption={"kind": kind, "severity": 2}, typos=typos)
        for kind, typos in (("fog", None), ("snow", {"rate": 0.1}))
    )
    for source in (fog, snow):
        shared.images(shared.open(source))
    shared.keep_sets([DataSource(root=str(root), corruption={"kind": "snow", "severity": 2})])
    shared.images(shared.open(snow))
    assert encoder.num_images == 2 * 40
    shared.images(shared.open(fog))
    assert encoder.num_images == 3 * 40


def test_other_embeddings_can_stand_for_those_of_a_set(tmp_path):
    data = open_set(DataSource(root=str(write_captions(tmp_path / "set"))))
    shared = SharedEncoder(HashEncoder())
    clean, rows = shared.images(data), torch.eye(40, 16)
    shown = shared.showing(data, images=rows, texts=(("a", "a"), torch.eye(2, 16)))
    assert torch.equal(shown.images(data), rows)
    assert torch.equal(shown.texts(["a", "a"]), torch.eye(2, 16))  # as a list; alone a text is what it was
    assert torch.equal(shown.texts(["a"]), shared.texts(["a"]))
    assert torch.equal(shared.images(data), clean)
