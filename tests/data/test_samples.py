"""A card that keeps some samples holds these alone, under ids without gaps, and refuses a list that does not fit."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.shards import sample_members, write_shards, write_tar
from vlp.data import Card, SampleSet
from vlp.data.arrange import arrange
from vlp.data.shards.kept import read_kept, write_kept
from vlp.ground.types import RecipeError

unhurried = settings(max_examples=20, deadline=None, derandomize=True)


def caption(samples: SampleSet, number: int) -> str:
    return samples[number].read("txt").decode().split(",")[0]


@pytest.fixture
def card(tmp_path) -> Card:
    """Four shards of 3, 0, 5 and 4 samples."""
    numbers = iter(range(12))
    for shard, size in enumerate([3, 0, 5, 4]):
        members = [member for _ in range(size) for member in sample_members(next(numbers))]
        write_tar(tmp_path / "set" / f"{shard}.tar", members)
    return Card(name="set", shards="*.tar", samples=12, folder=tmp_path / "set")


def keep(card: Card, kept: list[int], samples: int = 12) -> Card:
    write_kept(card.folder / "kept.npz", samples, np.array(kept), "by hand")
    return card.model_copy(update={"keep": "kept.npz"})


@pytest.mark.parametrize("kept", [[0], [11], [2, 3], [0, 4, 5, 7, 8], [*range(12)], [3, 4, 5, 6, 7]])
def test_a_set_holds_the_kept_samples_alone(card, kept):
    samples = SampleSet({"set": keep(card, kept)})
    assert len(samples) == len(kept) == samples.sizes.sum()
    assert [caption(samples, number) for number in range(len(kept))] == [f"caption {place}" for place in kept]


def test_faults_of_kept_samples_name_their_own_key(card):
    samples = SampleSet({"set": keep(card, [1, 9])})
    fault = samples.fault(1, "corrupt_image", "")
    assert (fault.shard, fault.key, fault.id) == ("3.tar", "000009", 1)


def test_ids_go_on_behind_a_kept_and_repeated_set(card, tmp_path):
    other = write_shards(tmp_path / "other", num_shards=1, samples_per_shard=2)
    samples = SampleSet({"set": keep(card, [2, 9]), "other": other}, {"set": 2})
    assert [samples[number].source for number in range(6)] == ["set"] * 4 + ["other"] * 2
    names = [caption(samples, number) for number in range(6)]
    assert names == ["caption 2", "caption 9", "caption 2", "caption 9", "caption 0", "caption 1"]


def test_a_shard_that_is_cut_off_is_one_fault_however_often_it_is_repeated(card):
    path = card.folder / "2.tar"
    path.write_bytes(path.read_bytes()[:-3000])
    samples = SampleSet({"set": card, "again": card}, {"set": 3})
    assert len(samples.parts) == 4 * 3 + 4
    assert [(fault.source, fault.shard) for fault in samples.shard_faults()] == [("set", "2.tar"), ("again", "2.tar")]


def test_a_sample_has_one_original_however_often_it_counts(card, tmp_path):
    kept, other = keep(card, [2, 9]), write_shards(tmp_path / "other", num_shards=1, samples_per_shard=2)
    samples = SampleSet({"set": kept, "other": other, "again": kept}, {"set": 3, "other": 2})
    originals = samples.originals(np.arange(len(samples))).tolist()
    assert originals == [0, 1] * 3 + [6, 7] * 2 + [0, 1]
    assert samples.num_distinct == 4
    captions = [caption(samples, number) for number in range(len(samples))]
    assert captions == [captions[original] for original in originals]


def test_other_parts_of_one_tar_are_other_samples(card):
    samples = SampleSet({"set": keep(card, [2, 9])})
    more = SampleSet({"set": card, "again": card.model_copy()})
    assert samples.num_distinct == 2
    assert more.num_distinct == len(more) / 2 == 12


@unhurried
@given(st.sets(st.integers(0, 11), min_size=1), st.integers(1, 5))
def test_windows_go_through_all_that_is_kept(tmp_path_factory, kept, window):
    folder = tmp_path_factory.mktemp("kept")
    card = write_shards(folder, num_shards=4, samples_per_shard=3, formats=["png"])
    samples = SampleSet({"set": keep(card, sorted(kept))})
    order = arrange(samples, seed=0, batch_size=2, shuffle_shards=window)
    _, ids = order.samples_at(np.arange(len(kept)))
    assert sorted(caption(samples, number) for number in ids) == sorted(f"caption {place}" for place in kept)
    needs = samples.shards_ahead(order, 0)
    used = {number // 3 for number in kept}
    assert {int(next(needs).shard.name[:5]) for _ in used} == used


def test_a_list_for_another_number_of_samples_is_refused(card):
    with pytest.raises(
        RecipeError, match=r"kept.npz: made for 13 samples, the shards hold 12; .*filter or split again"
    ):
        SampleSet({"set": keep(card, [1], samples=13)})


def test_the_promised_number_of_samples_is_that_of_the_shards(card):
    with pytest.raises(RecipeError, match="samples: 2 promised, 12 found"):
        SampleSet({"set": keep(card, [1, 2]).model_copy(update={"samples": 2})})


@pytest.mark.parametrize("content", [None, b"", b"no list", b"PK\x03\x04 cut off"])
def test_a_missing_or_broken_list_is_refused(card, content):
    path = card.folder / "kept.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"kept.npz: missing, or no list of kept samples"):
        SampleSet({"set": card.model_copy(update={"keep": "kept.npz"})})


def test_a_pickled_list_is_never_unpickled(tmp_path):
    np.savez(tmp_path / "kept.npz", samples=np.array(3), kept=np.array([0, {}], dtype=object))
    with pytest.raises(RecipeError, match="no list of kept samples"):
        read_kept(tmp_path / "kept.npz", 3)


@pytest.mark.parametrize("kept", [[], [1, 1], [2, 1], [-1, 2], [3, 12], [[1, 2]]])
def test_wrong_numbers_are_neither_written_nor_read(tmp_path, kept):
    path = tmp_path / "kept.npz"
    with pytest.raises(ValueError, match=r"not one sample|must ascend from 0 to 11"):
        write_kept(path, 12, np.array(kept, dtype=np.int64))
    assert not path.exists()
    np.savez(path, samples=12, kept=np.array(kept, dtype=np.int64))
    with pytest.raises(RecipeError, match=r"not one sample|must ascend from 0 to 11"):
        read_kept(path, 12)


def test_a_list_reads_back_as_it_was_written(tmp_path):
    write_kept(tmp_path / "kept.npz", 10**12, np.array([5, 10**12 - 1]), "two of many")
    assert read_kept(tmp_path / "kept.npz", 10**12).tolist() == [5, 10**12 - 1]
    with np.load(tmp_path / "kept.npz") as file:
        assert str(file["note"]) == "two of many"


def test_what_is_kept_is_part_of_the_fingerprint(card):
    marks = {card.fingerprint, keep(card, [1]).fingerprint, keep(card, [2]).fingerprint}
    assert len(marks) == 3


def test_a_damaged_list_of_kept_samples_is_refused_or_says_the_same(tmp_path):
    path = tmp_path / "x.npz"
    kept = np.arange(0, 100, 3)
    write_kept(path, 100, kept, "note")
    whole, dice, refused = path.read_bytes(), random.Random(0), 0
    for bit in dice.sample(range(8 * len(whole)), 1500):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        try:
            assert read_kept(path, 100).tolist() == kept.tolist()
        except RecipeError:
            refused += 1
    assert refused > 500


@pytest.mark.parametrize("values", [np.array([0.0, 1.0]), np.array([1j]), np.array(["0"]), np.array([[0, 1]])])
def test_a_list_of_anything_but_whole_numbers_is_refused(tmp_path, values):
    np.savez(tmp_path / "x.npz", samples=10, kept=values, note="")
    with pytest.raises(RecipeError, match=r"x\.npz: "):
        read_kept(tmp_path / "x.npz", 10)
