"""Batches that grow: where each begins is a pure function, and so is all that a stream and its shares make of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.shards import LetterTokenizer, write_shards
from vlp.data import Captions, Crop, SampleSet, Stream, Views
from vlp.data.arrange import arrange
from vlp.data.faults import BadSampleError
from vlp.data.order.batch_sizes import BatchSizes
from vlp.data.order.timetable import Ramp, Timetable
from vlp.ground.types import RecipeError

STAGES = ((2, 3), (4, 2))
BY_HAND = [2, 2, 2, 4, 4, *[8] * 20]  # samples of each batch


@pytest.fixture
def card(tmp_path):
    return write_shards(tmp_path / "tiny", num_shards=3, samples_per_shard=7)


def take(stream, count, position=0):
    batches = stream.batches(position)
    found = [next(batches) for _ in range(count)]
    batches.close()
    return found


def test_sizes_and_starts_are_those_of_a_list():
    sizes = BatchSizes(8, STAGES)
    starts = np.cumsum([0, *BY_HAND]).tolist()
    assert [sizes.size(number) for number in range(25)] == BY_HAND
    assert [sizes.start(number) for number in range(25)] == starts[:25]
    for position in range(starts[20]):
        if position in starts:
            assert sizes.number_at(position) == starts.index(position)
        else:
            with pytest.raises(ValueError, match="lies inside a batch"):
                sizes.number_at(position)
    for samples in range(1, starts[20]):
        assert sizes.count(samples) == next(number for number, start in enumerate(starts) if start >= samples)


def test_without_stages_all_are_alike():
    sizes = BatchSizes(8)
    assert ([sizes.size(5), sizes.start(5), sizes.number_at(40)], sizes.count(41)) == ([8, 40, 5], 6)


@pytest.mark.parametrize(("last", "first"), [(0, ()), (8, ((0, 1),)), (8, ((4, 0),)), (8, ((9, 1),))])
def test_numbers_without_sense_are_refused(last, first):
    with pytest.raises(ValueError, match=r"at least 1|larger than those at the end"):
        BatchSizes(last, first)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_samples_come_in_the_same_order_whatever_the_batches(open_stream, card, workers):
    grown = take(open_stream(card, batch_size=8, first_batches=STAGES, workers=workers, num_views=2), 8)
    even = take(open_stream(card, batch_size=2, num_views=2), 19)
    assert [len(batch) for batch in grown] == BY_HAND[:8]
    for name, axis in (("ids", 0), ("caption_ids", 0), ("images", 1), ("draws", 1), ("lengths", 1), ("visits", 0)):
        one, other = (torch.cat([getattr(batch, name) for batch in found], axis) for found in (grown, even))
        assert torch.equal(one, other), name


def test_a_stream_goes_on_from_any_batch_and_tells_where_it_ends(open_stream, card):
    def opened():
        return open_stream(card, batch_size=8, first_batches=STAGES)

    straight = take(opened(), 8)
    position = 0
    for number, batch in enumerate(straight):
        (again,) = take(opened(), 1, position)
        assert torch.equal(again.images, batch.images) and torch.equal(again.ids, batch.ids)
        assert opened().after(position) == position + BY_HAND[number]
        position = opened().after(position)
    with pytest.raises(RecipeError, match=r"position 3 lies inside a batch.*train\.first_batches"):
        take(opened(), 1, position=3)


def test_ranks_take_equal_slices_of_each(open_stream, card):
    whole = take(open_stream(card, batch_size=8, first_batches=STAGES), 7)
    parts = [
        take(open_stream(card, batch_size=8, first_batches=STAGES, rank=rank, world_size=2), 7) for rank in range(2)
    ]
    for number, batch in enumerate(whole):
        assert torch.equal(torch.cat([rank[number].ids for rank in parts]), batch.ids)
        assert [len(rank[number]) for rank in parts] == [BY_HAND[number] // 2] * 2
    with pytest.raises(RecipeError, match=r"train\.batch_size=2 does not divide among 4"):
        open_stream(card, batch_size=8, first_batches=STAGES, world_size=4)


def test_substitutes_are_no_members_of_a_small_batch(tmp_path, card):
    samples = SampleSet({"tiny": card})
    stream = Stream(
        samples, Views((Crop(8),), Captions()), LetterTokenizer(), batch_size=8, seed=0, first_batches=((4, 5),)
    )
    batches, broken = stream._batches, int(take(stream, 1)[0].ids[0])
    part = batches.part(0, 0, 4, np.empty(batches.shape(4), np.uint8), _refuse(broken))
    assert len(set(part.rows.ids.tolist())) == 4 and broken not in part.rows.ids


def _refuse(sample):
    def guard(number):
        if number == sample:
            raise BadSampleError("undecodable", "broken")

    return guard


@pytest.mark.parametrize("step", [0, 1, 2, 3, 4, 5, 6, 9])
def test_shares_change_by_steps_and_not_by_samples(step):
    ramps = [Ramp(start=1, end=3, first_step=1, last_step=6), Ramp(start=3, end=1, first_step=1, last_step=6)]
    timetable = Timetable(ramps, BatchSizes(8, STAGES))
    begins = float(np.cumsum([0, *BY_HAND])[step])
    given = timetable.amounts_at(begins + 1e-3) - timetable.amounts_at(begins)
    np.testing.assert_allclose(given / 1e-3, [ramp(step) / 4 for ramp in ramps], atol=1e-3)


def test_runs_of_whole_batches_are_refused(card, tmp_path):
    other = write_shards(tmp_path / "other", num_shards=1, samples_per_shard=5)
    samples = SampleSet({"tiny": card, "other": other})
    shares = {"tiny": Ramp(start=1), "other": Ramp(start=1)}
    with pytest.raises(RecipeError, match=r"data\.mixing=batch: runs of 8 samples do not fall together"):
        arrange(samples, seed=0, batch_size=8, first_batches=STAGES, shares=shares, mixing="batch")
    arrange(samples, seed=0, batch_size=8, first_batches=STAGES, shares=shares)
