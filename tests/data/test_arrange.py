"""Settings become an order; what contradicts itself is refused; any layout of processes reads the same samples."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from tests.shards import write_shards
from vlp.data import SampleSet
from vlp.data.arrange import arrange
from vlp.data.order.timetable import Ramp
from vlp.ground.types import RecipeError


@pytest.fixture
def cards(tmp_path):
    return [
        write_shards(tmp_path / "drawings", num_shards=3, samples_per_shard=4, formats=["png"]),
        write_shards(tmp_path / "photos", num_shards=2, samples_per_shard=3, formats=["png"]),
    ]


@pytest.fixture
def samples(cards):
    return SampleSet({card.name: card for card in cards})


def shares(drawings=2.0, photos=1.0):
    return {"drawings": Ramp(start=drawings), "photos": Ramp(start=photos)}


each_way = pytest.mark.parametrize(
    "settings",
    [
        {},
        {"shuffle_shards": 2},
        {"shares": shares()},
        {"shares": shares(), "mixing": "batch"},
        {"shares": shares(), "mixing": "shard", "shuffle_shards": 1},
    ],
    ids=["shuffled", "windows", "mixed", "batches", "shards"],
)


def ids_of(open_stream, cards, settings, position, num_batches, **layout):
    order = arrange(SampleSet({card.name: card for card in cards}), seed=0, batch_size=6, **settings)
    stream = open_stream(*cards, batch_size=6, order=order, **layout)
    return [number for batch in islice(stream.batches(position), num_batches) for number in batch.ids.tolist()]


@each_way
def test_another_number_of_processes_in_the_middle_loses_and_repeats_nothing(open_stream, cards, samples, settings):
    expected = ids_of(open_stream, cards, settings, 0, 9)
    halves = [ids_of(open_stream, cards, settings, 0, 4, rank=rank, world_size=2) for rank in range(2)]
    thirds = [ids_of(open_stream, cards, settings, 24, 2, rank=rank, world_size=3) for rank in range(3)]
    rest = ids_of(open_stream, cards, settings, 36, 3)
    found = [number for part in (*halves, *thirds, rest) for number in part]
    assert Counter(found) == Counter(expected)
    # 54 positions: three epochs of all samples, or with shares 36 of 12 drawings and 18 of 6 photos.
    assert Counter(found) == dict.fromkeys(range(18), 3)


@each_way
def test_shards_ahead_come_before_their_samples(samples, settings):
    order = arrange(samples, seed=0, batch_size=6, **settings)
    ends = np.cumsum(samples.sizes)
    for start in (0, 7, 30):
        _, ids = order.samples_at(np.arange(start, start + 18))
        needs = list(islice(samples.shards_ahead(order, start), 40))
        for position, place in enumerate(np.searchsorted(ends, ids, side="right"), start):
            here = {need.shard for need in needs if need.first <= position < need.end}
            assert samples.parts[place].shard in here


def test_batches_of_one_source(samples):
    order = arrange(samples, seed=0, batch_size=6, shares=shares(), mixing="batch")
    photos = order.samples_at(np.arange(60))[1].reshape(10, 6) >= 12
    assert (photos == photos[:, :1]).all() and photos.any() and not photos.all()


def test_sources_of_one_size_have_orders_of_their_own(cards):
    order = arrange(SampleSet({"drawings": cards[0], "photos": cards[0]}), seed=0, batch_size=6, shares=shares())
    _, ids = order.samples_at(np.arange(36))
    assert ids[ids < 12][:12].tolist() != (ids[ids >= 12] - 12).tolist()


def test_a_run_is_as_long_as_a_shard(samples):
    order = arrange(samples, seed=0, batch_size=1, shares=shares(), mixing="shard")
    found = "".join("p" if photo else "d" for photo in order.samples_at(np.arange(25))[1] >= 12)
    # Shards of 4 drawings are due at 3, 9, 15, 21 ..., shards of 3 photos at 4.5, 13.5, 22.5 ...
    assert found == "ddddpppddddpppddddddddppp"


def test_runs_are_whole_batches(samples):
    order = arrange(samples, seed=0, batch_size=2, shares=shares(), mixing="shard")
    photos = order.samples_at(np.arange(240))[1].reshape(60, 4) >= 12  # 3 photos are nearest to two batches of 2
    assert (photos == photos[:, :1]).all() and photos.mean() == pytest.approx(1 / 3, abs=0.02)


def test_a_stream_knows_what_was_read(open_stream, cards, samples):
    order = arrange(samples, seed=0, batch_size=6, shares=shares(2.0, 1.0))
    stream = open_stream(*cards, batch_size=6, order=order)
    seen = Counter(source for batch in islice(stream.batches(12), 4) for source in batch.sources)
    assert stream.shares(36, 24) == {f"source/{label}": count / 24 for label, count in seen.items()}
    assert stream.shares(36, 24) == pytest.approx({"source/drawings": 2 / 3, "source/photos": 1 / 3}, abs=1 / 24)
    assert open_stream(cards[0]).shares(36, 24) == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixing": "batch"}, "data.mixing=batch takes turns by share: give every source of data.train a share"),
        ({"shares": {"photos": Ramp(start=1)}}, "data.train: drawings: no share; give a share to every source or"),
        (
            {"shares": {name: Ramp(start=0, end=1, last_step=5) for name in ("drawings", "photos")}},
            "data.train: all shares are 0 at step 0: one source must have a share at every step",
        ),
    ],
)
def test_contradictions_are_refused(samples, settings, message):
    with pytest.raises(RecipeError, match=message):
        arrange(samples, seed=0, batch_size=6, **settings)


def test_repeat_beside_share_is_refused(cards):
    samples = SampleSet({card.name: card for card in cards}, {"photos": 2})
    with pytest.raises(RecipeError, match=r"data.train.photos: repeat and share .*; leave repeat out"):
        arrange(samples, seed=0, batch_size=6, shares=shares())


def test_the_share_of_an_only_source_is_refused(cards):
    with pytest.raises(RecipeError, match=r"data.train.photos.share: it is the only source; leave the share out"):
        arrange(SampleSet({"photos": cards[1]}), seed=0, batch_size=6, shares={"photos": Ramp(start=1)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": 0}, "a share is a number above 0"),
        ({"start": -1, "end": 1, "last_step": 3}, "a share is a number above 0"),
        ({"start": float("inf")}, "a share is a number above 0"),
        ({"start": float("nan")}, "a share is a number above 0"),
        ({"start": 1, "last_step": 3}, "no effect without end"),
        ({"start": 1, "end": 2}, "must come after first_step 0"),
    ],
)
def test_ramps_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Ramp(**settings)
