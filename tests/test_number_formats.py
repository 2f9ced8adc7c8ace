"""Who computes in which number format, and what is compiled how often."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest
import torch
from torch import nn

from tests import small_steps
from tests.small_steps import batch_for, small_parts, small_recipe
from tests.towers.tiny import VIT, tiny_model
from vlp import train
from vlp.ground.float32 import whole_float32
from vlp.objectives.shared.heads import Perceptron
from vlp.run import assemble
from vlp.towers.blocks import blocks_of
from vlp.towers.compiling import compile_towers

SIZE = 16
HALF = "train.precision=bfloat16"


def parts_of(monkeypatch, name, *overrides):
    recipe = small_recipe(name, "train.threads=1", *overrides)
    return recipe, small_parts(monkeypatch, recipe)


def watch(module, seen):
    """Note the type of everything that comes out of linear layers and convolutions."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            part.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))


# ---------------------------------------- bfloat16
@pytest.mark.parametrize("name", ["vitb32_cwcl", "vitb32_teacher_contrast"])
def test_teachers_compute_in_the_recipes_precision(monkeypatch, name):
    recipe, parts = parts_of(monkeypatch, name, HALF)
    seen, teachers = [], []
    watch(parts.towers.core, seen)
    for strategy in parts.strategies.values():
        before = strategy.after_forward

        def after_forward(images, batch, embeddings, before=before):
            seen.clear()
            found = before(images, batch, embeddings)
            teachers.extend(seen)
            return found

        monkeypatch.setattr(strategy, "after_forward", after_forward)
    embeddings = train.embed(parts, batch_for(recipe, SIZE))
    assert teachers and set(teachers) == {torch.bfloat16}
    made = [embeddings.reference] if embeddings.teacher is None else [embeddings.teacher.image, embeddings.teacher.text]
    assert {rows.dtype for rows in (embeddings.image, embeddings.text, *made)} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("vitb32_byolip", Perceptron),
        ("vitb32_barlip", Perceptron),
        ("vitb32_hallucinator", nn.Sequential),
        ("vitb32_amcl", nn.Sequential),
    ],
)
def test_the_networks_of_terms_compute_in_the_recipes_precision(monkeypatch, name, kind):
    recipe, parts = parts_of(monkeypatch, *name.split(), HALF)
    networks, seen = [module for module in parts.objective.modules() if isinstance(module, kind)], []
    for network in networks:
        watch(network, seen)
    report, _ = train.one_step(parts, batch_for(recipe, SIZE), 0)
    assert seen and set(seen) == {torch.bfloat16}
    assert {value.dtype for value in report.values()} == {torch.float32}
    assert {p.grad.dtype for network in networks for p in network.parameters()} == {torch.float32}


@pytest.mark.parametrize(("precision", "expected"), [("float32", None), ("bfloat16", torch.bfloat16)])
def test_evaluations_compute_in_the_recipes_precision(monkeypatch, precision, expected):
    recipe, parts = parts_of(monkeypatch, "smoke", f"train.precision={precision}")
    asked = []

    def note(_tasks, encoder, **_settings):
        asked.append(encoder.encoder.autocast)
        raise InterruptedError

    monkeypatch.setattr(train, "run_tasks", note)
    with pytest.raises(InterruptedError):
        train.evaluate(parts, None, 1, recipe.train.batch_size, None)
    assert asked == [expected]


# ---------------------------------------- TF32
@pytest.fixture
def flags():
    backends = torch.backends
    before = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark
    yield lambda: (backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark)
    backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark = before


def test_fast_kernels_are_chosen_unless_results_must_repeat(flags):
    for deterministic in (False, True):
        assemble.choose_kernels(deterministic=deterministic)
        assert flags() == (not deterministic,) * 3


def test_whole_float32_ends_with_its_block(flags):
    assemble.choose_kernels(deterministic=False)
    with pytest.raises(InterruptedError), whole_float32():
        assert not flags()[0]
        raise InterruptedError
    assert flags()[0]


@pytest.mark.parametrize("pieces", [1, 2])
def test_towers_may_drop_digits_and_losses_may_not(monkeypatch, flags, pieces):
    recipe, parts = parts_of(monkeypatch, "smoke", "train.precision=float32", f"train.micro_batches={pieces}")
    seen = {"towers": [], "towers' gradients": [], "objective": [], "objective's gradients": []}
    parts.towers.core.visual.register_forward_hook(lambda *_: seen["towers"].append(flags()[0]))
    parts.towers.core.visual.conv1.weight.register_hook(lambda _: seen["towers' gradients"].append(flags()[0]))

    def note(_module, inputs, output):
        seen["objective"].append(flags()[0])
        inputs[0].image.register_hook(lambda _: seen["objective's gradients"].append(flags()[0]))

    parts.objective.register_forward_hook(note)
    train.one_step(parts, batch_for(recipe, SIZE), 0)
    assert all(seen.values())
    assert {name: set(values) for name, values in seen.items()} == {
        "towers": {True}, "towers' gradients": {True}, "objective": {False}, "objective's gradients": {False}
    }  # fmt: skip


