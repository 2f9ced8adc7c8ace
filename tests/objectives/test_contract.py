"""What any term must hold. A new term is covered here the moment it is registered."""

from __future__ import annotations

import copy
import io
from itertools import product

import pytest
import torch

from tests.objectives.batches import DIM, draw_leaves, extras, gradients_of, one, pairs_of, rows_of, share_of, unit
from tests.objectives.cases import NO_TOWER, ONE_TOWER, SIZE, build, each_term
from vlp.commands.reference import describe
from vlp.ground.registry import settings_of
from vlp.objectives.base import Objective, terms
from vlp.objectives.needs import NEEDS

pytestmark = pytest.mark.filterwarnings("ignore:isogclr")  # small batches are meant here


def test_the_registry_is_not_empty():
    assert len(terms) >= 8


@each_term
def test_settings_are_a_schema(name, settings):
    checked = settings_of(terms[name])(**settings)
    build(name, checked.model_dump())


@pytest.mark.parametrize("name", list(terms))
def test_documentation_names_formula_and_paper(name):
    documentation = describe(name)
    assert "Formula: " in documentation
    assert "arXiv:" in documentation
    assert f"objective: {{{name}: {{" in documentation


@each_term
def test_pair_order_does_not_matter(name, settings):
    image, text, scale, bias = (leaf.detach() for leaf in draw_leaves(SIZE))
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(0))
    more = extras(SIZE)
    shuffled = rows_of(more, order)
    straight = share_of(build(name, settings), pairs_of(image, text, scale, bias, **more))
    mixed = share_of(build(name, settings), pairs_of(image[order], text[order], scale, bias, **shuffled))
    assert mixed.item() == pytest.approx(straight.item(), rel=1e-12)


@each_term
def test_finite_at_scale_100(name, settings):
    for size, same in product([1, 2, SIZE], [False, True]):
        term = build(name, settings)
        size = max(size, term.min_pairs)
        leaves = draw_leaves(size, scale=100.0, dtype=torch.float32)
        if same:
            leaves[1] = leaves[0].detach().clone().requires_grad_()
        more = extras(size, torch.float32)
        assert bool(share_of(term, pairs_of(*leaves, **more)).isfinite())
        assert all(bool(gradient.isfinite().all()) for gradient in gradients_of(term, leaves, **more))


@each_term
def test_too_few_pairs_are_refused(name, settings):
    term = build(name, settings)
    if term.min_pairs == 1:
        share_of(term, pairs_of(unit(1, DIM, 1), unit(1, DIM, 2), **extras(1)))
        return
    with pytest.raises(ValueError, match=f"needs {term.min_pairs} pairs"):
        share_of(term, pairs_of(unit(1, DIM, 1), unit(1, DIM, 2), **extras(1)))


@each_term
def test_gradient_is_the_slope_where_declared(name, settings):
    term = build(name, settings)
    leaves = draw_leaves(5, scale=3.0, bias=-1.0)
    checks = torch.autograd.gradcheck(
        lambda *leaf: share_of(term, pairs_of(*leaf, **extras(5))),
        leaves,
        raise_exception=term.gradient_is_slope,
        fast_mode=True,  # along a random direction, instead of along every number
    )
    assert checks == term.gradient_is_slope


@each_term
def test_gradient_reaches_both_towers(name, settings):
    image, text, *_ = gradients_of(build(name, settings), draw_leaves(SIZE), **extras(SIZE))
    reached = [bool(gradient.abs().sum() > 0) for gradient in (image, text)]
    assert any(reached) == ((name, settings) not in NO_TOWER)
    assert all(reached) == ((name, settings) not in [*ONE_TOWER, *NO_TOWER])


@each_term
def test_state_survives_a_checkpoint_bit_for_bit(name, settings):
    """Two batches, a save, a load into another instance, a third batch: nothing differs."""
    batches = [pairs_of(unit(SIZE, DIM, k), unit(SIZE, DIM, k + 10), **extras(SIZE)) for k in range(3)]
    term = build(name, settings)
    for batch in batches[:2]:
        share_of(term, batch)
    file = io.BytesIO()
    torch.save(term.state_dict(), file)
    file.seek(0)
    other = build(name, settings)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert share_of(other, batches[2]).item().hex() == share_of(term, batches[2]).item().hex()
    for ours, theirs in zip(other.state_dict().values(), term.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


@each_term
def test_needs_are_declared(name, settings):
    """A term that reads more than two embeddings must say so, for strategies to provide it."""
    term = build(name, settings)
    assert term.needs <= NEEDS.keys()
    plain = pairs_of(unit(SIZE, DIM, 1), unit(SIZE, DIM, 2))
    missing = sorted(term.needs - plain.carries)
    if missing:
        with pytest.raises(ValueError, match=NEEDS[missing[0]]):
            share_of(term, plain)
    else:
        share_of(term, plain)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(terms))
def test_same_values_when_compiled(name):
    objective = Objective({"term": (build(name, {}), one)})
    results = []
    for function in (copy.deepcopy(objective), torch.compile(objective, backend="aot_eager")):
        leaves = draw_leaves(6)
        loss, report = function(pairs_of(*leaves, **extras(6)), 0)
        loss.backward()
        results.append([report, [leaf.grad for leaf in leaves]])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)
