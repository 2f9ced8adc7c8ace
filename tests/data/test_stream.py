"""What a run sees is a pure function of seed and position, whatever the layout."""

from __future__ import annotations

import pickle
from itertools import islice

import pytest
import torch

from tests.shards import LetterTokenizer, write_shards
from vlp.data import Augment, Captions, Crop, SampleSet, Stream, Views
from vlp.ground.types import ON_DEVICE, RecipeError

FIELDS = (*ON_DEVICE, "lengths")


def same(first, second):
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in FIELDS) and (
        (first.sources, first.captions) == (second.sources, second.captions)
    )


def take(stream, count, position=0):
    return list(islice(stream.batches(position), count))


@pytest.fixture
def card(tmp_path):
    return write_shards(tmp_path / "tiny", num_shards=3, samples_per_shard=6)


def test_shapes_are_those_of_the_batch_type(open_stream, card):
    (batch,) = take(open_stream(card, num_views=2, num_text_views=3), 1)
    assert batch.images.shape == (2, 4, 8, 8, 3) and batch.images.dtype == torch.uint8
    assert batch.tokens.shape[:2] == (3, 4) and batch.lengths.shape == (3, 4)
    assert batch.draws.shape == (2, 4, Augment.NUM_DRAWS) and batch.draws.dtype == torch.float32
    assert batch.ids.shape == batch.caption_ids.shape == (4,)
    assert batch.sources == ("tiny",) * 4


@pytest.mark.parametrize("workers", [0, 2])
def test_captions_are_what_the_tokenizer_read(open_stream, card, workers):
    stream = open_stream(card, captions=Captions(templates=("a {}", "the {}")), num_text_views=2, workers=workers)
    for batch in take(stream, 6):
        tokens, lengths = LetterTokenizer()(batch.captions)
        assert torch.equal(lengths, batch.lengths[0])
        assert torch.equal(tokens, batch.tokens[0, :, : tokens.shape[1]])
        assert batch.chunk(2)[1].captions == batch.captions[2:]


def test_each_sample_comes_once_per_epoch_without_gaps_between_epochs(open_stream, card):
    ids = torch.cat([batch.ids for batch in take(open_stream(card), 9)]).tolist()
    assert sorted(ids[:18]) == sorted(ids[18:36]) == list(range(18))
    assert ids[:18] != ids[18:36]


@pytest.mark.parametrize("workers", [1, 5])
def test_any_number_of_workers_gives_the_same_bytes(open_stream, card, workers):
    # Five workers share three shards.
    alone, shared = take(open_stream(card), 6), take(open_stream(card, workers=workers), 6)
    assert all(same(a, b) for a, b in zip(alone, shared, strict=True))


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_take_equal_slices_of_the_same_global_batch(open_stream, card, world_size):
    whole = take(open_stream(card), 6)
    parts = [take(open_stream(card, rank=rank, world_size=world_size), 6) for rank in range(world_size)]
    for number, batch in enumerate(whole):
        for name in ("ids", "caption_ids"):
            pieces = torch.cat([getattr(rank[number], name) for rank in parts])
            assert torch.equal(pieces, getattr(batch, name))
        for name in ("images", "draws"):
            pieces = torch.cat([getattr(rank[number], name) for rank in parts], dim=1)
            assert torch.equal(pieces, getattr(batch, name))


def test_a_stream_may_start_anywhere(open_stream, card):
    straight, resumed = take(open_stream(card), 8), take(open_stream(card), 3, position=20)
    assert all(same(a, b) for a, b in zip(straight[5:], resumed, strict=True))


def test_one_seed_repeats_and_another_differs(open_stream, card):
    (first,), (again,), (other,) = (take(open_stream(card, seed=seed), 1) for seed in (7, 7, 8))
    assert same(first, again)
    assert not torch.equal(first.ids, other.ids)
    assert not torch.equal(first.draws, other.draws)


