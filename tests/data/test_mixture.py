"""Sources come in their shares, in runs of the wanted length, each in its own order, wherever one starts to look."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.data.order.batch_sizes import BatchSizes
from vlp.data.order.mixture import Ingredient, Mixture
from vlp.data.order.shuffle import Shuffle, Substitutes
from vlp.data.order.timetable import Ramp, Timetable
from vlp.data.order.windows import Windows

unhurried = settings(max_examples=60, deadline=None, derandomize=True)
BATCH = 4
ramps = st.one_of(
    st.builds(lambda start: Ramp(start=start), st.floats(0.01, 100)),
    st.builds(
        lambda start, end, first, length: Ramp(start=start, end=end, first_step=first, last_step=first + length),
        st.one_of(st.just(0.0), st.floats(0.01, 10)),
        st.floats(0.01, 10),
        st.integers(0, 20),
        st.integers(1, 40),
    ),
)
ENDING = Ramp(start=1.0, end=0.0, first_step=3, last_step=9)
many_ramps = st.lists(ramps, min_size=1, max_size=3).map(lambda found: [*found, ENDING, Ramp(start=0.5)])


def mix(weights, runs=1, sizes=None):
    """Mix sources of 10, 11, 12 ... samples."""
    sizes = sizes or [10 + number for number in range(len(weights))]
    runs = [runs] * len(weights) if isinstance(runs, int) else runs
    firsts = np.cumsum(sizes) - sizes
    ingredients = [
        Ingredient(Shuffle(size, number, 1), run, int(first), number)
        for number, (size, run, first) in enumerate(zip(sizes, runs, firsts, strict=True))
    ]
    weights = [weight if isinstance(weight, Ramp) else Ramp(start=weight) for weight in weights]
    return Mixture(ingredients, Timetable(weights, BatchSizes(BATCH)), seed=0)


def sources_of(order, positions):
    ends = np.cumsum([ingredient.order.num_samples for ingredient in order.ingredients])
    return np.searchsorted(ends, order.samples_at(positions)[1], side="right")


def turns_by_hand(weights, runs, length):
    """Lay out all runs from the first one on, by the time at which they are due."""
    timetable = Timetable(weights, BatchSizes(BATCH))
    due = [
        (float(timetable.times_of(np.array([source]), np.array([(number + 0.5) * run]))[0]), source)
        for source, run in enumerate(runs)
        for number in range(length)
    ]
    return [source for _, source in sorted(due) for _ in range(runs[source])][:length]


def amounts_by_hand(weights, time, pieces):
    """Sum shares over small pieces of time; between the steps that ramps name, shares are straight lines."""
    named = sorted({0, *(step for weight in weights for step in (weight.first_step, weight.last_step))})
    values = np.array([[weight(step) for step in named] for weight in weights])
    shares = values / values.sum(axis=0)
    middles = (np.arange(pieces) + 0.5) * time / pieces
    return np.array([np.interp(middles / BATCH, named, share).mean() * time for share in shares])


@unhurried
@given(many_ramps, st.floats(1, 400))
def test_amounts_are_the_sum_of_the_shares(weights, time):
    found = Timetable(weights, BatchSizes(BATCH)).amounts_at(time)
    assert found.sum() == pytest.approx(time)
    assert found == pytest.approx(amounts_by_hand(weights, time, 20_000), abs=1e-3)  # the sum has finite pieces


@unhurried
@given(many_ramps, st.floats(0.5, 400))
def test_times_invert_amounts(weights, time):
    timetable = Timetable(weights, BatchSizes(BATCH))
    for source, amount in enumerate(timetable.amounts_at(time)):
        if amount > 1e-6:
            (found,) = timetable.times_of(np.array([source]), np.array([amount]))
            assert timetable.amounts_at(found)[source] == pytest.approx(amount, rel=1e-9)


@unhurried
@given(many_ramps, st.lists(st.integers(1, 9), min_size=5, max_size=5))
def test_equals_a_layout_of_all_runs_from_the_start(weights, runs):
    runs = runs[: len(weights)]
    found = sources_of(mix(weights, runs), np.arange(200))
    assert found.tolist() == turns_by_hand(weights, runs, 200)


@unhurried
@given(many_ramps, st.lists(st.integers(1, 9), min_size=5, max_size=5), st.integers(0, 300), st.integers(1, 40))
def test_a_block_equals_its_place_in_a_longer_one(weights, runs, start, length):
    order = mix(weights, runs[: len(weights)])
    epochs, ids = order.samples_at(np.arange(340))
    found = order.samples_at(np.arange(start, start + length))
    assert found[0].tolist() == epochs[start : start + length].tolist()
    assert found[1].tolist() == ids[start : start + length].tolist()


@unhurried
@given(many_ramps, st.lists(st.integers(1, 9), min_size=5, max_size=5))
def test_each_source_gives_all_its_samples_before_any_comes_again(weights, runs):
    order = mix(weights, runs[: len(weights)])
    epochs, ids = order.samples_at(np.arange(400))
    sources = sources_of(order, np.arange(400))
    for source, ingredient in enumerate(order.ingredients):
        own_epochs, own_ids = ingredient.order.samples_at(np.arange((sources == source).sum()))
        assert epochs[sources == source].tolist() == own_epochs.tolist()
        assert ids[sources == source].tolist() == (own_ids + ingredient.first_id).tolist()


@pytest.mark.parametrize("weights", [[3, 1], [1, 1, 1], [0.7, 0.2, 0.05, 0.05], [1000, 1]])
def test_shares_are_exact_to_a_sample_per_source_at_every_position(weights):
    sources = sources_of(mix(weights), np.arange(20_000))
    for source, weight in enumerate(weights):
        counts = np.cumsum(sources == source)
        wanted = np.arange(1, 20_001) * weight / sum(weights)
        assert np.abs(counts - wanted).max() < len(weights)
        assert abs((counts[10_000:] - counts[:10_000]) / 10_000 - weight / sum(weights)).max() < 0.01


def test_equal_weights_take_turns():
    assert sources_of(mix([1, 1, 1]), np.arange(9)).tolist() == [0, 1, 2] * 3


def test_weights_change_in_a_straight_line():
    order = mix(
        [Ramp(start=1, end=0, first_step=0, last_step=1000), Ramp(start=0, end=1, first_step=0, last_step=1000)]
    )
    seconds = sources_of(order, np.arange(1100 * BATCH)) == 1
    assert [seconds[step * BATCH :][:400].mean() for step in (0, 450, 900, 1000)] == pytest.approx(
        [0.05, 0.5, 0.95, 1], abs=0.005
    )


def test_far_away_costs_as_much_as_near():
    order = mix([2, 1], sizes=[10**9, 10**9])
    far = 10**12 + np.arange(300)
    assert (sources_of(order, far) == 0).sum() == 200
    assert order.samples_at(far[100:200])[1].tolist() == order.samples_at(far)[1][100:200].tolist()
    scattered = np.array([5, 10**12 + 150, 7])
    assert order.samples_at(scattered)[1][1] == order.samples_at(far)[1][150]


def test_runs_fill_whole_batches():
    sources = sources_of(mix([2, 1], runs=[2 * BATCH, BATCH]), np.arange(60 * BATCH)).reshape(-1, BATCH)
    assert (sources == sources[:, :1]).all()
    lengths = np.diff(np.flatnonzero(np.diff(sources[:, 0]) != 0))
    assert {*lengths[sources[:, 0][1:][np.diff(sources[:, 0]) != 0][:-1] == 1]} == {1}
    assert (sources == 0).mean() == pytest.approx(2 / 3, abs=0.02)


def test_substitutes_come_from_the_same_source():
    order = mix([1, 1])
    _, ids = order.samples_at(np.arange(8, 16))
    for position, member in zip(range(8, 16), ids.tolist(), strict=True):
        found = {Substitutes(order, 8, 8).at(position, attempt) for attempt in range(1, 60)}
        own = set(range(10)) if member < 10 else set(range(10, 21))
        assert found == own - set(ids.tolist())


@pytest.mark.parametrize("run", [1, 4])
@pytest.mark.parametrize("start", [0, 37])
def test_shards_are_told_by_the_position_from_which_they_are_needed(run, start):
    sizes = [np.array([4, 0, 3, 5]), np.array([2, 6])]
    ingredients = [
        Ingredient(Windows(sizes[0], 1, 0), run, 0, 0),
        Ingredient(Windows(sizes[1], 1, 1), run, 12, 4),
    ]
    order = Mixture(ingredients, Timetable([Ramp(start=2), Ramp(start=1)], BatchSizes(BATCH)), seed=0)
    sources = sources_of(order, np.arange(300))
    expected = []
    for number, ingredient in enumerate(ingredients):
        positions = np.flatnonzero(sources == number)
        begun = int((positions < start).sum())
        for first, end, shard in ingredient.order.shards_from(begun):
            if end >= len(positions):
                break
            expected.append((int(positions[first]), int(positions[end]), ingredient.first_shard + shard))
    assert list(islice(order.shards_from(start), len(expected))) == sorted(expected)


@pytest.mark.parametrize("run", [1, 4])
def test_epochs_begun_are_those_of_the_source_that_comes_again_soonest(run):
    ingredients = [Ingredient(Shuffle(50, 0), run, 0, 0), Ingredient(Windows(np.array([2, 6]), 1, 1), run, 50, 1)]
    order = Mixture(ingredients, Timetable([Ramp(start=2), Ramp(start=1)], BatchSizes(BATCH)), seed=0)
    epochs, _ = order.samples_at(np.arange(100))
    assert [order.epochs_begun(position) for position in range(1, 101)] == (1 + np.maximum.accumulate(epochs)).tolist()


def test_a_source_that_ran_dry_needs_no_more_shards():
    order = Mixture(
        [Ingredient(Windows(np.array([4, 4]), 1, 0), 1, 0, 0), Ingredient(Shuffle(9, 1, 1), 1, 8, 2)],
        Timetable([Ramp(start=1, end=0, last_step=2), Ramp(start=1)], BatchSizes(BATCH)),
        seed=0,
    )
    first = next(order.ingredients[0].order.shards_from(0)).shard
    assert {use.shard for use in order.shards_from(0)} == {first, 2}
