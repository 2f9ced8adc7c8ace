"""What is NaN or Inf: no term raises, the step is spoilt for all, and no term remembers it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.objectives.batches import DIM, assert_same_state, draw_leaves, extras, one, pairs_of, state_of, unit
from tests.objectives.cases import SIZE, build, each_term
from vlp.ground.types import Teacher
from vlp.objectives.base import Objective

pytestmark = pytest.mark.filterwarnings("ignore:isogclr")  # small batches are meant here

ROW, ALL = 3, slice(None)
POISONS = [(torch.nan, ROW), (torch.nan, ALL), (torch.inf, ROW), (-torch.inf, ALL)]
PLACES = (
    "image",
    "text",
    "image1",
    "text1",
    "image_maps 0",
    "image_maps 1",
    "taught_maps 0",
    "taught_maps 1",
    "negatives",
    "teacher image",
    "teacher text",
    "reference",
    "caption_losses",
    "region_losses",
    "hidden_patches",
    "taught_patches",
    "pixel_changes",
    "scale",
    "bias",
)


def fields_of(seed=0):
    """Return everything that any term reads, views included, as fields of a batch."""
    more = extras(SIZE) | {"image_views": (unit(SIZE, DIM, 21 + seed),), "text_views": (unit(SIZE, DIM, 22 + seed),)}
    leaves = [leaf.detach() for leaf in draw_leaves(SIZE)]
    return dict(zip(("image", "text", "scale", "bias"), leaves, strict=True)) | more


def poisoned(fields, place, number, rows):
    """Return the batch with a bad number in one place."""

    def spoil(tensor):
        bad = tensor.clone()
        bad[rows if tensor.ndim else ...] = number
        return bad

    if place in ("image1", "text1"):
        name = f"{place[:-1]}_views"
        return fields | {name: (spoil(fields[name][0]),)}
    if "maps" in place:
        name, view = place.split(" ")
        return fields | {name: tuple(spoil(maps) if at == int(view) else maps for at, maps in enumerate(fields[name]))}
    if place.startswith("teacher"):
        side = place.split(" ")[1]
        return fields | {"teacher": replace(fields["teacher"], **{side: spoil(getattr(fields["teacher"], side))})}
    return fields | {place: spoil(fields[place])}


def step_on(objective, fields):
    """Return loss, report, and the gradients of all that the towers say but views, and of terms' own parameters."""
    names = ("image", "text", "scale", "bias", "caption_losses", "pixel_changes")
    leaves = [fields[name].detach().clone().requires_grad_() for name in names]
    loss, report = objective(pairs_of(**fields | dict(zip(names, leaves, strict=True))), 0)
    wanted = [*leaves, *objective.parameters()]
    return loss.detach(), report["term"], torch.autograd.grad(loss, wanted, allow_unused=True)


def objective_of(name, settings):
    return Objective({"term": (build(name, settings), one)})


@each_term
def test_what_is_not_finite_spoils_the_step_and_leaves_no_trace(name, settings):
    objective, twin = objective_of(name, settings), objective_of(name, settings)
    clean, later = fields_of(), fields_of(seed=5)
    for one_of_two in (objective, twin):
        step_on(one_of_two, clean)
    before = state_of(objective)
    for place in PLACES:
        for number, rows in POISONS if place in ("image", "text") else POISONS[:1]:
            loss, value, gradients = step_on(objective, poisoned(clean, place, number, rows))
            assert not loss.isfinite() and not value.isfinite(), place
            reached = [gradient for gradient in gradients if gradient is not None]
            assert not all(bool(gradient.isfinite().all()) for gradient in reached), place
            assert_same_state(objective, before)
    again, never = step_on(objective, later), step_on(twin, later)
    assert again[0].isfinite() and torch.equal(again[0], never[0]) and torch.equal(again[1], never[1])
    for ours, theirs in zip(again[2], never[2], strict=True):
        assert (ours is None) == (theirs is None) and (ours is None or torch.equal(ours, theirs))
    assert_same_state(objective, state_of(twin))


@each_term
def test_a_step_that_is_skipped_for_another_reason_is_forgotten_too(name, settings):
    """A gradient that overflows in the towers is known after the step only; here samples are new besides."""
    objective = objective_of(name, settings)
    step_on(objective, fields_of())
    before = state_of(objective)
    step_on(objective, fields_of(seed=5) | {"ids": torch.arange(SIZE) + 500})
    objective.settle(torch.tensor(False))
    assert_same_state(objective, before)
    step_on(objective, fields_of(seed=5))
    after = state_of(objective)
    objective.settle(torch.tensor(True))
    assert_same_state(objective, after)


def test_every_number_of_a_batch_is_poisoned_once():
    """A field that Embeddings gains must be checked here too."""
    fields = fields_of()
    pairs = pairs_of(**fields)
    assert bool(pairs.finite)
    assert len(PLACES) == len(list(pairs.embeddings.numbers()))
    for place in PLACES:
        spoilt = pairs_of(**poisoned(fields, place, torch.nan, ROW))
        assert not bool(spoilt.finite), place
        assert all(bool(numbers.isfinite().all()) for numbers in spoilt.embeddings.numbers())
    assert isinstance(fields["teacher"], Teacher)
