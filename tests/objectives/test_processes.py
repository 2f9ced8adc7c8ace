"""Every term over three real processes adds up to one (`test_twins.py`: over two); unequal batches are refused."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.batches import assert_same_state, draw_leaves, extras, one, pairs_of, rows_of, state_of, unit
from tests.objectives.cases import CASES, SIZE, build, chosen_places, each_term
from tests.processes import run_processes
from vlp.ground.types import Embeddings
from vlp.objectives.alignment import AlignmentTerm
from vlp.objectives.base import Objective
from vlp.objectives.clip import ClipTerm
from vlp.pairs import Pairs

pytestmark = pytest.mark.filterwarnings("ignore:isogclr")  # small batches are meant here


def numbers_of(case, rows):
    """Return the reported value, the share, and the gradients of embeddings, scale, bias and the term's parameters."""
    image, text, scale, bias = (leaf.detach() for leaf in draw_leaves(SIZE))
    leaves = [leaf.clone().requires_grad_() for leaf in (image[rows], text[rows], scale, bias)]
    objective = Objective({"term": (build(*case), one)})
    loss, report = objective(pairs_of(*leaves, **rows_of(extras(SIZE), rows)), 0)
    wanted = [*leaves, *objective.parameters()]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    gradients = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, wanted, strict=True)]
    return [report["term"].item(), loss.item(), *(gradient.numpy() for gradient in gradients)]


def spoilt_by_the_last(case, rows, is_last):
    """Put a NaN into the last process alone; return whether the loss here is finite, and whether a gradient is not."""
    objective = Objective({"term": (build(*case), one)})
    image, text, scale, bias = (leaf.detach() for leaf in draw_leaves(SIZE))
    more = rows_of(extras(SIZE), rows)
    objective(pairs_of(image[rows], text[rows], scale, bias, **more), 0)
    before = state_of(objective)
    spoilt = image[rows].clone()
    spoilt[0, 0] = torch.nan if is_last else spoilt[0, 0]
    alone = ("caption_losses", "region_losses", "hidden_patches", "pixel_changes")
    more |= {name: more[name].detach().requires_grad_() for name in alone}
    more["image_maps"] = tuple(maps.detach().requires_grad_() for maps in more["image_maps"])
    leaves = [leaf.clone().requires_grad_() for leaf in (spoilt, text[rows], scale)]
    loss, _ = objective(pairs_of(*leaves, bias, **more), 0)
    wanted = [*leaves, *(more[name] for name in alone), *more["image_maps"]]
    reached = [g for g in torch.autograd.grad(loss, wanted, allow_unused=True) if g is not None]
    assert_same_state(objective, before)
    return bool(loss.isfinite()), any(not bool(gradient.isfinite().all()) for gradient in reached)


def train_on(rank, world_size, places):
    """Return what comes of the chosen cases, by their places in the list of all."""
    rows = slice(rank * SIZE // world_size, (rank + 1) * SIZE // world_size)
    is_last = rank == world_size - 1
    return {
        place: (numbers_of(CASES[place], rows), spoilt_by_the_last(CASES[place], rows, is_last)) for place in places
    }


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


def both_on(rank, world_size, places):
    return train_on(rank, world_size, places), uneven_on(rank, world_size)


@pytest.fixture(scope="module")
def parts(request):
    return run_processes(both_on, 3, chosen_places(request.session.items, __name__))


@each_term
@pytest.mark.processes
def test_several_processes_equal_one(name, settings, parts):
    place = CASES.index((name, settings))
    values, shares, images, texts, *numbers = zip(*(part[place][0] for part, _ in parts), strict=True)
    value, share, image, text, *others = numbers_of((name, settings), slice(None))
    assert values == pytest.approx([value] * len(parts), rel=1e-12)
    assert sum(shares) == pytest.approx(share, rel=1e-12)
    together = [*(torch.cat([torch.as_tensor(piece) for piece in pieces]) for pieces in (images, texts))]
    together += [torch.as_tensor(sum(pieces)) for pieces in numbers]
    for ours, theirs in zip(together, (image, text, *others), strict=True):
        torch.testing.assert_close(ours, torch.as_tensor(theirs), rtol=1e-9, atol=1e-11)


@each_term
@pytest.mark.processes
def test_a_nan_on_one_process_spoils_the_step_on_all(name, settings, parts):
    place = CASES.index((name, settings))
    for part, _ in parts:
        is_finite, has_bad_gradient = part[place][1]
        assert not is_finite
        assert has_bad_gradient


@pytest.mark.processes
def test_unequal_batches_are_refused(parts):
    for _, (unequal, changed) in parts:
        assert "unequal batches [3, 4, 5]" in unequal
        assert "went from 4 to 5" in changed
