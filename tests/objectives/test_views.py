"""What terms that read all views of a batch must hold with more than two of them."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.batches import draw_leaves, extras, one, pairs_of, share_of, unit
from tests.objectives.cases import build, for_each
from tests.processes import run_processes
from vlp.objectives.base import Objective, terms

SIZE, DIM = 6, 6
TERMS = [
    ("mv_infonce", {}),
    ("mv_infonce", {"intra_view": True}),
    ("dhel", {}),
    ("cacr", {}),
    ("cacr", {"detach_weights": False, "prior": 0.1}),
    ("groco", {}),
    ("ascl", {}),
    ("ascl", {"selection": "leaked"}),
]
each_term = for_each(TERMS)


def draw_views(size=SIZE, dtype=torch.float64, scale=10.0):
    """Draw image, text, scale, bias, two more views of the image and one of the text."""
    further = [unit(size, DIM, seed, dtype).requires_grad_() for seed in (3, 4, 5)]
    return [*draw_leaves(size, scale=scale, dtype=dtype), *further]


def numbers_of(case, leaves, rows):
    """Return the reported value, and the gradients of all views and of the scale."""
    cut = [leaf.detach()[rows] if leaf.ndim else leaf.detach() for leaf in leaves]
    image, text, scale, bias, first, second, third = (leaf.requires_grad_() for leaf in cut)
    pairs = pairs_of(image, text, scale, bias, image_views=(first, second), text_views=(third,))
    loss, report = Objective({"term": (build(*case), one)})(pairs, 0)
    wanted = [image, text, first, second, third, scale]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    filled = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, wanted, strict=True)]
    return report["term"].item(), [gradient.numpy() for gradient in filled]


def views_on(rank, world_size):
    rows = slice(rank * SIZE // world_size, (rank + 1) * SIZE // world_size)
    return [numbers_of(case, draw_views(), rows) for case in TERMS]


@pytest.fixture(scope="module", params=[2, 3])
def parts(request):
    return run_processes(views_on, request.param)


@each_term
@pytest.mark.processes
def test_several_processes_equal_one(name, settings, parts):
    place = TERMS.index((name, settings))
    values, gradients = zip(*(part[place] for part in parts), strict=True)
    value, expected = numbers_of((name, settings), draw_views(), slice(None))
    assert values == pytest.approx([value] * len(parts), rel=1e-12)
    *rows, scales = zip(*gradients, strict=True)
    together = [torch.cat([torch.as_tensor(piece) for piece in pieces]) for pieces in rows]
    together.append(torch.as_tensor(sum(scales)))
    for ours, theirs in zip(together, expected, strict=True):
        torch.testing.assert_close(ours, torch.as_tensor(theirs), rtol=1e-9, atol=1e-11)


@each_term
def test_pair_order_does_not_matter(name, settings):
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(0))
    straight, mixed = (numbers_of((name, settings), draw_views(), rows)[0] for rows in (slice(None), order))
    assert mixed == pytest.approx(straight, rel=1e-12)


@each_term
@pytest.mark.parametrize("size", [2, SIZE])
def test_finite_at_scale_100(name, settings, size):
    leaves = draw_views(size, torch.float32, scale=100.0)
    value, gradients = numbers_of((name, settings), leaves, slice(None))
    assert abs(value) < float("inf")
    assert all(bool(torch.as_tensor(gradient).isfinite().all()) for gradient in gradients)


@each_term
def test_gradient_is_the_slope_where_declared(name, settings):
    term = build(name, settings)

    def loss(image, text, scale, bias, *further):
        pairs = pairs_of(image, text, scale, bias, image_views=further[:2], text_views=further[2:])
        return Objective({"term": (term, one)})(pairs, 0)[0]

    leaves = draw_views(4, scale=3.0)
    checks = torch.autograd.gradcheck(loss, leaves, raise_exception=term.gradient_is_slope, fast_mode=True)
    assert checks == term.gradient_is_slope


@pytest.mark.filterwarnings("ignore:isogclr")  # so small a batch cannot spend its budget
@pytest.mark.parametrize("name", list(terms))
def test_terms_say_whether_they_read_further_views(name):
    numbers = [leaf.detach() for leaf in draw_leaves(SIZE)]
    further = {"image_views": (unit(SIZE, DIM, 3),), "text_views": (unit(SIZE, DIM, 4),)}
    without, with_views = (
        share_of(build(name, {}), pairs_of(*numbers, **extras(SIZE), **views)).item() for views in ({}, further)
    )
    assert (with_views != without) == terms[name].reads_views
