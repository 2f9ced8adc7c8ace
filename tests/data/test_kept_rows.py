"""Rows that are computed once: what is known, what a crash forgets, and what other processes see."""

from __future__ import annotations

import multiprocessing
import pickle
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.shards import LetterTokenizer, write_shards
from vlp.data import Captions, Crop, SampleSet, Stream, Views
from vlp.data.kept_rows import KeptRows
from vlp.ground.types import RecipeError

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3) / 7


@pytest.fixture
def rows(tmp_path):
    made = KeptRows(tmp_path / "kept" / "0", 10, 3)
    made.begin("tower 1")
    made.open()
    return made


def again(rows, about="tower 1"):
    other = KeptRows(rows.stem, *rows.shape)
    other.begin(about)
    other.open()
    return other


def test_what_was_written_is_known_and_read_to_the_bit(rows):
    assert rows.num_known == 0
    rows.write(np.array([7, 2, 5, 0]), ROWS)
    assert rows.has(np.arange(10)).tolist() == [k in (0, 2, 5, 7) for k in range(10)]
    assert np.array_equal(rows.read(np.array([5, 7])), ROWS[[2, 0]])


def test_a_saved_row_survives_and_another_is_forgotten(rows):
    rows.write(np.array([1, 2]), ROWS[:2])
    rows.save()
    rows.write(np.array([3]), ROWS[3:])
    other = again(rows)
    assert np.flatnonzero(other.has(np.arange(10))).tolist() == [1, 2]
    assert np.array_equal(other.read(np.array([1, 2])), ROWS[:2])


@pytest.mark.parametrize(
    ("damage", "about"),
    [
        (lambda stem: None, "tower 2"),
        (lambda stem: stem.with_name("0.rows").unlink(), "tower 1"),
        (lambda stem: stem.with_name("0.rows").write_bytes(b"short"), "tower 1"),
        (lambda stem: stem.with_name("0.saved").write_bytes(b"short"), "tower 1"),
        (lambda stem: stem.with_name("0.about").unlink(), "tower 1"),
    ],
    ids=["another tower", "no rows", "half of the rows", "half of what is known", "nobody knows of what"],
)
def test_rows_of_anything_else_are_forgotten(rows, damage, about):
    rows.write(np.array([1, 2]), ROWS[:2])
    rows.save()
    damage(rows.stem)
    other = again(rows, about)
    assert other.num_known == 0
    other.write(np.array([4]), ROWS[:1])
    other.save()
    assert np.flatnonzero(again(other, about).has(np.arange(10))).tolist() == [4]


def test_want_of_room_is_said_before_the_first_row(tmp_path):
    endless = KeptRows(tmp_path / "kept" / "0", 10**12, 512)
    with pytest.raises(RecipeError, match=r"2,048,000\.0 GB for embeddings cannot be had.*train\.keep_locked=false"):
        endless.begin("tower 1")


def _write(rows):
    rows.write(np.array([9]), ROWS[:1])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_see_what_others_write(rows, method):
    """Those that train share the files, and those that decode are forked or spawned from them."""
    process = multiprocessing.get_context(method).Process(target=_write, args=(rows,))
    process.start()
    process.join()
    assert np.array_equal(rows.read(np.array([9])), ROWS[:1])
    assert rows.num_known == 1
    assert pickle.loads(pickle.dumps(rows)).num_known == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_leaves_out_what_is_kept_and_nothing_else(tmp_path, rows, workers):
    card = write_shards(tmp_path / "tiny", num_shards=2, samples_per_shard=5)

    def stream():
        samples = SampleSet({card.name: card})
        views = Views((Crop(8, scale=(1.0, 1.0), flip=0.0),), Captions())
        return Stream(samples, views, LetterTokenizer(), batch_size=2, seed=0, workers=workers)

    rows.write(np.arange(4), ROWS)
    plain, cut = stream(), stream()
    cut.leave_out(rows)
    seen = set()
    for whole, batch in islice(zip(plain.batches(0), cut.batches(0), strict=True), 10):
        numbers = batch.visits[:, 1]
        seen |= set(numbers.tolist())
        assert torch.equal(batch.visits, whole.visits) and torch.equal(numbers, batch.ids)
        assert batch.blank.tolist() == [number < 4 for number in numbers.tolist()]
        assert batch.captions == whole.captions and torch.equal(batch.tokens, whole.tokens)
        if batch.blank.all():
            assert batch.images.shape == (1, 2, 0, 0, 3)
            continue
        assert not batch.images[:, batch.blank].any()
        assert torch.equal(batch.images[:, ~batch.blank], whole.images[:, ~batch.blank])
    assert seen == set(range(10))


def test_an_image_that_is_kept_is_not_even_read(tmp_path, rows):
    """Its bytes may be gone: captions are all that is needed."""
    card = write_shards(tmp_path / "tiny", num_shards=1, samples_per_shard=4)
    samples = SampleSet({card.name: card})
    stream = Stream(samples, Views((Crop(8),), Captions()), LetterTokenizer(), batch_size=4, seed=0)
    rows.write(np.arange(4), ROWS)
    stream.leave_out(rows)
    for place in range(4):
        member = samples[place].members[samples[place].image_member()]
        with Path(samples[place].shard.location).open("r+b") as file:
            file.seek(member.offset)
            file.write(b"\0" * member.size)
    (batch,) = islice(stream.batches(0), 1)
    assert batch.blank.all() and not stream.faults.total
