"""CacrTerm against a slow reading of the paper, and the terms that it contains."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import draw_leaves, gradients_of, pairs_of, share_of, unit, value_of
from vlp.objectives.alignment import AlignmentTerm
from vlp.objectives.cacr import CacrTerm
from vlp.objectives.dcl import DclTerm

VARIANTS = [
    {"detach_weights": False, "prior": 0.1},
    {"detach_weights": False, "negative_sharpness": 0.0},
    {"negative_sharpness": 25.0, "positive_sharpness": 0.0},
]


def softmax(numbers):
    largest = max(numbers)
    shares = [math.exp(number - largest) for number in numbers]
    return [share / sum(shares) for share in shares]


def cacr_by_hand(images, texts, positive_sharpness, negative_sharpness, prior=0.0):
    """One anchor at a time; `images` and `texts` are lists of views, the leading one first."""
    size, total = len(images[0]), 0.0
    for i in range(size):
        for own, other in ((images, texts), (texts, images)):
            positives = [float((own[0][i] - view[i]).square().sum()) for view in other]
            negatives = [float((own[0][i] - other[0][j]).square().sum()) for j in range(size) if j != i]
            pull = softmax([positive_sharpness * distance for distance in positives])
            push = softmax([-negative_sharpness * distance for distance in negatives])
            attraction = sum(weight * distance for weight, distance in zip(pull, positives, strict=True))
            repulsion = -sum(weight * distance for weight, distance in zip(push, negatives, strict=True))
            total += attraction + (repulsion + prior * sum(positives) / len(positives)) / (1 - prior)
    return total / (2 * size)


@pytest.mark.parametrize("size", [2, 7])
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("sharpness", [(1.0, 2.0), (3.0, 0.0), (0.0, 20.0)])
@pytest.mark.parametrize(("num_images", "num_texts"), [(1, 1), (1, 3), (2, 2)])
@pytest.mark.parametrize("prior", [0.0, 0.1])
def test_matches_paper(size, detach, sharpness, num_images, num_texts, prior):
    images = [unit(size, 6, seed) for seed in range(num_images)]
    texts = [unit(size, 6, 10 + seed) for seed in range(num_texts)]
    positive, negative = sharpness
    term = CacrTerm(positive_sharpness=positive, negative_sharpness=negative, detach_weights=detach, prior=prior)
    value = value_of(term, images[0], texts[0], image_views=tuple(images[1:]), text_views=tuple(texts[1:]))
    assert value == pytest.approx(cacr_by_hand(images, texts, positive, negative, prior), rel=1e-9)


@pytest.mark.parametrize("detach", [True, False])
def test_gradients_pass_the_weights_unless_they_are_detached(detach):
    """Of images that are pulled to three captions each, and pushed by no negative more than by another."""
    leaf = unit(5, 6, 1).requires_grad_()
    texts = [unit(5, 6, 10 + seed) for seed in range(3)]
    term = CacrTerm(positive_sharpness=3.0, negative_sharpness=0.0, detach_weights=detach)
    value = share_of(term, pairs_of(leaf, texts[0], text_views=tuple(texts[1:])))
    (found,) = torch.autograd.grad(value, leaf)
    own = leaf.detach().clone().requires_grad_()
    distances = torch.stack([2 - 2 * (own * text).sum(dim=1) for text in texts], dim=1)
    weights = (3.0 * distances).softmax(dim=1)
    pull = ((weights.detach() if detach else weights) * distances).sum()
    back = 2 - 2 * (texts[0] * own).sum(dim=1)
    others = [(i, j) for i in range(5) for j in range(5) if i != j]
    push = 2 * sum(own[i] @ texts[0][j] + texts[0][i] @ own[j] for i, j in others) / 4
    (expected,) = torch.autograd.grad((pull + back.sum() + push) / 10, own)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_one_positive_is_pulled_as_by_alignment():
    """Whatever t+ is: the values differ by the repulsion, which knows nothing of it."""
    image, text = unit(7, 6, 1), unit(7, 6, 2)
    values = [value_of(CacrTerm(positive_sharpness=t), image, text) for t in (0.0, 1.0, 50.0)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-12)
    distances = 2 - 2 * (image @ text.T).masked_fill(torch.eye(7, dtype=torch.bool), -math.inf)
    near = [((-2 * distances).softmax(dim) * distances.nan_to_num(posinf=0)).sum(dim).mean() for dim in (0, 1)]
    assert values[0] == pytest.approx(value_of(AlignmentTerm(), image, text) - (sum(near) / 2).item(), rel=1e-10)


@pytest.mark.parametrize("detach", [True, False])
def test_without_sharpness_all_negatives_are_pushed_alike(detach):
    image, text = unit(7, 6, 1), unit(7, 6, 2)
    distances = 2 - 2 * image @ text.T
    expected = (distances.trace() / 7 - (distances.sum() - distances.trace()) / 42).item()
    flat = CacrTerm(negative_sharpness=0.0, detach_weights=detach)
    assert value_of(flat, image, text) == pytest.approx(expected, rel=1e-10)
    nearly = CacrTerm(negative_sharpness=1e-7, detach_weights=detach)
    assert value_of(nearly, image, text) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("sharpness", [0.5, 2.0, 10.0])
def test_gradient_is_that_of_dcl(sharpness):
    """With detached weights and one positive: 1 / t- of the gradient of dcl at temperature 1 / (2 t-)."""
    leaves = draw_leaves(7, scale=2 * sharpness)
    ours = gradients_of(CacrTerm(negative_sharpness=sharpness), leaves)[:2]
    theirs = gradients_of(DclTerm(), leaves)[:2]
    torch.testing.assert_close(ours, [gradient / sharpness for gradient in theirs])


def test_a_large_positive_sharpness_picks_the_furthest_view():
    views = [unit(7, 6, seed) for seed in range(4)]
    image, texts = views[0], views[1:]
    furthest = torch.stack([(image - text).square().sum(1) for text in texts]).amax(0).mean()
    nearest = torch.stack([(image - text).square().sum(1) for text in texts]).mean(0).mean()
    sharp, flat = (
        value_of(CacrTerm(positive_sharpness=t), image, texts[0], text_views=tuple(texts[1:])) for t in (1e6, 0.0)
    )
    assert sharp - flat == pytest.approx((furthest - nearest).item() / 2)


def test_detached_weights_leave_the_value_alone():
    pairs = pairs_of(*draw_leaves(7), text_views=(unit(7, 6, 5),))
    through, detached = (share_of(CacrTerm(detach_weights=detach), pairs).item() for detach in (False, True))
    assert detached == pytest.approx(through, rel=1e-12)


@pytest.mark.parametrize("settings", [{"positive_sharpness": -1.0}, {"negative_sharpness": -1.0}, {"prior": 1.0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        CacrTerm(**settings)
