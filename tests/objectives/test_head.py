"""Heads between towers and terms: what they are by other means, what terms see behind them, on several processes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.objectives.batches import one, pairs_of, unit
from tests.objectives.gates import opened_gate
from tests.processes import run_processes
from vlp.ground.types import RecipeError
from vlp.objectives.base import Objective
from vlp.objectives.clip import ClipTerm
from vlp.objectives.clip_views import ClipViewsTerm
from vlp.objectives.head import Head, HeadPairs
from vlp.objectives.projections.base import projections

SIZE, DIM, WIDTHS = 12, 6, (5, 7)


def head_of(kind="perceptron", reads="embeddings", views="all", init_scale=None, **settings) -> Head:
    torch.manual_seed(0)
    settings = settings or {"perceptron": {"width": 4, "hidden_width": 8}, "linear": {"width": 4}}.get(kind, {})
    head = Head(projections.build(kind, settings), reads, views, init_scale)
    head.create(DIM, WIDTHS if reads == "features" else None)
    return head.double()


def whole_batch(rows=slice(None)):
    """Return pairs of three image views and two text views, with features beside them."""
    drawn = [unit(SIZE, DIM, seed)[rows] for seed in range(5)]
    features = [torch.stack([unit(SIZE, width, 20 + k)[rows] for k in range(3)]) for width in WIDTHS]
    return pairs_of(
        drawn[0],
        drawn[1],
        image_views=(drawn[2], drawn[3]),
        text_views=(drawn[4],),
        image_features=tuple(features[0]),
        text_features=tuple(features[1][:2]),
    )


def as_torch_has_it(perceptron) -> nn.Sequential:
    """Return torch's own layers and batch norms with the same weights."""
    layers: list[nn.Module] = []
    for layer, norm in zip(perceptron.layers, perceptron.norms, strict=False):
        batch_norm = nn.BatchNorm1d(len(norm.stretch)).double()
        batch_norm.load_state_dict({"weight": norm.stretch, "bias": norm.shift}, strict=False)
        layers += [layer, batch_norm, nn.ReLU()]
    return nn.Sequential(*layers, perceptron.layers[-1])


def test_a_perceptron_is_torchs_own_in_training_and_after_it():
    head, pairs = head_of(reads="features"), whole_batch()
    theirs = as_torch_has_it(head.projection.image)
    seen = HeadPairs(pairs, head)
    for ours, rows in zip((seen.image, *seen.embeddings.image_views), pairs.embeddings.image_features, strict=True):
        torch.testing.assert_close(ours, functional.normalize(theirs(rows), dim=1))
    rows = unit(3, WIDTHS[0], 40)
    torch.testing.assert_close(head.embed("image", rows), functional.normalize(theirs.eval()(rows), dim=1))


def test_reweighting_divides_each_coordinate_once_more():
    seen, pairs = HeadPairs(whole_batch(), head_of("reweighting", kappa=2.0)), whole_batch()
    by_hand = torch.tensor([[x / 2**k for k, x in enumerate(row)] for row in pairs.text.tolist()])
    torch.testing.assert_close(seen.text, functional.normalize(by_hand.double(), dim=1))
    unchanged = HeadPairs(pairs, head_of("reweighting", kappa=1.0))
    torch.testing.assert_close(unchanged.image, pairs.image)


@pytest.mark.parametrize("kind", ["linear", "reweighting"])
def test_a_head_that_is_a_matrix_says_so(kind):
    head, rows = head_of(kind), unit(5, DIM, 1)
    for side in ("image", "text"):
        torch.testing.assert_close(
            head.embed(side, rows), functional.normalize(rows @ head.matrix(side).double().T, dim=1)
        )
    assert head_of().matrix("image") is None


def test_further_views_alone_are_seen_without_the_first():
    pairs = whole_batch()
    seen = HeadPairs(pairs, head_of("linear", views="further"))
    every = HeadPairs(pairs, head_of("linear"))
    assert (seen.num_image_views, seen.num_text_views) == (2, 1)
    torch.testing.assert_close(seen.image, every.view("image1"))
    torch.testing.assert_close(seen.view("image1"), every.view("image2"))
    torch.testing.assert_close(seen.text, every.view("text1"))


def test_the_improved_baseline_is_two_losses_added():
    """(global + 2 local) / 3 of the paper: clip on the first pair, the mean of the others' behind heads, smoothed."""
    pairs, head = whole_batch(), head_of(reads="features", views="further", init_scale=10.0)
    local = ClipViewsTerm(label_smoothing=0.1)
    objective = Objective(
        {"clip": (ClipTerm(), lambda _: 1 / 3), "local": (local, lambda _: 2 / 3)},
        heads={"h": head},
        behind={"local": "h"},
    )
    loss, report = objective(pairs, 0)
    images = [
        functional.normalize(as_torch_has_it(head.projection.image)(x), dim=1)
        for x in pairs.embeddings.image_features[1:]
    ]
    text = functional.normalize(as_torch_has_it(head.projection.text)(pairs.embeddings.text_features[1]), dim=1)
    targets, losses = torch.arange(SIZE), []
    for image in images:
        logits = 10 * image @ text.T
        losses += [functional.cross_entropy(x, targets, label_smoothing=0.1) for x in (logits, logits.T)]
    assert report["local"].item() == pytest.approx(torch.stack(losses).mean().item())
    assert loss.item() == pytest.approx((report["clip"] + 2 * report["local"]).item() / 3)


def test_a_scale_of_its_own_trains_and_stays_in_its_range():
    head = head_of("linear", init_scale=100.0)
    head.log_scale.data += 0.5
    value = Objective({"clip": (ClipTerm(), one)}, heads={"h": head}, behind={"clip": "h"})(whole_batch(), 0)[0]
    assert head.own_scale == pytest.approx(100)
    assert torch.autograd.grad(value, head.log_scale)[0].abs() > 0
    assert head_of().own_scale is None


def test_a_head_without_further_views_is_refused():
    with pytest.raises(ValueError, match="views: further"):
        HeadPairs(pairs_of(unit(3, DIM, 1), unit(3, DIM, 2)), head_of("linear", views="further"))


def test_an_unknown_head_is_named_with_those_there_are():
    objective = Objective({"clip": (ClipTerm(), one)}, heads={"h": head_of()}, behind={"clip": "h"})
    with pytest.raises(RecipeError, match="no head is called 'x' \\(known: h\\)"):
        objective.head("x")


def parts_on(rank, world_size):
    rows = slice(rank * SIZE // world_size, (rank + 1) * SIZE // world_size)
    head = head_of(reads="features", views="further", init_scale=10.0)
    objective = Objective(
        {"local": (ClipViewsTerm(), one), "gated": (ClipTerm(), one)},
        heads={"h": head, "gate": opened_gate()},
        behind={"local": "h", "gated": "gate"},
    )
    loss, _ = objective(whole_batch(rows), 0)
    gradients = torch.autograd.grad(loss, list(objective.parameters()))
    return loss.item(), [g.numpy() for g in gradients], [buffer.numpy() for buffer in objective.buffers()]


def test_two_processes_equal_one():
    parts, (loss, gradients, buffers) = run_processes(parts_on, 2), parts_on(0, 1)
    assert sum(part[0] for part in parts) == pytest.approx(loss)
    for k, gradient in enumerate(gradients):
        torch.testing.assert_close(torch.tensor(sum(part[1][k] for part in parts)), torch.tensor(gradient))
    for part in parts:
        for ours, theirs in zip(part[2], buffers, strict=True):
            torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs))
