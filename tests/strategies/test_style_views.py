"""A view in another style: behind the others, the same for a sample whatever its batch, and after a resume."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.strategies.runs import assert_resumes, recipe_of
from tests.towers.tiny import tiny_model
from vlp.ground.types import Batch, RecipeError
from vlp.strategies.style_views import StyleViews
from vlp.train import train

SIZE = 6
READ = "objective.mv_infonce={}"


def batch_of(size=SIZE) -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(size)
    return Batch(
        images=torch.randint(0, 256, (1, size, 32, 32, 3), generator=generator, dtype=torch.uint8),
        tokens=torch.zeros(1, size, 4, dtype=torch.int64),
        lengths=torch.full((1, size), 4),
        draws=torch.rand(1, size, 30, generator=generator),
        ids=ids,
        caption_ids=ids,
        sources=("x",) * size,
    )


@pytest.fixture(scope="module")
def strategy():
    found = StyleViews(count=8, share=0.1)
    found.start(tiny_model())
    return found


def test_a_view_in_other_colours_stands_behind_the_others(strategy):
    before = replace(
        batch_of(), images=batch_of().images.expand(2, -1, -1, -1, -1), draws=batch_of().draws.expand(2, -1, -1)
    )
    seen = strategy.before_forward(before)
    assert seen.images.shape[0] == seen.draws.shape[0] == 3 and seen.images.dtype == torch.uint8
    assert torch.equal(seen.images[:2], before.images)
    changed = (seen.images[2].float() - before.images[0].float()).abs().mean(dim=(1, 2, 3))
    assert bool((changed > 1).any())
    assert not torch.equal(seen.draws[2], seen.draws[0])


def test_a_sample_has_its_style_in_any_batch(strategy):
    whole = strategy.before_forward(batch_of())
    parts = [strategy.before_forward(part) for part in batch_of().chunk(3)]
    assert torch.equal(whole.images, torch.cat([part.images for part in parts], dim=1))


def test_resume_equals_no_interruption(tmp_path):
    assert_resumes(recipe_of(tmp_path, "strategies.style_views={count: 4}", READ))


def test_other_styles_than_those_of_the_start_are_refused(strategy):
    with pytest.raises(ValueError, match="are others than when the run began"):
        strategy.load_state_dict({"checksum": torch.tensor(1)})


def test_a_view_that_nobody_reads_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"strategies\.style_views: no term of"):
        train(recipe_of(tmp_path, "strategies.style_views={}"))


def test_a_strength_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="strength 0"):
        StyleViews(strength=0)
