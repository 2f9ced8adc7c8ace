"""Views of a sample: each with its own crop and wording, wrong captions last, policies that touch no global state."""

from __future__ import annotations

import random
from itertools import islice

import numpy as np
import pytest
import torch

from tests.shards import LetterTokenizer, write_shards
from vlp.data import Captions, Crop, SampleSet, Stream, TextAugment, Views, WrongCaptions
from vlp.data.pixels.policies import AugMix, RandAugment, policies
from vlp.ground.randomness import NEGATIVE, REWORD, Draws
from vlp.ground.types import ON_DEVICE, RecipeError

FIELDS = (*ON_DEVICE, "lengths")
EXACT = Crop(8, decoding="exact")  # a scaled decoding follows the most demanding view
EVERY_POLICY = pytest.mark.parametrize("name", list(policies))


@pytest.fixture
def samples(tmp_path):
    return SampleSet({"tiny": write_shards(tmp_path / "tiny", num_shards=2, samples_per_shard=6)})


def batches(samples, views, count=3, **settings):
    stream = Stream(samples, views, LetterTokenizer(), **{"batch_size": 4, "seed": 0, **settings})
    return list(islice(stream.batches(0), count))


def texts(batch):
    """Return the texts of every view, without end tokens."""
    rows = zip(batch.tokens.flatten(0, 1).tolist(), batch.lengths.flatten().tolist(), strict=True)
    decoded = [bytes(row[: length - 1]).decode() for row, length in rows]
    return [decoded[k : k + len(batch)] for k in range(0, len(decoded), len(batch))]


def many(policy=None):
    return Views(
        crops=(EXACT, Crop(8, scale=(0.05, 0.1)), Crop(8, scale=(0.05, 0.1))),
        captions=Captions(),
        rewordings=(TextAugment(), TextAugment(delete=1.0, share=0.5)),
        negatives=WrongCaptions(count=2),
        policy=policy,
    )


def test_further_views_leave_the_first_as_it_is(samples):
    plain = batches(samples, Views((EXACT,), Captions()))
    for one, other in zip(plain, batches(samples, many()), strict=True):
        assert torch.equal(one.images[0], other.images[0])
        assert texts(one)[0] == texts(other)[0]
        assert torch.equal(one.draws[0], other.draws[0]) and torch.equal(one.caption_ids, other.caption_ids)


def test_every_view_has_its_own_crop(samples):
    (batch,) = batches(samples, many(), 1)
    _, first, second = batch.images.float()
    assert not torch.equal(first, second)
    whole = Views((Crop(8, scale=(1.0, 1.0), ratio=(1.2, 1.2), flip=0.0),) * 2, Captions())
    (same,) = batches(samples, whole, 1)  # images are 24 x 20: nothing is left to chance
    assert torch.equal(*same.images)


def test_texts_are_views_then_wrong_captions(samples):
    (batch,) = batches(samples, many(), 1)
    assert batch.tokens.shape[:2] == (4, 4) and batch.num_negatives == 2
    right, reworded, *wrong = texts(batch)
    for place, (number, text) in enumerate(zip(batch.ids.tolist(), right, strict=True)):
        assert text == f"caption {number}, tag, other tag, third tag"[:31]
        whole = f"caption {number}, tag, other tag, third tag"
        expected = TextAugment(delete=1.0, share=0.5)(whole, Draws(0, REWORD, 0, number, 1))
        assert reworded[place] == expected[:31]
        made = WrongCaptions(count=2)(whole, Draws(0, NEGATIVE, 0, number))
        assert [row[place] for row in wrong] == [text[:31] for text in made]


def test_wrong_captions_are_those_of_the_reworded_first_view(samples):
    views = Views((Crop(8),), Captions(), (TextAugment(delete=1.0, share=0.5),), WrongCaptions(kinds={"order": 1.0}))
    (batch,) = batches(samples, views, 1)
    for right, wrong in zip(*texts(batch), strict=True):
        assert len(right.split()) == len(wrong.split()) or wrong.startswith("no ")


def test_workers_give_the_same_bytes(samples):
    for one, other in zip(
        batches(samples, many(RandAugment())), batches(samples, many(RandAugment()), workers=1), strict=True
    ):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in FIELDS)
        assert one.num_negatives == other.num_negatives == 2


def test_pieces_of_a_batch_keep_their_wrong_captions(samples):
    (batch,) = batches(samples, many(), 1)
    for piece in batch.chunk(2):
        assert piece.num_negatives == 2 and piece.to("cpu").num_negatives == 2


# ---------------------------------------- policies
def noise(seed=0, side=32):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


@EVERY_POLICY
def test_a_policy_is_a_function_of_its_key(name):
    policy, keys = policies.build(name, {}), [0, 1, 2**64 - 1, 12345]
    made = [policy(noise(), key) for key in keys]
    assert all(image.shape == (32, 32, 3) and image.dtype == np.uint8 for image in made)
    torch.manual_seed(7)
    assert all(np.array_equal(image, policy(noise(), key)) for image, key in zip(made, keys, strict=True))
    assert len({policy(noise(), key).tobytes() for key in range(20)}) > 15


@EVERY_POLICY
def test_a_policy_leaves_random_numbers_and_pixels_alone(name):
    torch.manual_seed(3)
    pixels, states = noise(), (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    policies.build(name, {})(pixels[:, ::-1], 5)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1] and np.array_equal(np.random.get_state()[1], states[2])
    assert np.array_equal(pixels, noise())


@EVERY_POLICY
def test_what_a_policy_moves_in_from_outside_is_white(name):
    """A gray image holds no other colour than gray whatever is done to it, unless the filling has one."""
    if name == "fourier_style":
        pytest.skip("moves nothing, and gives images the colours of others")
    policy, gray = policies.build(name, {}), np.full((32, 32, 3), 100, dtype=np.uint8)
    made = [policy(gray, key) for key in range(60)]
    assert all(np.ptp(image.astype(int), axis=2).max() == 0 for image in made)
    assert max(image.max() for image in made) > 200


def test_views_of_one_image_are_changed_differently(samples):
    whole = Crop(8, scale=(1.0, 1.0), ratio=(1.2, 1.2), flip=0.0)
    (plain,) = batches(samples, Views((whole,) * 2, Captions()), 1)
    (changed,) = batches(samples, Views((whole,) * 2, Captions(), policy=RandAugment(num_ops=3)), 1)
    assert torch.equal(plain.images[0], plain.images[1])
    assert not torch.equal(changed.images[0], changed.images[1])
    assert not torch.equal(changed.images, plain.images)


def test_the_first_view_is_spared_on_request(samples):
    (plain,), (spared,) = (
        batches(samples, Views((EXACT,) * 2, Captions(), policy=policy, spare_first=True), 1)
        for policy in (None, RandAugment(num_ops=3))
    )
    assert torch.equal(plain.images[0], spared.images[0]) and not torch.equal(plain.images[1], spared.images[1])


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        (RandAugment, {"num_ops": 0}, r"policy\.num_ops"),
        (RandAugment, {"magnitude": 31}, r"policy\.magnitude"),
        (AugMix, {"severity": 0}, r"policy\.severity"),
        (AugMix, {"width": 0}, r"data\.policy: width 0"),
    ],
)
def test_settings_without_sense_are_refused(part, settings, message):
    with pytest.raises(RecipeError, match=message):
        part(**settings)
