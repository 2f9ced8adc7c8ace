"""The order is a permutation per epoch, looks random, and depends on nothing but its arguments."""

from __future__ import annotations

import numpy as np
import pytest

from vlp.data.order import Order, Substitutes, permute

each_size = pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 16, 17, 100, 1109, 4436])


@each_size
def test_each_sample_comes_once_per_epoch(size):
    epochs, ids = Order(size, seed=3).samples_at(np.arange(3 * size))
    assert epochs.tolist() == [epoch for epoch in range(3) for _ in range(size)]
    for epoch in range(3):
        assert sorted(ids[epochs == epoch]) == list(range(size))


def test_one_position_equals_its_place_in_a_block():
    order = Order(50, seed=1)
    epochs, ids = order.samples_at(np.arange(200))
    assert [order.sample_at(position) for position in range(200)] == list(zip(epochs, ids, strict=True))


def test_epochs_and_seeds_differ():
    first = Order(1000, seed=0).samples_at(np.arange(2000))[1]
    other = Order(1000, seed=1).samples_at(np.arange(1000))[1]
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
    ids = Order(10_000, seed=0).samples_at(np.arange(10_000))[1]
    steps = np.abs(np.diff(ids))
    # A third of the size on average for independent places; standard deviation of the mean is 24.
    assert abs(steps.mean() - 10_000 / 3) < 120
    assert abs(np.corrcoef(np.arange(10_000), ids)[0, 1]) < 0.05


def test_substitutes_are_no_members_of_their_batch_and_repeat():
    order = Order(20, seed=0)
    members = set(order.samples_at(np.arange(8, 16))[1].tolist())
    found = [Substitutes(order, 8, 8).at(position, attempt) for position in range(8, 16) for attempt in range(1, 20)]
    assert not members & set(found) and len(set(found)) == 12
    assert found[0] == Substitutes(order, 8, 8).at(8, 1)


def test_where_all_samples_are_members_a_member_stands_in():
    assert Substitutes(Order(4, seed=0), 0, 8).at(0, 1) in range(4)


def test_huge_sets_cost_no_memory():
    epochs, ids = Order(10**11, seed=0).samples_at(np.array([5, 10**11 - 1, 10**11]))
    assert epochs.tolist() == [0, 0, 1]
    assert ((ids >= 0) & (ids < 10**11)).all()


def test_the_order_of_a_seed_never_changes():
    assert Order(10, seed=0).samples_at(np.arange(10))[1].tolist() == [3, 6, 9, 2, 8, 0, 4, 7, 1, 5]
