"""ClusterProxyTerm against sums over all past embeddings: a bound, and equality where clusters are points."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import draw_leaves, gradients_of, pairs_of, share_of, unit
from vlp.objectives.clip import ClipTerm
from vlp.objectives.cluster_proxies import ClusterProxyTerm

VARIANTS = [{"centres": 3, "decay": 0.5, "second_order": True}]

DIM = 6


def build(**settings):
    term = ClusterProxyTerm(**settings)
    term.create(DIM)
    return term


def contrast_by_hand(image, text, scale, past_images, past_texts):
    """Softmax contrast with weighted negatives of past batches: (weight, embedding) each."""
    size, total = len(image), 0.0
    for own, other, past in ((image, text, past_texts), (text, image, past_images)):
        for i in range(size):
            logits = [scale * own[i] @ other[j] for j in range(size)]
            logits += [math.log(weight) + scale * own[i] @ old for weight, old in past]
            total = total + torch.stack(logits).logsumexp(0) - logits[i]
    return total / (2 * size)


def past(batches, decay):
    """Return all rows of past batches with what they count for, the newest batch last."""
    return [(decay ** (len(batches) - 1 - age), row) for age, batch in enumerate(batches) for row in batch]


def seen(term, num_batches, size=8):
    """Show a term some batches; return their images and texts."""
    shown = [[unit(size, DIM, 100 + 10 * k + side) for k in range(num_batches)] for side in (0, 1)]
    for image, text in zip(*shown, strict=True):
        share_of(term, pairs_of(image, text, scale=3.0))
    return shown


def test_the_first_batch_is_clip():
    leaves = draw_leaves(7)
    torch.testing.assert_close(gradients_of(build(), leaves), gradients_of(ClipTerm(), leaves))


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.8])
def test_as_many_centres_as_embeddings_are_exact(second_order, decay):
    """Clusters that are points; a decay below one half frees all centres, so that decay 0 remembers one batch."""
    term = build(centres=16, decay=decay, second_order=second_order)
    images, texts = (side[-1:] if decay == 0 else side for side in seen(term, 2))
    leaves = draw_leaves(5, scale=3.0)
    slow = contrast_by_hand(*leaves[:3], past(images, decay), past(texts, decay))
    ours = share_of(term, pairs_of(*leaves))
    assert ours.item() == pytest.approx(slow.item(), rel=1e-6)  # the memory is float32
    gradients = [torch.autograd.grad(value, leaves[:3]) for value in (ours, slow)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 3.0, 10.0])
def test_few_centres_are_a_lower_bound(scale):
    term = build(centres=3, decay=0.9)
    images, texts = seen(term, 3)
    leaves = draw_leaves(5, scale=scale)
    exact = contrast_by_hand(*leaves[:3], past(images, 0.9), past(texts, 0.9)).item()
    ours = share_of(term, pairs_of(*leaves)).item()
    assert share_of(ClipTerm(), pairs_of(*leaves)).item() < ours < exact


def test_the_second_order_mends_most_of_the_gap_at_small_scales():
    leaves, values = draw_leaves(5, scale=1.0), []
    for second_order in (False, True):
        term = build(centres=2, decay=0.9, second_order=second_order)
        images, texts = seen(term, 3)
        values.append(share_of(term, pairs_of(*leaves)).item())
    exact = contrast_by_hand(*leaves[:3], past(images, 0.9), past(texts, 0.9)).item()
    assert abs(values[1] - exact) < 0.3 * abs(values[0] - exact)


def test_counts_are_those_of_a_decaying_memory():
    term = build(centres=3, decay=0.9)
    seen(term, 3)
    assert term.counts.sum(dim=1).tolist() == pytest.approx([8 * (1 + 0.9 + 0.81)] * 2, rel=1e-6)


def test_the_order_of_a_batch_does_not_reach_the_memory():
    image, text, order = unit(9, DIM, 1), unit(9, DIM, 2), torch.randperm(9)
    ids = torch.arange(9) * 5 + 2
    one, other = build(centres=4), build(centres=4)
    for step in range(3):
        share_of(one, pairs_of(image, text, ids=ids, step=step))
        share_of(other, pairs_of(image[order], text[order], ids=ids[order], step=step))
    for ours, theirs in zip(one.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_centre_that_fades_is_given_away():
    """A far cluster that gets no more members is replaced once less than half a member is left."""
    term = build(centres=2, decay=0.6)
    far = torch.eye(DIM).double()
    share_of(term, pairs_of(far[[0, 1]], far[[0, 1]]))
    for _ in range(2):
        share_of(term, pairs_of(far[[2, 3]], far[[2, 3]]))
    _, centres, _ = term._clusters(0)
    assert bool((centres[:, :2] < 0.5).all())
    assert centres[:, 2:4].sum().item() > 1


def test_numbers_that_are_not_finite_do_not_reach_the_memory():
    term = build()
    seen(term, 1)
    before = [buffer.clone() for buffer in term.buffers()]
    image, text = unit(5, DIM, 1), unit(5, DIM, 2)
    share_of(term, pairs_of(image * math.nan, text * math.nan))
    assert all(torch.equal(a, b) for a, b in zip(before, term.buffers(), strict=True))


@pytest.mark.parametrize("settings", [{"centres": 0}, {"decay": 1.0}, {"decay": -0.1}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        ClusterProxyTerm(**settings)
