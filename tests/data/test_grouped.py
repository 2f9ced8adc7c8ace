"""Batches of one group: every batch is, no sample comes twice in an epoch, and the position is the whole state."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.shards import write_shards
from vlp.data import SampleSet
from vlp.data.arrange import arrange
from vlp.data.order.grouped import Grouped
from vlp.data.order.shuffle import Substitutes
from vlp.data.sample_groups import read_groups, write_groups
from vlp.data.shards.cards import load_card
from vlp.ground.types import RecipeError

unhurried = settings(max_examples=60, deadline=None, derandomize=True)
labels = st.lists(st.integers(-1, 4), min_size=12, max_size=60).map(lambda drawn: np.array([0, 0, 0, *drawn]))
batch_sizes = st.integers(1, 3)


@unhurried
@given(labels, batch_sizes, st.integers(0, 5))
def test_every_batch_is_of_one_group_and_every_group_comes_as_often_as_it_fills_one(groups, batch_size, seed):
    order = Grouped(groups, batch_size, seed)
    epochs, ids = order.samples_at(np.arange(2 * order.num_samples))
    for epoch in range(2):
        batches = groups[ids[epochs == epoch]].reshape(-1, batch_size)
        assert (batches == batches[:, :1]).all() and (batches >= 0).all()
        assert len(set(ids[epochs == epoch].tolist())) == order.num_samples
        wanted = [np.count_nonzero(groups == group) // batch_size for group in range(5)]
        assert np.bincount(batches[:, 0], minlength=5).tolist() == wanted


@unhurried
@given(labels, batch_sizes, st.integers(0, 70), st.integers(1, 20))
def test_a_block_equals_its_place_in_a_longer_one(groups, batch_size, start, length):
    order = Grouped(groups, batch_size, 1)
    epochs, ids = order.samples_at(np.arange(start + length))
    found = order.samples_at(np.arange(start, start + length))
    assert found[0].tolist() == epochs[start:].tolist() and found[1].tolist() == ids[start:].tolist()


def test_other_samples_rest_in_other_epochs_and_batches_take_turns():
    groups = np.repeat([0, 1], [11, 9])
    order = Grouped(groups, 4, seed=3)
    assert order.num_samples == 16
    _, ids = order.samples_at(np.arange(40 * 16))
    assert set(ids.tolist()) == set(range(20))
    turns = groups[ids[::4]].reshape(40, 4)
    assert {tuple(epoch) for epoch in turns.tolist()} == {
        (a, b, c, d) for a in (0, 1) for b in (0, 1) for c in (0, 1) for d in (0, 1) if a + b + c + d == 2
    }


def test_substitutes_come_from_the_group_and_are_no_members():
    groups = np.arange(30) % 3
    order = Grouped(groups, 4, seed=0)
    members = order.samples_at(np.arange(8, 12))[1]
    found = [Substitutes(order, 8, 4).at(9, attempt) for attempt in range(1, 20)]
    assert set(groups[found].tolist()) == {int(groups[members[0]])} and not set(found) & set(members.tolist())


def test_the_order_of_a_seed_never_changes():
    order = Grouped(np.arange(10) % 2, 2, seed=5)
    assert order.samples_at(np.arange(8))[1].tolist() == [2, 8, 9, 5, 4, 0, 1, 7]


@pytest.fixture
def samples(tmp_path):
    write_shards(tmp_path, num_shards=2, samples_per_shard=7)
    (tmp_path / "card.yaml").write_text(f"name: tiny\nshards: {tmp_path}/*.tar\n")
    card = load_card(str(tmp_path / "card.yaml"))
    return SampleSet({"tiny": card})


def test_one_group_is_the_ordinary_order(samples):
    places = np.arange(28)
    plain = arrange(samples, seed=1, batch_size=4).samples_at(places)[1]
    one = arrange(samples, seed=1, batch_size=4, groups=np.zeros(14, dtype=np.int64))
    assert one.samples_at(places)[1].tolist() == plain.tolist()


def test_groups_that_cannot_serve_are_refused(samples, tmp_path):
    (card,) = samples.cards.values()
    with pytest.raises(RecipeError, match=r"data\.groups: the largest of 7 groups has 2 samples, fewer than train"):
        arrange(samples, seed=1, batch_size=4, groups=np.arange(14) % 7)
    with pytest.raises(RecipeError, match=r"train\.first_batches: batches of one group have one size"):
        arrange(samples, seed=1, batch_size=2, first_batches=[(1, 3)], groups=np.arange(14) % 7)
    with pytest.raises(RecipeError, match=r"data\.shuffle_shards"):
        arrange(samples, seed=1, batch_size=2, shuffle_shards=1, groups=np.arange(14) % 7)
    with pytest.raises(RecipeError, match=r"data\.groups: .*holds no groups"):
        read_groups(tmp_path / "none", samples)
    write_groups(tmp_path / "groups", np.arange(13) % 7, {"fingerprint": card.fingerprint})
    with pytest.raises(RecipeError, match=r"data\.groups: .*other samples than tiny"):
        read_groups(tmp_path / "groups", samples)
    for several in (SampleSet({"tiny": card, "again": card}), SampleSet({"tiny": card}, {"tiny": 2})):
        with pytest.raises(RecipeError, match=r"data\.groups: groups are of one card: leave one source"):
            read_groups(tmp_path / "groups", several)
