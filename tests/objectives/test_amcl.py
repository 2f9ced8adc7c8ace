"""MultiHeadTerm against a slow reading of its formula, and the term that it contains."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from tests.objectives.batches import DIM, draw_leaves, gradients_of, pairs_of, share_of
from vlp.objectives import amcl
from vlp.objectives.amcl import MultiHeadTerm
from vlp.objectives.clip import ClipTerm

VARIANTS = [{"num_heads": 1, "width": 4, "hidden": 3, "beta": 0.0}, {"min_temperature": 0.1, "max_temperature": 0.1}]


def build(**settings):
    term = MultiHeadTerm(**settings)
    torch.manual_seed(0)
    term.create(DIM)
    return term.double()


def slow_reading(term, image, text, beta):
    size, total = len(image), 0.0
    for head in range(term.num_heads):
        projected = [
            [functional.normalize(term.heads[name][head] @ row, dim=0) for row in rows]
            for name, rows in (("image", image), ("text", text))
        ]

        def temperature(i, j, projected=projected):
            closeness = term.phi(projected[0][i]) @ term.phi(projected[1][j])
            return term.low + (term.high - term.low) / (1 + torch.exp(closeness))

        logits = [[projected[0][i] @ projected[1][j] / temperature(i, j) for j in range(size)] for i in range(size)]
        for i in range(size):
            row = torch.stack([logits[i][j] for j in range(size)])
            column = torch.stack([logits[j][i] for j in range(size)])
            own = temperature(i, i)
            total = total + (row.logsumexp(0) + column.logsumexp(0)) / 2 - logits[i][i]
            total = total + beta * (term.width / 2 * torch.log(own) + 1 / own)
    return total / size


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("settings", [{"hidden": 5}, *VARIANTS])
def test_matches_its_formula(size, settings):
    term, leaves = build(**settings), draw_leaves(size)
    wanted = [*leaves[:2], *term.parameters()]
    values = share_of(term, pairs_of(*leaves)), slow_reading(term, *leaves[:2], term.beta)
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-9)
    gradients = [torch.autograd.grad(value, wanted, allow_unused=True, materialize_grads=True) for value in values]
    torch.testing.assert_close(*gradients)


def test_one_head_at_one_temperature_is_clip():
    """An orthogonal projection keeps cosines, so that this is softmax contrast at scale 1 / temperature."""
    term, leaves = build(num_heads=1, beta=0.0, min_temperature=0.1, max_temperature=0.1), draw_leaves(7, scale=10.0)
    assert share_of(term, pairs_of(*leaves)).item() == pytest.approx(share_of(ClipTerm(), pairs_of(*leaves)).item())
    ours, clip = (gradients_of(part, leaves)[:2] for part in (term, ClipTerm()))
    for mine, theirs, leaf in zip(ours, clip, leaves, strict=False):
        along = ((theirs - mine) * leaf.detach()).sum(1, keepdim=True) * leaf.detach()  # normalisation drops it
        torch.testing.assert_close(mine + along, theirs, rtol=1e-5, atol=1e-6)  # orthogonal in float32


def test_equal_heads_cost_as_often_as_there_are():
    one, three, leaves = build(num_heads=1), build(num_heads=3), draw_leaves(7)
    three.phi.load_state_dict(one.phi.state_dict())
    for name in ("image", "text"):
        three.heads[name].data.copy_(one.heads[name].data.expand(3, -1, -1))
    assert share_of(three, pairs_of(*leaves)).item() == pytest.approx(3 * share_of(one, pairs_of(*leaves)).item())


def test_pieces_do_not_change_the_result(monkeypatch):
    term, leaves = build(), draw_leaves(7)
    whole = [share_of(term, pairs_of(*leaves)).item(), *gradients_of(term, leaves)]
    monkeypatch.setattr(amcl, "PIECE", 3)
    torch.testing.assert_close([share_of(term, pairs_of(*leaves)).item(), *gradients_of(term, leaves)], whole)


def test_the_regulariser_is_smallest_at_two_over_the_width():
    """The derivative of d / 2 log t + 1 / t vanishes at t = 2 / d."""
    temperatures = torch.linspace(0.01, 2, 2000)
    assert temperatures[(3 * temperatures.log() + 1 / temperatures).argmin()].item() == pytest.approx(1 / 3, abs=2e-3)
    assert math.isfinite(share_of(build(), pairs_of(*draw_leaves(2, scale=100.0))).item())


@pytest.mark.parametrize(
    "settings", [{"num_heads": 0}, {"width": 0}, {"beta": -1.0}, {"min_temperature": 0.0}, {"max_temperature": 0.001}]
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        MultiHeadTerm(**settings)
