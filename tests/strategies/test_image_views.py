"""Image views: the same crop with other draws, the same in every run and in every division of the batch."""

from __future__ import annotations

import pytest
import torch

from tests.strategies.runs import STEADY, losses_of, recipe_of
from vlp.data import Augment
from vlp.ground.types import Batch
from vlp.strategies.image_views import ImageViews
from vlp.train import train


def batch_of(size: int = 6, side: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1, size, side, side, 3), generator=generator, dtype=torch.uint8)
    tokens, ids = torch.ones(1, size, 4, dtype=torch.int64), torch.arange(size)
    draws = torch.rand(1, size, Augment.NUM_DRAWS, generator=generator)
    return Batch(images, tokens, torch.full((1, size), 4), draws, ids, ids, ("tiny",) * size)


def test_views_have_the_same_crop_and_other_draws():
    batch = batch_of()
    seen = ImageViews(num_views=4).before_forward(batch)
    assert seen.images.shape[0] == seen.draws.shape[0] == 4
    assert all(torch.equal(view, batch.images[0]) for view in seen.images)
    assert torch.equal(seen.draws[0], batch.draws[0])
    for a in range(4):
        for b in range(a):
            assert (seen.draws[a] - seen.draws[b]).abs().mean() > 0.1
    assert bool(((seen.draws >= 0) & (seen.draws < 1)).all())


def test_captions_stay_as_they_are():
    batch = batch_of()
    seen = ImageViews().before_forward(batch)
    assert torch.equal(seen.tokens, batch.tokens)
    assert torch.equal(seen.lengths, batch.lengths)


def test_views_follow_from_each_sample_alone():
    batch, strategy = batch_of(), ImageViews(num_views=3)
    whole = strategy.before_forward(batch)
    parts = [strategy.before_forward(part) for part in batch.chunk(2)]
    assert torch.equal(whole.draws, torch.cat([part.draws for part in parts], dim=1))
    assert torch.equal(whole.draws, strategy.before_forward(batch).draws)


def test_augmented_views_differ():
    seen = ImageViews().before_forward(batch_of())
    augment = Augment((0.5,) * 3, (0.5,) * 3, color=1.0, brightness=0.4, hue=0.1)
    first, second = augment(seen.images, seen.draws)
    assert bool(((first - second).abs().mean((1, 2, 3)) > 1e-3).all())


def test_micro_batches_train_alike_with_views_and_wrong_captions(tmp_path):
    """Views, shuffled captions and a teacher at once, with terms that read all of them."""
    terms = "objective={swalip: {}, siamlip: {hidden_width: 16}, clip_negatives: {}, text_grounded: {}, clip: {}}"
    used = "strategies={image_views: {}, shuffled_captions: {num_negatives: 2}, dual_teacher: {}}"
    losses = []
    for pieces in (1, 2):
        options = (STEADY, terms, used, "data.augment={color: 1.0, brightness: 0.4}", f"train.micro_batches={pieces}")
        losses.append(losses_of(train(recipe_of(tmp_path / str(pieces), *options))))
    assert {"loss/swalip", "loss/siamlip", "loss/clip_negatives", "loss/text_grounded"} <= losses[0][0].keys()
    for one, two in zip(*losses, strict=True):
        assert two == pytest.approx(one, rel=1e-3, abs=1e-5)  # float32, Adam from its first step


def test_one_view_is_refused():
    with pytest.raises(ValueError, match="leave the strategy out"):
        ImageViews(num_views=1)
