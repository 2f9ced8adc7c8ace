"""What an attack raises against the images of a whole batch is what `feature_contrast` lowers."""

import pytest
import torch
from torch.nn import functional

from tests.objectives.batches import unit, value_of
from vlp.ground.types import Teacher
from vlp.objectives.feature_contrast import FeatureContrastTerm
from vlp.strategies.other_images import OtherImages

SIZE, DIM, SCALE = 8, 6, torch.tensor(10.0)
ROWS = [unit(SIZE, DIM, seed, torch.float32) for seed in (1, 2, 3)]


@pytest.mark.parametrize("ids", [torch.arange(SIZE), torch.tensor([4, 7, 1, 4, 9, 12, 7, 4])], ids=["apart", "twins"])
def test_both_sides_play_for_the_same_number(ids):
    seen, taught, text = ROWS
    missed = OtherImages(taught, ids).miss(seen, taught, ids, SCALE)
    term = value_of(FeatureContrastTerm(), seen, text, scale=10.0, teacher=Teacher(taught, text), ids=ids)
    assert functional.softplus(missed).mean().item() == pytest.approx(term, rel=1e-5)


def test_what_a_sample_adds_does_not_depend_on_who_is_attacked_with_it():
    seen, taught, _ = ROWS
    others = OtherImages(taught, torch.arange(SIZE))
    whole = others.miss(seen, taught, others.ids, SCALE)
    parts = [others.miss(seen[rows], taught[rows], others.ids[rows], SCALE) for rows in (slice(0, 3), slice(3, SIZE))]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_a_batch_of_one_sample_leaves_a_finite_number_and_a_gradient():
    seen, taught, _ = ROWS
    seen = seen.clone().requires_grad_()
    one = torch.zeros(SIZE, dtype=torch.long)
    found = OtherImages(taught, one).miss(seen, taught, one, SCALE)
    found.sum().backward()
    assert bool(found.isfinite().all())
    torch.testing.assert_close(seen.grad, -SCALE * taught)
