"""The order is a permutation per epoch, looks random, and depends on nothing but its arguments."""

from __future__ import annotations

import numpy as np
import pytest

from vlp.data.order.shuffle import Ranges, Shuffle, Substitutes, permute

each_size = pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 16, 17, 100, 1109, 4436])


@each_size
def test_each_sample_comes_once_per_epoch(size):
    epochs, ids = Shuffle(size, seed=3).samples_at(np.arange(3 * size))
    assert epochs.tolist() == [epoch for epoch in range(3) for _ in range(size)]
    for epoch in range(3):
        assert sorted(ids[epochs == epoch]) == list(range(size))


def test_one_position_equals_its_place_in_a_block():
    order = Shuffle(50, seed=1)
    epochs, ids = order.samples_at(np.arange(200))
    alone = [order.samples_at(np.array([position])) for position in range(200)]
    assert [(int(epoch[0]), int(number[0])) for epoch, number in alone] == list(zip(epochs, ids, strict=True))


def test_epochs_and_seeds_differ():
    first = Shuffle(1000, seed=0).samples_at(np.arange(2000))[1]
    other = Shuffle(1000, seed=1).samples_at(np.arange(1000))[1]
    # Two random permutations agree in one place on average.
    assert (first[:1000] == first[1000:]).sum() < 10
    assert (first[:1000] == other).sum() < 10


def test_every_place_is_equally_likely():
    counts = np.zeros((8, 8))
    for key in range(4000):
        counts[np.arange(8), permute(np.arange(8), 8, key * 7919)] += 1
    # 500 expected, standard deviation 21: five deviations.
    assert np.abs(counts - 500).max() < 105


def test_neighbours_are_spread_over_the_whole_set():
    ids = Shuffle(10_000, seed=0).samples_at(np.arange(10_000))[1]
    steps = np.abs(np.diff(ids))
    # A third of the size on average for independent places; standard deviation of the mean is 24.
    assert abs(steps.mean() - 10_000 / 3) < 120
    assert abs(np.corrcoef(np.arange(10_000), ids)[0, 1]) < 0.05


def test_substitutes_are_no_members_of_their_batch_and_repeat():
    order = Shuffle(20, seed=0)
    members = set(order.samples_at(np.arange(8, 16))[1].tolist())
    found = [Substitutes(order, 8, 8).at(position, attempt) for position in range(8, 16) for attempt in range(1, 20)]
    assert not members & set(found) and len(set(found)) == 12
    assert found[0] == Substitutes(order, 8, 8).at(8, 1)


def test_substitutes_of_a_seed_never_change():
    found = Substitutes(Shuffle(20, seed=0), 8, 8)
    assert [found.at(8, attempt) for attempt in range(1, 7)] == [13, 9, 8, 10, 7, 8]


def test_the_only_sample_outside_a_batch_is_found():
    order = Shuffle(5, seed=0)
    (free,) = set(range(5)) - set(order.samples_at(np.arange(4))[1].tolist())
    assert {Substitutes(order, 0, 4).at(2, attempt) for attempt in range(1, 30)} == {free}


def test_where_all_samples_are_members_a_member_stands_in():
    assert Substitutes(Shuffle(4, seed=0), 0, 8).at(0, 1) in range(4)


def test_huge_sets_cost_no_memory():
    epochs, ids = Shuffle(10**11, seed=0).samples_at(np.array([5, 10**11 - 1, 10**11]))
    assert epochs.tolist() == [0, 0, 1]
    assert ((ids >= 0) & (ids < 10**11)).all()


def test_the_order_of_a_seed_never_changes():
    assert Shuffle(10, seed=0).samples_at(np.arange(10))[1].tolist() == [3, 6, 9, 2, 8, 0, 4, 7, 1, 5]


def test_ranges_lie_end_to_end():
    ranges = Ranges(np.array([10, 0, 5, 7]), np.array([2, 3, 0, 1]))
    assert len(ranges) == 6
    assert ranges.at(np.arange(6)).tolist() == [10, 11, 0, 1, 2, 7]
    assert ranges.moved(100).at(np.array([5])).tolist() == [107]
