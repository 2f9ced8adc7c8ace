"""Wrong captions of the stream become negatives of their own sample, or the recipe is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.strategies.runs import STEADY, assert_resumes, losses_of, recipe_of
from tests.towers.tiny import tiny_batch, tiny_model
from vlp.ground.types import Batch, RecipeError
from vlp.strategies.hard_negatives import HardNegatives
from vlp.train import train

MADE = "data.captions.negatives={count: 2}"
USED = "strategies={hard_negatives: {}}"
TERMS = "objective={clip_negatives: {}, clip: {}}"


def test_the_last_text_views_become_negatives_of_their_own_sample():
    model = tiny_model().eval()
    images, tokens, lengths = tiny_batch(model)
    tokens, lengths = tokens[:1], lengths[:1]
    views = torch.stack([tokens[0].roll(k, 0) for k in range(4)])
    size, ids = tokens.shape[1], torch.arange(tokens.shape[1])
    pixels = torch.zeros(1, size, 1, 1, 3, dtype=torch.uint8)
    view_lengths = torch.stack([lengths[0].roll(k, 0) for k in range(4)])
    batch = Batch(pixels, views, view_lengths, torch.zeros(1, size, 8), ids, ids, ("tiny",) * size, num_negatives=2)
    whole = model(images, batch.tokens, batch.lengths)
    seen = HardNegatives().after_forward(images, batch, whole)
    assert len(seen.text_views) == 1
    assert torch.equal(seen.text_views[0], whole.text_views[0])
    for k in range(2):
        assert torch.equal(seen.negatives[:, k], whole.text_views[1 + k])
    with pytest.raises(RuntimeError):
        HardNegatives().after_forward(images, replace(batch, num_negatives=0), whole)


def test_resume_equals_no_interruption(tmp_path):
    assert_resumes(recipe_of(tmp_path, TERMS, USED, MADE))


def test_micro_batches_train_alike(tmp_path):
    more = ("objective={clip_negatives: {}, mv_infonce: {}}", "data.text_views={more: {delete: 0.5}}")
    losses = [
        losses_of(train(recipe_of(tmp_path / str(k), STEADY, USED, MADE, *more, f"train.micro_batches={k}")))
        for k in (1, 2)
    ]
    for one, two in zip(*losses, strict=True):
        assert two == pytest.approx(one, rel=1e-3, abs=1e-5)  # float32, Adam from its first step


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((MADE,), r"data\.captions\.negatives: nothing takes.*strategies\.hard_negatives"),
        ((USED, TERMS), r"strategies\.hard_negatives: there are none: set data\.captions\.negatives"),
        ((MADE, TERMS, "strategies={hard_negatives: {}, shuffled_captions: {}}"), "both provide wrong captions"),
        (("data.views={local: {}}",), r"data\.views: no term of clip, uniformity reads further views.*mv_infonce"),
        (("data.text_views={more: {}}",), r"data\.text_views: no term"),
        (("data.spare_first_view=true",), r"data\.spare_first_view: there is no other image view"),
        (("strategies={image_views: {}}",), r"strategies\.image_views: no term"),
        (("data.views={local: {scale: [0.0, 1.0]}}", "objective={mv_infonce: {}}"), r"data\.views\.local\.scale"),
        (
            ("data.text_views={more: {swap: 2.0}}", "objective={mv_infonce: {}}"),
            r"data\.text_views\.more\.swap: 2\.0 is no probability",
        ),
    ],
)
def test_half_of_a_setup_is_refused(tmp_path, overrides, message):
    with pytest.raises(RecipeError, match=message):
        train(recipe_of(tmp_path, *overrides))