# ---------------------------------------- torch.compile
@pytest.fixture
def graphs(monkeypatch):
    """Count what is compiled, by the class whose forward it is."""
    counts, compiled = Counter(), torch.compile

    @cache  # what another backend has compiled does not serve
    def backend(name):
        def keep(graph, _inputs):
            counts[name] += 1
            return graph.forward

        return keep

    def count(forward, *, dynamic):
        return compiled(forward, dynamic=dynamic, backend=backend(type(forward.__self__).__name__))

    monkeypatch.setattr(torch, "compile", count)
    torch.compiler.reset()
    return counts


@pytest.mark.long
@pytest.mark.parametrize(("pieces", "modes"), [(1, 1), (2, 2)])  # a second piece adds the pass without a graph
def test_both_towers_are_compiled_and_no_length_of_captions_compiles_anew(monkeypatch, graphs, pieces, modes):
    options = (
        "train.compile=towers",
        "train.precision=float32",
        f"train.micro_batches={pieces}",
        f"train.batch_size={SIZE}",
    )
    recipe, parts = parts_of(monkeypatch, "vitb32_clip", *options)
    for step, length in enumerate((12, 4, 8, 11, 10, 9, 7, 6, 5)):
        train.one_step(parts, _shorter(batch_for(recipe, SIZE, step), length), step)
        assert graphs["VisionTransformer"] == modes
        assert (
            modes <= graphs["PackedTextTransformer"] <= 2 * modes
        )  # torch compiles anew where there are as many rows as tokens


def test_no_number_of_different_blocks_ends_compiling(graphs):
    core = tiny_model({**VIT, "width": 32, "layers": 6}).core
    for heads, block in zip((1, 2, 4, 8, 16, 32), blocks_of(core.visual), strict=True):
        block.attn.num_heads = heads
    compile_towers(core, whole=False)
    for context in (torch.enable_grad, torch.no_grad):
        with context():
            core.encode_image(torch.zeros(3, 3, 32, 32))
    assert sum(graphs.values()) == 12


@pytest.mark.parametrize("pieces", [1, 2])
def test_blocks_of_a_kind_share_a_graph(monkeypatch, graphs, pieces):
    image, text = {**small_steps.IMAGE, "layers": 3}, {**small_steps.TEXT, "layers": 3}
    options = ("train.compile=true", "train.precision=float32", f"train.micro_batches={pieces}")
    recipe = small_recipe("vitb32_clip", "train.threads=1", *options, image=image, text=text)
    parts = small_parts(monkeypatch, recipe)
    for step, length in enumerate((12, 4, 8, 11, 10, 9)):
        train.one_step(parts, _shorter(batch_for(recipe, SIZE, step), length), step)
        assert 2 <= graphs["LeanBlock"] <= 6  # of 6 blocks and 6 lengths


def test_a_compiled_teacher_adds_one_graph(monkeypatch, graphs):
    recipe, parts = parts_of(monkeypatch, "vitb32_cwcl", "train.compile=towers", "train.precision=float32")
    for step in range(3):
        train.one_step(parts, batch_for(recipe, SIZE, step), step)
    assert graphs["VisionTransformer"] == 2


def test_compiled_towers_compute_what_plain_ones_do(monkeypatch, graphs):
    losses = []
    for options in (("train.compile=false",), ("train.compile=true",), ("train.compile=towers",)):
        recipe, parts = parts_of(monkeypatch, "vitb32_clip", "train.precision=float32", *options)
        losses.append([float(train.one_step(parts, batch_for(recipe, SIZE, k), k)[0]["loss"]) for k in range(2)])
    assert graphs
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)


def _shorter(batch, length):
    """Cut the captions, end token last, as a batch of shorter ones would be."""
    from dataclasses import replace

    lengths = batch.lengths.clamp(max=length)
    tokens = batch.tokens[:, :, :length].clone()
    tokens.scatter_(2, lengths[:, :, None] - 1, int(batch.tokens.amax()))
    return replace(batch, tokens=tokens, lengths=lengths)
