"""Windows give a permutation per epoch, from few shards at a time, and tell which."""

from __future__ import annotations

from itertools import chain, groupby, islice, takewhile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.data.order.shuffle import Substitutes
from vlp.data.order.windows import Windows

unhurried = settings(max_examples=60, deadline=None, derandomize=True)
shard_sizes = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any).map(np.array)
windows = st.integers(1, 15)


def shard_of(ids, sizes):
    return np.searchsorted(np.cumsum(sizes), ids, side="right")


@unhurried
@given(shard_sizes, windows, st.integers(0, 5))
def test_each_sample_comes_once_per_epoch(sizes, window, seed):
    order = Windows(sizes, window, seed)
    epochs, ids = order.samples_at(np.arange(3 * order.num_samples))
    assert epochs.tolist() == sorted([*range(3)] * order.num_samples)
    for epoch in range(3):
        assert sorted(ids[epochs == epoch]) == list(range(order.num_samples))


@unhurried
@given(shard_sizes, windows, st.integers(0, 40), st.integers(1, 20))
def test_a_block_equals_its_place_in_a_longer_one(sizes, window, start, length):
    epochs, ids = Windows(sizes, window, 1).samples_at(np.arange(100))
    order = Windows(sizes, window, 1)
    order.samples_at(np.array([99]))  # what was asked before leaves no trace
    found = order.samples_at(np.arange(start, start + length))
    assert found[0].tolist() == epochs[start : start + length].tolist()
    assert found[1].tolist() == ids[start : start + length].tolist()


@unhurried
@given(shard_sizes, windows)
def test_a_shard_is_told_with_the_first_position_of_its_window_and_used_up_in_it(sizes, window):
    order = Windows(sizes, window, 2)
    shards = shard_of(order.samples_at(np.arange(order.num_samples))[1], sizes)
    uses = takewhile(lambda use: use.first < order.num_samples, order.shards_from(0))
    told = {first: [use.shard for use in group] for first, group in groupby(uses, key=lambda use: use.first)}
    assert sorted(chain.from_iterable(told.values())) == np.flatnonzero(sizes).tolist()
    ends = [*list(told)[1:], order.num_samples]
    for (first, members), end in zip(told.items(), ends, strict=True):
        assert len(members) <= window
        assert sorted(shards[first:end]) == sorted(np.repeat(members, sizes[members]))


@unhurried
@given(shard_sizes, windows, st.integers(0, 60))
def test_shards_from_the_middle_are_those_from_the_start_of_its_window(sizes, window, position):
    order = Windows(sizes, window, 2)
    expected = list(islice(order.shards_from(0), 200))
    begun = max(use.first for use in expected if use.first <= position)
    expected = [use._replace(first=max(use.first, position)) for use in expected if use.first >= begun]
    assert list(islice(order.shards_from(position), 20)) == expected[:20]


def test_windows_hold_few_shards_and_mix_them():
    order = Windows(np.full(100, 50), 4, seed=0)
    shards = shard_of(order.samples_at(np.arange(5000))[1], np.full(100, 50)).reshape(25, 200)
    assert all(len(set(window)) == 4 for window in shards)
    # Neighbours of one shard: 49 / 199 where a window is shuffled, nearly all where it is not.
    assert abs((shards[:, 1:] == shards[:, :-1]).mean() - 49 / 199) < 0.03


def test_epochs_and_seeds_draw_other_windows():
    first = Windows(np.full(200, 1), 1, seed=0).samples_at(np.arange(400))[1]
    other = Windows(np.full(200, 1), 1, seed=1).samples_at(np.arange(200))[1]
    assert (first[:200] == first[200:]).sum() < 10
    assert (first[:200] == other).sum() < 10


def test_substitutes_come_from_the_window_and_are_no_members():
    order = Windows(np.array([5, 0, 5, 5, 5]), 2, seed=0)
    for start in range(0, 20, 4):
        members = order.samples_at(np.arange(start, start + 4))[1].tolist()
        window = set(order.peers(start).at(np.arange(len(order.peers(start)))).tolist())
        found = {Substitutes(order, start, 4).at(start, attempt) for attempt in range(1, 40)}
        assert found == window - set(members)


@pytest.mark.parametrize("window", [1, 3])
def test_the_order_of_a_seed_never_changes(window):
    known = {1: [9, 7, 8, 1, 0, 2, 4, 6, 5, 3], 3: [9, 8, 7, 0, 5, 2, 4, 1, 6, 3]}
    assert Windows(np.array([3, 4, 2, 0, 1]), window, 0).samples_at(np.arange(10))[1].tolist() == known[window]
