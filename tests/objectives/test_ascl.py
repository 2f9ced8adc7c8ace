"""AdversarialSupervisedTerm against a slow reading of the paper, and whom it leaves alone."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import pairs_of, share_of, unit, value_of
from vlp.objectives.ascl import AdversarialSupervisedTerm, code

VARIANTS = [{"selection": "all"}]  # a leaked selection finds nothing in so small a batch
ONE_TOWER = [{}, {"selection": "all"}]
SCALE = 10.0


def ascl_by_hand(views, text, labels, ids, selection):
    """Section 3, one anchor at a time."""
    images = [(view[i], labels[i], guess(view[i], text, labels), ids[i], i) for view in views for i in range(len(text))]
    total = 0.0
    for a, (anchor, label, guessed, who, place) in enumerate(images):
        right, wrong = [], []
        for b, (image, its_label, its_guess, its_who, its_place) in enumerate(images):
            if b == a or (its_who == who and its_place != place):
                continue
            logit = SCALE * float(anchor @ image)
            if its_label == label and (selection != "leaked" or its_guess == guessed):
                right.append(logit)
            elif its_label != label and (selection == "all" or its_guess == guessed):
                wrong.append(logit)
        if right:
            everything = math.log(sum(math.exp(logit) for logit in right + wrong))
            total += sum(everything - logit for logit in right) / len(right)
    return total / len(images)


def READING(b, selection="soft"):
    """The same as a sum of tensors, for gradients and twins."""
    views = (b.image, *b.image_views)
    rows, size = torch.cat(views), len(b.ids)
    label, who, place = (each.repeat(len(views)) for each in (b.more["caption_ids"], b.ids, torch.arange(size)))
    guessed = b.more["caption_ids"][(rows @ b.text.T).argmax(dim=1)]
    total = b.scale * 0
    for a, logits in enumerate(b.scale * rows @ rows.T):
        met = (torch.arange(len(rows)) != a) & ~((who == who[a]) & (place != place[a]))
        alike = guessed == guessed[a]
        right = met & (label == label[a]) & (alike if selection == "leaked" else True)
        wrong = met & (label != label[a]) & (True if selection == "all" else alike)
        if right.any():
            total = total + logits[right | wrong].logsumexp(0) - logits[right].mean()
    return total / len(rows)


def guess(image, text, labels):
    return labels[int((text @ image).argmax())]


@pytest.mark.parametrize("num_views", [1, 2, 3])
@pytest.mark.parametrize("twins", [False, True])
@pytest.mark.parametrize("selection", ["soft", "leaked", "all"])
def test_matches_paper(num_views, twins, selection):
    views = [unit(14, 6, seed) for seed in range(num_views)]
    text, labels = unit(14, 6, 9), torch.arange(14) % 3
    ids = torch.arange(14) // 2 if twins else torch.arange(14)
    term = AdversarialSupervisedTerm(selection=selection)
    found = value_of(term, views[0], text, image_views=tuple(views[1:]), caption_ids=labels, ids=ids)
    expected = ascl_by_hand(views, text, labels.tolist(), ids.tolist(), selection)
    assert expected > 0.1
    assert found == pytest.approx(expected, rel=1e-8)


def test_images_that_the_model_takes_for_something_else_are_left_alone():
    """Two groups, far apart: what one of them is taken for, the other is not, so that its images may be anywhere."""
    text = torch.eye(6).double()[:4]
    image = torch.nn.functional.normalize(text[[0, 0, 2, 2]] + 0.1 * unit(4, 6, 1), dim=1).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3])
    view = torch.nn.functional.normalize(image.detach() + 0.1 * unit(4, 6, 2), dim=1)
    pairs = pairs_of(image, text, image_views=(view,), caption_ids=labels)
    share_of(AdversarialSupervisedTerm(), pairs).backward()
    alone = image.detach()[:2].clone().requires_grad_()
    half = pairs_of(alone, text[[0, 2]], image_views=(view[:2],), caption_ids=torch.tensor([0, 1]))
    share_of(AdversarialSupervisedTerm(), half).backward()
    torch.testing.assert_close(2 * image.grad[:2], alone.grad)  # of a mean over twice as many


def test_without_another_image_of_its_label_an_image_costs_nothing():
    assert value_of(AdversarialSupervisedTerm(), unit(6, 6, 1), unit(6, 6, 2)) == 0


def test_codes_of_different_labels_are_far_apart():
    codes = code(torch.arange(2000), torch.zeros(1, dtype=torch.float64))
    cosines = codes @ codes.T
    assert torch.equal(cosines.diagonal(), torch.ones(2000, dtype=torch.float64))
    assert (cosines - torch.eye(2000)).abs().max() < 0.8
