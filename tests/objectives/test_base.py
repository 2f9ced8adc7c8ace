"""Objective: a weighted sum whose terms share tiles, and the mistakes it refuses."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.batches import DIM, draw_leaves, one, pairs_of, share_of, unit, value_of
from tests.objectives.cases import build
from vlp.ground.types import RecipeError
from vlp.objectives.base import Objective, terms
from vlp.objectives.clip import ClipTerm
from vlp.objectives.cwcl import CwclTerm
from vlp.objectives.dcl import DclTerm
from vlp.objectives.head import Head
from vlp.objectives.projections.linear import LinearHead
from vlp.objectives.siglip import SigLipTerm
from vlp.pairs.engine.tiles import Tile


def test_loss_is_the_weighted_sum_of_reported_values():
    pairs = pairs_of(*draw_leaves(8))
    objective = Objective({"a": (ClipTerm(), one), "b": (SigLipTerm(), lambda step: 0.1 * step)})
    loss, report = objective(pairs, 3)
    assert loss.item() == pytest.approx(report["a"].item() + 0.3 * report["b"].item())
    assert not any(value.requires_grad for value in report.values())


def test_the_same_term_may_appear_twice():
    image, text, *_ = draw_leaves(8)
    objective = Objective({"a": (ClipTerm(text_share=0.0), one), "b": (ClipTerm(text_share=1.0), one)})
    loss, _ = objective(pairs_of(image, text), 0)
    assert loss.item() == pytest.approx(2 * value_of(ClipTerm(), image, text))


def test_a_term_of_weight_zero_is_reported_and_moves_nothing():
    leaves = draw_leaves(8)
    objective = Objective({"a": (ClipTerm(), one), "gauge": (SigLipTerm(), lambda step: 0.0)})
    loss, report = objective(pairs_of(*leaves), 0)
    loss.backward()
    alone = draw_leaves(8)
    Objective({"a": (ClipTerm(), one)})(pairs_of(*alone), 0)[0].backward()
    torch.testing.assert_close(leaves[0].grad, alone[0].grad)
    assert report["gauge"].item() > 0


def test_weight_decay_leaves_alone_what_waits_for_its_weight():
    siamlip, head = build("siamlip", {}), Head(LinearHead(width=4), "embeddings", "all", 10.0)
    waiting = {"siamlip": (siamlip, lambda step: 0.0), "behind": (ClipTerm(), lambda step: 0.0)}
    objective = Objective({"clip": (ClipTerm(), one), **waiting}, heads={"head": head}, behind={"behind": "head"})
    head.create(DIM, None)
    objective.double()
    before = [parameter.detach().clone() for parameter in objective.parameters()]
    optimizer = torch.optim.AdamW(objective.parameters(), lr=0.1, weight_decay=1.0)
    loss, report = objective(pairs_of(*draw_leaves(8)), 0)
    loss.backward()
    optimizer.step()
    assert report.keys() == {"clip", "siamlip", "behind"} and before
    assert all(torch.equal(*both) for both in zip(before, objective.parameters(), strict=True))


def test_a_step_at_which_all_weights_are_zero_has_gradients_of_zero():
    image, *others = draw_leaves(8)
    Objective({"clip": (ClipTerm(), lambda step: 1.0 * step)})(pairs_of(image, *others), 0)[0].backward()
    assert torch.equal(image.grad, torch.zeros_like(image))


def test_a_term_that_has_not_begun_needs_nothing():
    terms = {"clip": (ClipTerm(), one), "cwcl": (CwclTerm(), one)}
    objective = Objective(terms, begins={"cwcl": 3})
    pairs = pairs_of(unit(5, DIM, 1), unit(5, DIM, 2))
    loss, report = objective(pairs, 2)
    assert report.keys() == {"clip"} and loss.item() == share_of(ClipTerm(), pairs).item()
    assert (objective.wanted(2), objective.wanted(3)) == (frozenset(), frozenset({"reference"}))
    with pytest.raises(ValueError, match="'cwcl' needs reference"):
        objective(pairs, 3)
    whole = pairs_of(unit(5, DIM, 1), unit(5, DIM, 2), reference=unit(5, 4, 3))
    assert objective(whole, 2)[1].keys() == {"clip", "cwcl"}  # a gauge, where there is what it needs


def test_terms_on_one_matrix_share_their_products(monkeypatch):
    counts = []
    product = Tile.__init__
    monkeypatch.setattr(
        Tile, "__init__", lambda self, *args, **more: (counts.append(1), product(self, *args, **more))[1]
    )
    everything = {"a": (ClipTerm(), one), "b": (SigLipTerm(), one), "c": (DclTerm(), one)}
    loss, _ = Objective(everything)(pairs_of(*draw_leaves(8)), 0)
    assert len(counts) == 1
    loss.backward()
    assert len(counts) == 2


def test_needs_are_those_of_all_terms():
    objective = Objective({"a": (ClipTerm(mask_duplicates=True), one), "b": (CwclTerm(), one)})
    assert objective.needs == {"caption_ids", "reference"}


def test_no_term_is_refused():
    with pytest.raises(ValueError, match="at least one term"):
        Objective({})


def test_a_typo_names_the_nearest_term():
    with pytest.raises(RecipeError, match="did you mean 'siglip'"):
        terms.build("siglp", {})


def test_decoupled_terms_advise_a_fixed_scale():
    assert {name for name in terms if terms[name].fixed_scale_advised} >= {"dcl", "dclw", "dhel"}
