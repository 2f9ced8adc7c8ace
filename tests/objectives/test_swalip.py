"""SwalipTerm against a slow reading of the paper with the whole matrix, and the marginals of its assignments."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import DIM, draw_leaves, gradients_of, pairs_of, share_of, unit, value_of
from tests.processes import run_processes
from vlp.ground.types import Teacher
from vlp.objectives.base import terms
from vlp.objectives.clip import ClipTerm
from vlp.objectives.shared.soft import frozen_block
from vlp.objectives.swalip import SwalipTerm, sinkhorn

VARIANTS = [{"sharpness": 0.3, "num_iterations": 5}]


def sinkhorn_by_hand(scores, sharpness, iterations):
    """The released code: prototypes are rows of Q, samples columns; returns samples by prototypes."""
    samples, prototypes = len(scores), len(scores[0])
    q = [[math.exp(scores[i][k] / sharpness) for i in range(samples)] for k in range(prototypes)]
    total = sum(map(sum, q))
    q = [[value / total for value in row] for row in q]
    for _ in range(iterations):
        q = [[value / sum(row) / prototypes for value in row] for row in q]
        sums = [sum(q[k][i] for k in range(prototypes)) for i in range(samples)]
        q = [[q[k][i] / sums[i] / samples for i in range(samples)] for k in range(prototypes)]
    return [[q[k][i] * samples for k in range(prototypes)] for i in range(samples)]


def cross_entropy_by_hand(logits, targets):
    total = 0.0
    for row, target in zip(logits, targets, strict=True):
        log_sum = math.log(sum(math.exp(value) for value in row))
        total -= sum(t * (value - log_sum) for t, value in zip(target, row, strict=True))
    return total / len(logits)


def swalip_by_hand(images, texts, scale, sharpness, iterations):
    """All pairs of views, with targets from the next view of each modality."""
    total = 0.0
    for a, image in enumerate(images):
        for b, text in enumerate(texts):
            seen = scale * image @ text.T
            other = images[(a + 1) % len(images)] @ texts[(b + 1) % len(texts)].T
            for logits, scores in ((seen, other), (seen.T, other.T)):
                targets = sinkhorn_by_hand(scores.tolist(), sharpness, iterations)
                total += cross_entropy_by_hand(logits.tolist(), targets) / 2
    return total / (len(images) * len(texts))


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize(("num_images", "num_texts"), [(1, 1), (2, 2), (3, 1)])
def test_matches_paper(size, num_images, num_texts):
    images = [unit(size, DIM, k) for k in range(num_images)]
    texts = [unit(size, DIM, 10 + k) for k in range(num_texts)]
    expected = swalip_by_hand(images, texts, 5.0, 0.2, 3)
    pairs = pairs_of(images[0], texts[0], scale=5.0, image_views=tuple(images[1:]), text_views=tuple(texts[1:]))
    assert share_of(SwalipTerm(sharpness=0.2), pairs).item() == pytest.approx(expected, rel=1e-9)


def assignments(pairs, sharpness, iterations):
    """The two matrices that `sinkhorn` describes."""
    block = frozen_block(pairs.side("image"), pairs.side("text"), torch.tensor(1 / sharpness).double())
    offsets = sinkhorn(pairs, block, iterations)
    logits = (pairs.image @ pairs.text.T / sharpness).detach()
    return [(logits + u[:, None] + v[None]).exp() for u, v in offsets]


def test_assignments_of_a_sample_sum_to_one_exactly():
    by_image, by_text = assignments(pairs_of(*draw_leaves(9)), 0.05, 3)
    torch.testing.assert_close(by_image.sum(1), torch.ones(9).double())
    torch.testing.assert_close(by_text.sum(0), torch.ones(9).double())


def test_prototypes_receive_equal_mass_in_the_end():
    for matrix in assignments(pairs_of(*draw_leaves(9)), 0.2, 300):
        torch.testing.assert_close(matrix.sum(0), torch.ones(9).double(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(matrix.sum(1), torch.ones(9).double(), rtol=1e-6, atol=1e-6)


def test_scores_all_alike_are_assigned_evenly():
    same = unit(1, DIM, 1).repeat(8, 1)
    for matrix in assignments(pairs_of(same, same), 0.05, 3):
        torch.testing.assert_close(matrix, torch.full((8, 8), 1 / 8).double())
    assert value_of(SwalipTerm(), same, same) == pytest.approx(math.log(8))


def test_sharp_assignments_of_matching_pairs_are_clip():
    """Every image is its own text's nearest: the assignment is the pair, and so is the target."""
    image = unit(7, DIM, 1)
    pairs = pairs_of(image, image)
    value = share_of(SwalipTerm(sharpness=1e-3), pairs).item()
    assert value == pytest.approx(share_of(ClipTerm(), pairs).item(), rel=1e-9)


def test_targets_get_no_gradient():
    """Image gradient: scale * (softmax - assignment), of rows and of columns, times the texts."""
    leaves = draw_leaves(7)
    image, text, scale, _ = (leaf.detach() for leaf in leaves)
    by_image, by_text = assignments(pairs_of(image, text), 0.05, 3)
    logits = scale * image @ text.T
    expected = scale * ((logits.softmax(1) - by_image + logits.softmax(0) - by_text) @ text) / 14
    torch.testing.assert_close(gradients_of(SwalipTerm(), leaves)[0], expected)


READS_ALL_VIEWS = {"barlip": {}, "siamlip": {}, "byolip": {}, "swalip": {}, "swav": {"num_prototypes": 9}}


def with_views(rank, world_size):
    """Return share and image gradients of every term that reads all views, for two views of each modality."""
    size = 8 // world_size
    rows, results = slice(rank * size, (rank + 1) * size), {}
    for name, settings in READS_ALL_VIEWS.items():
        torch.manual_seed(0)
        term = terms.build(name, settings)
        term.create(DIM)
        views = [unit(8, DIM, seed)[rows].requires_grad_() for seed in range(4)]
        more = {"image_views": (views[2],), "text_views": (views[3],)}
        teacher = Teacher(unit(8, DIM, 5)[rows], unit(8, DIM, 6)[rows])
        share = share_of(term.double(), pairs_of(*views[:2], teacher=teacher, **more))
        results[name] = [share.item(), *(g.numpy() for g in torch.autograd.grad(share, views))]
    return results


@pytest.mark.processes
def test_several_processes_equal_one_with_further_views():
    whole, parts = with_views(0, 1), run_processes(with_views, 2)
    for name, (share, *gradients) in whole.items():
        shares, *pieces = zip(*(part[name] for part in parts), strict=True)
        assert sum(shares) == pytest.approx(share, rel=1e-10), name
        for gradient, found in zip(gradients, pieces, strict=True):
            torch.testing.assert_close(torch.cat([torch.as_tensor(g) for g in found]), torch.as_tensor(gradient))
            assert gradient.any(), name


@pytest.mark.parametrize("settings", [{"sharpness": 0.0}, {"num_iterations": 0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must be positive"):
        SwalipTerm(**settings)
