"""Terms on the first coordinates of embeddings (Matryoshka): each is what it would be on those alone."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from tests.objectives.batches import DIM, VOCABULARY, draw_leaves, extras, one, pairs_of, rows_of
from tests.objectives.cases import CASES, each_term
from tests.pairs.test_triton import interpret, start
from tests.processes import run_processes
from tests.small_steps import batch_for, small_parts, small_recipe
from vlp import train
from vlp.ground import dist
from vlp.ground.types import RecipeError
from vlp.objectives.base import Objective, terms
from vlp.objectives.clip import ClipTerm
from vlp.objectives.uniformity import UniformityTerm
from vlp.pairs import Pairs
from vlp.pairs.engine import fused, walk
from vlp.pairs.prefix import prefix_of

pytestmark = pytest.mark.filterwarnings("ignore:isogclr")  # small batches are meant here
SIZE, WIDTH = 12, 4


def built(name, settings, width):
    term = terms.build(name, settings)
    torch.manual_seed(0)
    term.fit_maps(DIM)
    term.fit_vocabulary(VOCABULARY)
    term.create(width)
    return term.double()


def gradients(loss, leaves):
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if value is None else value for value, leaf in zip(found, leaves, strict=True)]


@each_term
def test_a_term_reads_what_prefixes_alone_would_be(name, settings):
    leaves, more = draw_leaves(SIZE), extras(SIZE)
    pairs = pairs_of(*leaves, **more)
    alone = Pairs(prefix_of(pairs.embeddings, WIDTH), pairs.ids, pairs.caption_ids)
    expected, _ = Objective({"term": (built(name, settings, WIDTH), one)})(alone, 0)
    found, report = Objective({"term": (built(name, settings, WIDTH), one)}, {"term": WIDTH})(pairs, 0)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert report["term"] == found
    ours = gradients(found, leaves)
    for one_of, other in zip(ours, gradients(expected, leaves), strict=True):
        torch.testing.assert_close(one_of, other, rtol=1e-10, atol=1e-12)
    assert not ours[0][:, WIDTH:].any() and not ours[1][:, WIDTH:].any()


def test_widths_are_terms_of_one_sum():
    leaves = draw_leaves(SIZE)
    pairs = pairs_of(*leaves, **extras(SIZE))
    parts = {"clip": (ClipTerm(), lambda step: 2.0), "clip@4": (ClipTerm(), lambda step: 0.5)}
    parts |= {"uniformity": (UniformityTerm(), one), "uniformity@4": (UniformityTerm(), one)}
    loss, report = Objective(parts, {"clip@4": 4, "uniformity@4": 4})(pairs, 0)
    assert list(report) == ["clip", "clip@4", "uniformity", "uniformity@4"]
    weights = torch.tensor([2.0, 0.5, 1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(loss.detach(), (weights * torch.stack(list(report.values()))).sum())


def objective_of(name):
    wide, narrow = (built(name, {}, width) for width in (DIM, WIDTH))
    return Objective({name: (wide, one), f"{name}@{WIDTH}": (narrow, one)}, {f"{name}@{WIDTH}": WIDTH})


def share_on(rank, world_size):
    """Return loss, gradients of images and texts, and how many features were gathered, by term."""
    rows = slice(rank * SIZE // world_size, (rank + 1) * SIZE // world_size)
    found = {}
    for name in ("clip", "uniformity", "mv_infonce", "cwcl"):
        leaves = [leaf.detach()[rows].requires_grad_() if leaf.ndim else leaf.detach() for leaf in draw_leaves(SIZE)]
        pairs = pairs_of(*leaves, **rows_of(extras(SIZE), rows))
        with patch.object(dist, "start_gathering", side_effect=dist.start_gathering) as gather:
            loss, _ = objective_of(name)(pairs, 0)
        widths = [call.args[0].shape[1] for call in gather.call_args_list if call.args[0].ndim == 2]
        found[name] = loss.item(), [g.numpy() for g in torch.autograd.grad(loss, leaves[:2])], widths
    return found


@pytest.mark.parametrize("world_size", [2, 3])
def test_several_processes_equal_one_and_gather_once(world_size):
    parts = run_processes(share_on, world_size)
    for name in parts[0]:
        leaves = draw_leaves(SIZE)
        loss, _ = objective_of(name)(pairs_of(*leaves, **extras(SIZE)), 0)
        assert sum(part[name][0] for part in parts) == pytest.approx(loss.item(), rel=1e-9)
        for number, expected in enumerate(torch.autograd.grad(loss, leaves[:2])):
            together = torch.cat([torch.as_tensor(part[name][1][number]) for part in parts])
            torch.testing.assert_close(together, expected, rtol=1e-8, atol=1e-10)
        assert WIDTH not in parts[0][name][2] or name == "cwcl"  # whose references are of that width
        assert parts[0][name][2].count(DIM) <= 2


def test_a_teacher_of_another_width_stays_whole():
    pairs = pairs_of(*draw_leaves(SIZE), **extras(SIZE))
    assert prefix_of(pairs.embeddings, WIDTH).teacher.image.shape == (SIZE, WIDTH)
    other = replace(pairs.embeddings, teacher=type(pairs.embeddings.teacher)(*(torch.rand(SIZE, 5) for _ in range(2))))
    assert prefix_of(other, WIDTH).teacher is other.teacher


def test_a_recipe_names_widths(monkeypatch):
    recipe = small_recipe("vitb32_clip", "objective.clip.widths=[4, 8]", "train.precision=float32")
    parts = small_parts(monkeypatch, recipe)
    losses = [train.one_step(parts, batch_for(recipe, 16), step)[0] for step in range(3)]
    assert {"loss/clip", "loss/clip@4", "loss/clip@8"} < losses[0].keys()
    assert losses[2]["loss"] < losses[0]["loss"]


def test_terms_with_networks_have_one_for_each_width(monkeypatch):
    recipe = small_recipe("vitb32_amcl", "objective.amcl.widths=[64]")  # small recipes have small widths
    parts = small_parts(monkeypatch, recipe)
    shapes = {name: tuple(value.shape) for name, value in parts.objective.named_parameters()}
    assert any(name.startswith("terms.amcl@4") for name in shapes)
    train.one_step(parts, batch_for(recipe, 16), 0)


@pytest.mark.parametrize("width", [0, -1, 16, 17])
def test_a_width_that_is_none_is_refused(monkeypatch, width):
    recipe = small_recipe("vitb32_clip")
    entry = recipe.objective["clip"].model_copy(update={"widths": (width,)})
    recipe = recipe.model_copy(update={"objective": {"clip": entry}})
    with pytest.raises(
        RecipeError, match=rf"objective\.clip\.widths: {width} is not within the 16 of model\.embed_dim"
    ):
        small_parts(monkeypatch, recipe)


def test_there_are_terms_to_try():
    assert len(CASES) > 60


@pytest.fixture(scope="module")
def interpreter():
    with start(interpret) as pool:
        yield lambda function, *args: pool.submit(function, *args).result()


def in_kernels(name):
    """Return how many widths each walk of kernels answered, whose answers are those of tiles."""
    found, walks = [], []

    def walked_together(asked):
        together = whole(asked)
        walks.extend(len(each) for each in together if each[0].matrix.is_fused)
        return together

    whole = walk.walked_together
    for dtype in (torch.float64, torch.float32):
        widths = {f"{name}@{width}": width for width in (3, 4)}
        parts = {label: (built(name, {}, widths.get(label, DIM)).to(dtype), lambda _: 1.0) for label in (name, *widths)}
        batch = draw_leaves(SIZE, dtype=dtype)
        pairs = pairs_of(*batch, **extras(SIZE, dtype))
        with (
            patch.object(fused, "_runs_on", lambda device, is_on=dtype == torch.float32: is_on),
            patch.object(walk, "walked_together", walked_together),
        ):
            loss, _ = Objective(parts, widths)(pairs, 0)
            found.append([loss, *gradients(loss, batch)])
    for exact, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=2e-5, atol=2e-5 * max(1.0, exact.abs().max().item()))
    return walks


@pytest.mark.parametrize(
    ("name", "walks"),
    [
        ("clip", [3]),
        ("siglip", [3]),
        ("uniformity", [3, 3]),
        ("cwcl", [3]),
        ("isogclr", [1, 1, 1]),
    ],
)
def test_terms_walk_their_widths_together_where_their_samples_are_the_same(interpreter, name, walks):
    """Scales that a term learns for its samples are those of one width; references are everybody's."""
    assert interpreter(in_kernels, name) == walks
