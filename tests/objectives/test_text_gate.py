"""Filters that texts open, against a reading that filters both embeddings of every pair of a batch."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from tests.objectives.batches import DIM, one, pairs_of, unit
from tests.objectives.gates import opened_gate
from vlp.ground.types import RecipeError
from vlp.objectives.base import Objective
from vlp.objectives.clip import ClipTerm
from vlp.objectives.head import Head, HeadPairs
from vlp.objectives.projections.text_gate import TextGateHead
from vlp.objectives.siglip import SigLipTerm

SIZE = 7


def filtered_cosines(image, text, gates):
    """Filter image i and text j by the filter of text j, one pair at a time."""
    rows = []
    for x in image.tolist():
        row = []
        for y, gate in zip(text.tolist(), gates.tolist(), strict=True):
            product = sum((g * a) * (g * b) for g, a, b in zip(gate, x, y, strict=True))
            row.append(product / math.sqrt(sum((g * g * b) ** 2 for g, b in zip(gate, y, strict=True))))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("term", [ClipTerm, SigLipTerm])
def test_every_image_is_seen_through_the_filter_of_every_text(term):
    """What a term says behind it is what it says of the matrix of filtered cosines, gradients included."""
    head, image, text = opened_gate(), unit(SIZE, DIM, 1).requires_grad_(), unit(SIZE, DIM, 2).requires_grad_()
    pairs = HeadPairs(pairs_of(image, text), head)
    gates = head.gates(text)
    torch.testing.assert_close(pairs.image @ pairs.text.T, filtered_cosines(image, text, gates))
    dense = torch.einsum("nd,md,md->nm", functional.normalize(image, dim=1), gates**2, text) / (gates**2 * text).norm(
        dim=1
    )
    logits, places = 10 * dense, torch.arange(SIZE)
    if term is ClipTerm:
        by_hand = sum(functional.cross_entropy(z, places) for z in (logits, logits.T)) / 2
    else:
        signs = 2 * torch.eye(SIZE, dtype=torch.float64) - 1
        by_hand = -functional.logsigmoid(signs * (logits - 5)).sum() / SIZE
    loss, _ = Objective({"term": (term(), one)}, heads={"gate": head}, behind={"term": "gate"})(
        pairs_of(image, text), 0
    )
    leaves = [image, text, *head.parameters()]
    for ours, theirs in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(by_hand, leaves), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert loss.item() == pytest.approx(by_hand.item())


def test_it_begins_as_no_filter():
    head = Head(TextGateHead(hidden_width=5), "embeddings", "all", None)
    head.create(DIM, None)
    seen, pairs = HeadPairs(pairs_of(unit(5, DIM, 1), unit(5, DIM, 2)), head.double()), unit(5, DIM, 2)
    torch.testing.assert_close(seen.text, pairs)
    assert head.matrix("text") is None and (head.gates(pairs) == 0.5).all()


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="hidden_width 0"):
        TextGateHead(hidden_width=0)
    with pytest.raises(RecipeError, match="a text filters what is as wide, not 5 and 7: read embeddings"):
        head = Head(TextGateHead(), "features", "all", None)
        Objective({"term": (ClipTerm(), one)}, heads={"gate": head}, behind={"term": "gate"}).create(DIM, None, (5, 7))
