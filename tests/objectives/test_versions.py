"""An objective on several versions of a batch: a weighted sum, of which the first is what terms remember."""

import pytest
import torch

from tests.objectives.batches import draw_leaves, extras, one, pairs_of
from tests.objectives.cases import SIZE, build, each_term
from vlp.objectives.base import Objective


def versions(**more):
    """Return a batch, and the same with images of others."""
    image, text, scale, bias = draw_leaves(SIZE)
    return [pairs_of(rows, text, scale, bias, **more) for rows in (image, image.roll(1, 0))], image


@pytest.mark.filterwarnings("ignore:isogclr")  # small batches are meant here
@each_term
def test_terms_remember_the_first_version_alone(name, settings):
    more = extras(SIZE)
    mixed, alone = (Objective({"term": (build(name, settings), one)}) for _ in range(2))
    for step in range(2):
        (first, second), _ = versions(**more)
        loss, report = mixed.mixed({"": (1.0, first), "changed": (0.5, second)}, step)
        loss.backward()
        expected, _ = alone(versions(**more)[0][0], step)
        assert report["term"].item() == pytest.approx(expected.item(), rel=1e-12)
    for ours, theirs in zip(mixed.state_dict().values(), alone.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_loss_and_gradient_are_weighted_sums():
    objective = Objective({"clip": (build("clip", {}), one)})
    (first, second), image = versions()
    loss, report = objective.mixed({"": (0.25, first), "changed": (2.0, second)}, 0)
    loss.backward()
    found, values, gradients = image.grad.clone(), [], []
    for version in versions()[0]:
        image = version.image
        value, _ = objective(version, 0)
        gradients.append(torch.autograd.grad(value, image)[0])
        values.append(value.item())
    assert [report["clip"].item(), report["changed/clip"].item()] == pytest.approx(values, rel=1e-12)
    assert loss.item() == pytest.approx(0.25 * values[0] + 2 * values[1], rel=1e-12)
    torch.testing.assert_close(found, 0.25 * gradients[0] + 2 * gradients[1].roll(-1, 0))


def test_one_version_of_weight_1_is_the_objective_bit_for_bit():
    objective = Objective({"clip": (build("clip", {}), one), "uniformity": (build("uniformity", {}), one)})
    (first, _), _ = versions()
    loss, report = objective.mixed({"": (1.0, first)}, 0)
    expected, values = objective(versions()[0][0], 0)
    assert loss.item() == expected.item()
    assert report.keys() == values.keys()
