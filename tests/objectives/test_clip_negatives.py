"""ClipNegativesTerm against a slow reading of both papers, and the contrast that it contains."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import draw_leaves, gradients_of, pairs_of, share_of, unit, value_of
from tests.objectives.test_image_grounded import wrong_captions
from vlp.objectives.clip import ClipTerm
from vlp.objectives.clip_negatives import ClipNegativesTerm


def clip_negatives_by_hand(image, text, negatives, scale):
    size, total = len(image), 0.0
    for i in range(size):
        others = [*text, *negatives.flatten(0, 1)]
        images = sum(math.exp(scale * float(image[i] @ other)) for other in others)
        texts = sum(math.exp(scale * float(text[i] @ other)) for other in image)
        total += math.log(images) + math.log(texts) - 2 * scale * float(image[i] @ text[i])
    return total / (2 * size)


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("num", [1, 3])
def test_matches_paper(size, num):
    image, text, negatives = unit(size, 6, 1), unit(size, 6, 2), wrong_captions(size, num)
    expected = clip_negatives_by_hand(image, text, negatives, 10.0)
    assert value_of(ClipNegativesTerm(), image, text, negatives=negatives) == pytest.approx(expected, rel=1e-9)


def test_wrong_captions_far_from_all_images_leave_clip():
    leaves = draw_leaves(7)
    with torch.no_grad():
        leaves[0].abs_()
    far = torch.full((7, 2, 6), -1e3).double()
    value = value_of(ClipNegativesTerm(), *leaves[:2], negatives=far)
    assert value == pytest.approx(value_of(ClipTerm(), *leaves[:2]), rel=1e-12)
    found = gradients_of(ClipNegativesTerm(), leaves, negatives=far)
    torch.testing.assert_close(found, gradients_of(ClipTerm(), leaves))


def test_wrong_captions_are_pushed_away_from_every_image():
    image, text = unit(7, 6, 1), unit(7, 6, 2)
    negatives = wrong_captions(7, 2).requires_grad_()
    (pull,) = torch.autograd.grad(share_of(ClipNegativesTerm(), pairs_of(image, text, negatives=negatives)), negatives)
    everything = torch.cat([text, negatives.detach().flatten(0, 1)])
    shares = (10 * image @ everything.T).softmax(1)[:, 7:]
    torch.testing.assert_close(pull.flatten(0, 1), 10 * shares.T @ image / 14)