def test_an_epoch_brings_new_crops_and_new_draws(open_stream, card):
    batches = take(open_stream(card, batch_size=18), 2)
    first, second = (batch.images[0, batch.ids.argsort()] for batch in batches)
    assert (first != second).flatten(1).any(1).all()
    assert not torch.equal(*(batch.draws[0, batch.ids.argsort()] for batch in batches))


def test_views_of_one_image_differ(open_stream, card):
    (batch,) = take(open_stream(card, num_views=2), 1)
    assert (batch.images[0] != batch.images[1]).flatten(1).any(1).all()
    assert not torch.equal(batch.draws[0], batch.draws[1])


def test_equal_captions_have_equal_caption_ids(open_stream, tmp_path):
    card = write_shards(tmp_path / "tiny", 1, 4)
    (plain,) = take(open_stream(card), 1)
    (worded,) = take(open_stream(card, captions=Captions(separator=",", wording={"one": 1.0})), 1)
    assert len(set(plain.caption_ids.tolist())) == 4
    assert len(set(worded.caption_ids.tolist())) <= 3  # tag, other tag, third tag


def test_reading_leaves_the_global_random_numbers_alone(open_stream, card):
    state = torch.get_rng_state()
    take(open_stream(card, workers=1), 2)
    take(open_stream(card), 2)
    assert torch.equal(torch.get_rng_state(), state)


def test_ids_follow_cards_then_shards_then_places(open_stream, tmp_path):
    first, second = write_shards(tmp_path / "b", 2, 2), write_shards(tmp_path / "a", 1, 2)
    batch = take(open_stream(first, second, batch_size=6), 1)[0]
    assert {number: batch.sources[batch.ids.tolist().index(number)] for number in range(6)} == {
        **dict.fromkeys(range(4), "b"),
        **dict.fromkeys(range(4, 6), "a"),
    }


def test_batches_may_be_larger_than_the_set(open_stream, tmp_path):
    card = write_shards(tmp_path / "tiny", 1, 3)
    (batch,) = take(open_stream(card, batch_size=8), 1)
    assert sorted(batch.ids.tolist()[:3]) == sorted(batch.ids.tolist()[3:6]) == [0, 1, 2]


def test_copies_of_a_repeated_set_share_their_ids_but_not_their_crops(tmp_path):
    card = write_shards(tmp_path / "tiny", 1, 3)
    samples = SampleSet({"tiny": card}, {"tiny": 2})
    views = Views((Crop(16, scale=(0.2, 1.0)),), Captions())
    (batch,) = take(Stream(samples, views, LetterTokenizer(), batch_size=6, seed=0), 1)
    assert sorted(batch.ids.tolist()) == [0, 0, 1, 1, 2, 2]
    first, second = batch.images[0][batch.ids.argsort(stable=True)].unflatten(0, (3, 2)).unbind(1)
    assert (first != second).flatten(1).any(1).all()


def test_what_is_sent_to_spawned_workers_gives_the_same_batches(open_stream, card):
    batches = open_stream(card)._batches
    before = batches[2]
    assert same(before.batch, pickle.loads(pickle.dumps(batches))[2].batch)


def test_compressed_shards_give_the_same_batches(open_stream, tmp_path, card):
    zipped = write_shards(tmp_path / "zipped" / "tiny", num_shards=3, samples_per_shard=6, suffix="tar.gz")
    assert same(take(open_stream(card), 1)[0], take(open_stream(zipped), 1)[0])


def test_a_batch_that_does_not_divide_is_refused(open_stream, card):
    with pytest.raises(RecipeError, match=r"train\.batch_size=4 does not divide among 3"):
        open_stream(card, world_size=3)


def test_a_position_inside_a_batch_is_refused(open_stream, card):
    with pytest.raises(RecipeError, match=r"train\.batch_size=4 must stay"):
        take(open_stream(card), 1, position=6)
