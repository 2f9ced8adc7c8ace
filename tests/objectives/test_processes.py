"""Every term over several real processes adds up to one; unequal batches are refused."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.batches import draw_leaves, gradients_of, one, pairs_of, share_of, unit
from tests.objectives.test_contract import CASES, SIZE, build, each_term, extras
from tests.processes import run_processes
from vlp.objectives.alignment import AlignmentTerm
from vlp.objectives.base import Objective
from vlp.objectives.clip import ClipTerm
from vlp.pairs import Pairs
from vlp.types import Embeddings


def train_on(rank, world_size):
    """Return for every case the reported value, the share, and the gradients of this process."""
    rows = slice(rank * SIZE // world_size, (rank + 1) * SIZE // world_size)
    image, text, scale, bias = (leaf.detach() for leaf in draw_leaves(SIZE))
    more = extras(SIZE)
    answers = []
    for name, settings in CASES:
        leaves = [leaf.clone().requires_grad_() for leaf in (image[rows], text[rows], scale, bias)]
        embeddings = Embeddings(*leaves, reference=more["reference"][rows])
        pairs = Pairs(embeddings, torch.arange(SIZE)[rows], more["caption_ids"][rows])
        loss, report = Objective({"term": (build(name, settings), one)})(pairs, 0)
        found = torch.autograd.grad(loss, leaves, allow_unused=True)
        numbers = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)]
        answers.append([report["term"].item(), loss.item(), *(number.numpy() for number in numbers)])
    return answers


def uneven_on(rank, world_size):
    def pairs(size):
        embeddings = Embeddings(unit(size, 4, 1), unit(size, 4, 2), torch.tensor(1.0), torch.tensor(0.0))
        return Pairs(embeddings, torch.arange(size), torch.arange(size))

    messages = []
    changing = Objective({"a": (AlignmentTerm(), one)})
    changing(pairs(4), 0)
    for objective, size in ((Objective({"a": (ClipTerm(), one)}), 3 + rank), (changing, 5)):
        try:
            objective(pairs(size), 0)
        except ValueError as error:
            messages.append(str(error))
    return messages


def both_on(rank, world_size):
    return train_on(rank, world_size), uneven_on(rank, world_size)


@pytest.fixture(scope="module")
def parts():
    return run_processes(both_on, 2)


@each_term
@pytest.mark.processes
def test_several_processes_equal_one(name, settings, parts):
    place = CASES.index((name, settings))
    values, shares, images, texts, scales, biases = zip(*(part[place] for part, _ in parts), strict=True)
    leaves = draw_leaves(SIZE)
    whole = share_of(build(name, settings), pairs_of(*leaves, **extras(SIZE))).item()
    assert values == pytest.approx([whole] * len(parts), rel=1e-12)
    assert sum(shares) == pytest.approx(whole, rel=1e-12)
    together = [torch.cat([torch.as_tensor(piece) for piece in pieces]) for pieces in (images, texts)]
    together += [torch.as_tensor(sum(scales)), torch.as_tensor(sum(biases))]
    for ours, theirs in zip(together, gradients_of(build(name, settings), leaves, **extras(SIZE)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.processes
def test_unequal_batches_are_refused(parts):
    for _, (unequal, changed) in parts:
        assert "unequal batches [3, 4]" in unequal
        assert "went from 4 to 5" in changed
