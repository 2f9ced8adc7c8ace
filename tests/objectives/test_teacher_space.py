"""Teachers of another width: each term that needs one takes it, and learns the way where it compares features."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tests.objectives.batches import DIM, draw_leaves, extras, one, pairs_of, rows_of, unit
from tests.processes import run_processes
from vlp.ground.types import RecipeError, Teacher
from vlp.objectives.base import Objective, terms
from vlp.objectives.feature_distillation import FeatureDistillationTerm

SIZE, WIDE, WIDTH = 12, 9, 4
TAUGHT = [name for name in terms if "teacher" in terms[name].needs]
COMPARING = (
    "byolip",
    "feature_contrast",
    "feature_distillation",
    "self_distillation",
    "teacher_contrast",
    "text_grounded",
)
"""Terms that compare features, not similarities; each has parameters for a teacher of another width."""


def objective_of(name, teacher_dim, widths=None):
    torch.manual_seed(0)
    objective = Objective({"term": (terms.build(name, {}), one)}, widths or {})
    objective.create(DIM, teacher_dim)
    return objective.double() if any(True for _ in objective.parameters()) else objective


def more_of(teacher_dim):
    teacher = Teacher(unit(SIZE, teacher_dim, 21), unit(SIZE, teacher_dim, 22))
    return extras(SIZE) | {"teacher": teacher, "ids": torch.arange(SIZE)}


def numbers_of(name, rows):
    """Return the share of a loss, and the gradients of embeddings and of the term's own parameters."""
    objective, leaves = objective_of(name, WIDE), [leaf.detach() for leaf in draw_leaves(SIZE)]
    image, text, *numbers = (leaf.requires_grad_() for leaf in (leaves[0][rows], leaves[1][rows], *leaves[2:]))
    loss, _ = objective(pairs_of(image, text, *numbers, **rows_of(more_of(WIDE), rows)), 0)
    wanted = [image, text, *objective.parameters()]
    found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    return loss.item(), [gradient.numpy() for gradient in found]


def all_on(rank, world_size):
    rows = slice(rank * SIZE // world_size, (rank + 1) * SIZE // world_size)
    return {name: numbers_of(name, rows) for name in TAUGHT}


@pytest.fixture(scope="module")
def parts():
    return run_processes(all_on, 2)


def test_the_terms_that_need_a_teacher_are_these():
    assert {"soft_targets", "ranker_distillation", "drrho", *COMPARING} <= set(TAUGHT)


@pytest.mark.parametrize("name", TAUGHT)
def test_only_what_compares_features_learns_a_way(name):
    alike, other = (objective_of(name, width) for width in (None, WIDE))
    ours, wider = (sum(value.numel() for value in each.parameters()) for each in (alike, other))
    assert (wider > ours) == (name in COMPARING)
    loss, gradients = numbers_of(name, slice(None))
    assert abs(loss) > 0
    assert all(bool(torch.as_tensor(gradient).any()) for gradient in gradients[2:])


@pytest.mark.processes
@pytest.mark.parametrize("name", TAUGHT)
def test_two_processes_equal_one(name, parts):
    value, (image, text, *own) = numbers_of(name, slice(None))
    assert sum(part[name][0] for part in parts) == pytest.approx(value, rel=1e-12)
    halves = [[torch.as_tensor(gradient) for gradient in part[name][1]] for part in parts]
    for k, whole in enumerate((image, text)):
        torch.testing.assert_close(torch.cat([half[k] for half in halves]), torch.as_tensor(whole))
    for k, whole in enumerate(own, 2):
        torch.testing.assert_close(halves[0][k] + halves[1][k], torch.as_tensor(whole))


@pytest.mark.parametrize("name", ["feature_contrast", "feature_distillation", "teacher_contrast", "text_grounded"])
def test_where_the_way_is_an_embedding_it_changes_nothing(name):
    """A teacher whose further coordinates are zeros says what the narrow one says."""
    narrow, wide = objective_of(name, None), objective_of(name, WIDE)
    with torch.no_grad():
        for weight in wide.parameters():
            weight.copy_(torch.eye(WIDE, DIM))
    more = more_of(DIM)
    padded = Teacher(*(functional.pad(rows, (0, WIDE - DIM)) for rows in (more["teacher"].image, more["teacher"].text)))
    leaves = draw_leaves(SIZE)
    values = [
        objective(pairs_of(*leaves, **more | {"teacher": teacher}), 0)[0].item()
        for objective, teacher in ((narrow, more["teacher"]), (wide, padded))
    ]
    assert values[1] == pytest.approx(values[0], rel=1e-12)


@pytest.mark.parametrize("teacher_dim", [None, WIDE])
@pytest.mark.parametrize("name", TAUGHT)
def test_first_coordinates_meet_a_teacher_too(name, teacher_dim):
    """One of the embeddings' own width is cut with them; another one stays whole."""
    objective = objective_of(name, teacher_dim, {"term": WIDTH})
    loss, _ = objective(pairs_of(*draw_leaves(SIZE), **more_of(teacher_dim or DIM)), 0)
    assert bool(loss.isfinite())
    widths = [weight.shape for weight in objective.parameters()]
    if name == "feature_distillation":
        assert widths == ([] if teacher_dim is None else [(WIDE, WIDTH)])


def test_the_way_reads_slowly():
    objective = objective_of("feature_distillation", WIDE)
    (weight,) = objective.parameters()
    leaves, more = draw_leaves(SIZE), more_of(WIDE)
    total = 0.0
    for rows, taught in ((leaves[0], more["teacher"].image), (leaves[1], more["teacher"].text)):
        for row, target in zip(rows, taught, strict=True):
            moved = torch.stack([weights @ row for weights in weight])
            total += (moved / moved.norm() - target).square().sum().item()
    found, _ = objective(pairs_of(*leaves, **more), 0)
    assert found.item() == pytest.approx(total / SIZE, rel=1e-12)


def test_a_direct_map_keeps_its_width():
    objective = Objective({"byolip": (terms.build("byolip", {"predictor": "direct"}), one)})
    with pytest.raises(RecipeError, match=r"objective\.byolip: predictor direct keeps the width 6.*have 9.*mlp"):
        objective.create(DIM, WIDE)


def test_a_term_that_was_told_no_width_takes_one_like_the_embeddings():
    assert not list(FeatureDistillationTerm().parameters())
