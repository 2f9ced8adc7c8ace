"""Shuffled captions: the same tokens in another order, ends in place, a function of the sample's draws."""

from __future__ import annotations

import pytest
import torch

from tests.strategies.runs import assert_resumes, recipe_of
from tests.towers.tiny import tiny_batch, tiny_model
from vlp.ground.types import Batch
from vlp.strategies.shuffled_captions import ShuffledCaptions, shuffle

LENGTHS = torch.tensor([12, 9, 4, 3, 2])


def captions():
    """Tokens all different, padded with 0, and draws."""
    tokens = torch.arange(1, 13) + 20 * torch.arange(1, 6)[:, None]
    draws = torch.rand(5, 8, generator=torch.Generator().manual_seed(0))
    return tokens * (torch.arange(12) < LENGTHS[:, None]), draws


@pytest.mark.parametrize("variant", range(3))
def test_ends_and_padding_stay_and_no_token_is_lost(variant):
    tokens, draws = captions()
    wrong = shuffle(tokens, LENGTHS, draws, variant)
    for row, length in enumerate(LENGTHS.tolist()):
        assert wrong[row, 0] == tokens[row, 0]
        assert torch.equal(wrong[row, length - 1 :], tokens[row, length - 1 :])
        assert sorted(wrong[row].tolist()) == sorted(tokens[row].tolist())


def test_long_captions_change_and_variants_differ():
    tokens, draws = captions()
    orders = [tokens, *(shuffle(tokens, LENGTHS, draws, variant) for variant in range(4))]
    for a in range(5):
        for b in range(a):
            assert not torch.equal(orders[a][0], orders[b][0])
            assert not torch.equal(orders[a][1], orders[b][1])


def test_two_inner_tokens_always_change_places():
    tokens = torch.tensor([[1, 5, 6, 2]]).expand(50, 4)
    draws = torch.rand(50, 8, generator=torch.Generator().manual_seed(2))
    assert shuffle(tokens, torch.full((50,), 4), draws, 0)[:, 1:3].tolist() == [[6, 5]] * 50


def test_variants_of_short_captions_are_independent():
    """Four inner tokens have 23 other orders: two variants agree in about 4 % of captions."""
    draws = torch.rand(3000, 8, generator=torch.Generator().manual_seed(3))
    tokens, lengths = torch.arange(6).expand(3000, 6), torch.full((3000,), 6)
    equal = (shuffle(tokens, lengths, draws, 0) == shuffle(tokens, lengths, draws, 1)).all(1).float().mean()
    assert 0.02 < equal < 0.08


def test_orders_follow_from_the_draws_of_each_caption():
    tokens, draws = captions()
    whole = shuffle(tokens, LENGTHS, draws, 1)
    assert torch.equal(whole, shuffle(tokens, LENGTHS, draws, 1))
    for row in range(5):
        assert torch.equal(
            whole[row : row + 1], shuffle(tokens[row : row + 1], LENGTHS[row : row + 1], draws[row : row + 1], 1)
        )
    assert not torch.equal(whole, shuffle(tokens, LENGTHS, draws.roll(1, 0), 1))


def test_every_inner_place_is_reached_by_every_token():
    """Over many captions of six tokens: each of the four inner ones ends anywhere about equally often."""
    draws = torch.rand(4000, 8, generator=torch.Generator().manual_seed(1))
    tokens = torch.arange(6).expand(4000, 6)
    wrong = shuffle(tokens, torch.full((4000,), 6), draws, 0)[:, 1:5]
    shares = torch.stack([(wrong == token).float().mean(0) for token in range(1, 5)])
    assert bool(((shares > 0.15) & (shares < 0.4)).all()), shares


def test_wrong_captions_become_negatives_of_their_own_sample():
    model = tiny_model().eval()
    images, tokens, lengths = tiny_batch(model)
    size, strategy = tokens.shape[1], ShuffledCaptions(num_negatives=2)
    draws = torch.rand(1, size, 8, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(size)
    pixels = torch.zeros(1, size, 1, 1, 3, dtype=torch.uint8)
    batch = strategy.before_forward(Batch(pixels, tokens, lengths, draws, ids, ids, ("tiny",) * size))
    seen = strategy.after_forward(images, batch, model(images, batch.tokens, batch.lengths))
    assert seen.text_views == ()
    torch.testing.assert_close(seen.text, model(images, tokens, lengths).text)
    for k in range(2):
        wrong = shuffle(tokens[0], lengths[0], draws[0], k)[None]
        torch.testing.assert_close(seen.negatives[:, k], model(images, wrong, lengths).text)


def test_resume_equals_no_interruption(tmp_path):
    terms = "objective={clip_negatives: {}, image_grounded: {}, clip: {}}"
    assert_resumes(recipe_of(tmp_path, terms, "strategies.shuffled_captions={num_negatives: 2}"))


def test_none_are_refused():
    with pytest.raises(ValueError, match="leave the strategy out"):
        ShuffledCaptions(num_negatives=0)
