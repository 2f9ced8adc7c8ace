"""SwavTerm against a slow reading of the paper, and the marginals of its assignments."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import DIM, draw_leaves, pairs_of, share_of, unit
from tests.objectives.test_swalip import cross_entropy_by_hand, sinkhorn_by_hand
from vlp.objectives.swav import SwavTerm, assign

VARIANTS = [
    {"num_prototypes": 5, "frozen_steps": 0, "num_iterations": 2},
    {"num_prototypes": 5, "queue": 4, "full_crops": 1},
]


def built(**settings) -> SwavTerm:
    torch.manual_seed(0)
    term = SwavTerm(**{"num_prototypes": 5, "frozen_steps": 0, **settings})
    term.create(DIM)
    return term.double()


@torch.no_grad()
def test_matches_paper_over_all_views():
    image, text, image1 = unit(7, DIM, 1), unit(7, DIM, 2), unit(7, DIM, 3)
    term = built()
    prototypes = torch.nn.functional.normalize(term.prototypes, dim=1)
    losses = []
    for view in (image, image1):
        for own, other in ((view, text), (text, view)):
            targets = sinkhorn_by_hand((other @ prototypes.T).tolist(), 0.05, 3)
            losses.append(cross_entropy_by_hand((own @ prototypes.T / 0.1).tolist(), targets))
    value = share_of(term, pairs_of(image, text, image_views=(image1,))).item()
    assert value == pytest.approx(sum(losses) / 4, rel=1e-9)


@torch.no_grad()
def test_small_crops_predict_and_are_no_targets():
    """Two full crops and a small one: four targets (two images for the texts, one text for each image), all predict."""
    images, text = [unit(7, DIM, k) for k in (1, 3, 4)], unit(7, DIM, 2)
    term = built(full_crops=2)
    prototypes = torch.nn.functional.normalize(term.prototypes, dim=1)
    score = [view @ prototypes.T for view in images]
    read = text @ prototypes.T
    of_text = sinkhorn_by_hand(read.tolist(), 0.05, 3)
    losses = [cross_entropy_by_hand((view / 0.1).tolist(), of_text) for view in score]
    losses += [cross_entropy_by_hand((read / 0.1).tolist(), sinkhorn_by_hand(x.tolist(), 0.05, 3)) for x in score[:2]]
    value = share_of(term, pairs_of(images[0], text, image_views=tuple(images[1:]))).item()
    assert value == pytest.approx(sum(losses) / 5, rel=1e-9)


@torch.no_grad()
def test_views_are_assigned_beside_what_is_queued():
    term = built(queue=9, queue_first_step=1)
    prototypes = torch.nn.functional.normalize(term.prototypes, dim=1)
    old = unit(7, DIM, 5), unit(7, DIM, 6)
    first = share_of(term, pairs_of(*old)).item()
    assert first == pytest.approx(share_of(built(), pairs_of(*old)).item())
    now = unit(7, DIM, 1), unit(7, DIM, 2)
    losses = []
    for own, other, kept in ((now[0], now[1], old[1]), (now[1], now[0], old[0])):
        everyone = torch.cat([kept.float().double(), other]) @ prototypes.T
        targets = sinkhorn_by_hand(everyone.tolist(), 0.05, 3)[7:]  # two places of nine are empty
        losses.append(cross_entropy_by_hand((own @ prototypes.T / 0.1).tolist(), targets))
    assert share_of(term, pairs_of(*now, step=1)).item() == pytest.approx(sum(losses) / 2, rel=1e-6)


def test_samples_sum_to_one_and_prototypes_share_the_batch():
    pairs = pairs_of(unit(20, DIM, 1), unit(20, DIM, 2))
    logits = pairs.image @ unit(5, DIM, 3).T / 0.2
    few, many = assign(pairs, logits, 3), assign(pairs, logits, 300)
    torch.testing.assert_close(few.sum(1), torch.ones(20).double())
    torch.testing.assert_close(many.sum(0), torch.full((5,), 4.0).double(), rtol=1e-6, atol=1e-6)


def test_scores_all_alike_are_assigned_evenly():
    same = unit(1, DIM, 1).repeat(8, 1)
    shares = assign(pairs_of(same, same), same @ unit(5, DIM, 3).T / 0.05, 3)
    torch.testing.assert_close(shares, torch.full((8, 5), 1 / 5).double())


def test_logarithms_survive_scores_that_exponentials_do_not():
    pairs = pairs_of(unit(8, DIM, 1, torch.float32), unit(8, DIM, 2, torch.float32))
    shares = assign(pairs, 1000 * pairs.image @ unit(5, DIM, 3, torch.float32).T, 3)
    torch.testing.assert_close(shares.sum(1), torch.ones(8))


@pytest.mark.parametrize(("step", "moves"), [(0, False), (99, False), (100, True)])
def test_prototypes_turn_after_their_frozen_steps(step, moves):
    term = built(frozen_steps=100)
    share_of(term, pairs_of(*draw_leaves(7), step=step)).backward()
    assert bool(term.prototypes.grad.any()) == moves


def test_one_assignment_for_all_costs_log_of_the_prototypes_at_least():
    """Uninformative embeddings: even targets, and the best prediction of them is the uniform one."""
    same = unit(1, DIM, 1).repeat(8, 1)
    assert share_of(built(), pairs_of(same, same)).item() >= math.log(5)


@pytest.mark.parametrize("settings", [{"num_prototypes": 0}, {"temperature": 0.0}, {"frozen_steps": -1}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must be positive"):
        SwavTerm(**settings)


@pytest.mark.parametrize("settings", [{"full_crops": 0}, {"queue": -1}, {"queue_first_step": 5}])
def test_settings_of_crops_and_queue_are_checked(settings):
    with pytest.raises(ValueError, match=r"full_crops|queue"):
        SwavTerm(**settings)
