"""Groups, schedules, and steps that a NaN cannot spoil."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.towers.tiny import TEXT, VIT, tiny_model
from vlp.ground.types import RecipeError
from vlp.step.guarded_step import SafeStep
from vlp.step.learning_rate import learning_rate_factor, set_learning_rate
from vlp.step.optimizer import GroupSettings, build_optimizer, check_unfreezing


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def step_once(model, *, max_norm=None, loss_scale=1.0, poison=0.0, learning_rate=0.1):
    optimizer = build_optimizer(model, learning_rate=learning_rate)
    safe_step = SafeStep([optimizer], max_norm=max_norm, loss_scale=loss_scale, device="cpu")
    (model(torch.ones(5, 3)).square().sum() * safe_step.loss_scale).backward()
    if poison:
        model[0].weight.grad[0, 0] = poison
    norms = safe_step({"all": list(model.parameters())})
    return optimizer, safe_step, norms


def test_vectors_do_not_decay():
    optimizer = build_optimizer(small_model(), weight_decay=0.3)
    decays = {p.ndim: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {2: 0.3, 1: 0.0}


def test_a_group_has_its_own_rate_and_decay():
    groups = {"head": GroupSettings(match=("2.*",), learning_rate_factor=0.1, weight_decay=0.0)}
    optimizer = build_optimizer(small_model(), learning_rate=1.0, groups=groups)
    head = [group for group in optimizer.param_groups if group["lr"] == pytest.approx(0.1)]
    assert sum(p.numel() for group in head for p in group["params"]) == 4 * 2 + 2
    assert all(group["weight_decay"] == 0 for group in head)


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(RecipeError, match=r"optimizer\.groups\.hat\.match: no parameter matches 'hat\.\*'"):
        build_optimizer(small_model(), groups={"hat": GroupSettings(match=("hat.*",))})


def test_frozen_parameters_are_left_out():
    model = small_model()
    model[0].requires_grad_(False)
    assert sum(len(group["params"]) for group in build_optimizer(model).param_groups) == 4


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("cosine", [0.5, 1.0, 1.0, 0.5, 0.0]),
        ("linear", [0.5, 1.0, 1.0, 0.5, 0.0]),
        ("constant", [0.5, 1, 1, 1, 1]),
        ("cooldown", [0.5, 1, 1, 1, 0]),
        ("inverse_sqrt", [0.5, 1, 1, 0.5**0.5, 0]),
    ],
)
def test_rates_over_a_run(shape, expected):
    factor = learning_rate_factor(12, warmup_steps=2, shape=shape, cooldown_share=0.25, timescale=5)
    assert [factor(step) for step in (0, 1, 2, 7, 12)] == pytest.approx(expected)


@pytest.mark.parametrize(("shape", "middle"), [("cosine", 0.55), ("cooldown", 0.55)])
def test_rates_end_at_the_final_factor(shape, middle):
    factor = learning_rate_factor(10, warmup_steps=0, shape=shape, final_factor=0.1, cooldown_share=1.0)
    assert [factor(step) for step in (0, 5, 10)] == pytest.approx([1.0, middle, 0.1])
    assert learning_rate_factor(10, warmup_steps=0, shape="cosine", final_factor=0.1)(15) == pytest.approx(0.1)


def test_the_rate_grows_with_the_root_of_the_batch():
    factor = learning_rate_factor(10, 1024, warmup_steps=0, shape="constant", base_batch=256)
    assert factor(5) == pytest.approx(2.0)
    assert learning_rate_factor(10, 1024, warmup_steps=0, shape="constant")(5) == pytest.approx(1.0)


def test_the_rate_reaches_every_group():
    optimizer = build_optimizer(
        small_model(), learning_rate=1.0, groups={"head": GroupSettings(match=("2.*",), learning_rate_factor=0.5)}
    )
    set_learning_rate(optimizer, 0.1, step=0)
    assert {round(group["lr"], 6) for group in optimizer.param_groups} == {0.1, 0.05}


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_a_bad_gradient_leaves_weights_and_moments_untouched(poison, max_norm):
    model = small_model()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer, safe_step, _ = step_once(model, poison=poison, max_norm=max_norm)
    assert not bool(safe_step.taken)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(float(state["exp_avg"].abs().sum()) == 0 for state in optimizer.state.values())
    assert all(float(state["step"]) == 0 for state in optimizer.state.values())
    assert float(safe_step.state["skipped"]) == float(safe_step.state["streak"]) == 1


def test_a_good_step_ends_the_streak():
    model = small_model()
    optimizer, safe_step, _ = step_once(model, poison=math.nan)
    optimizer.zero_grad()
    model(torch.ones(5, 3)).square().sum().backward()
    safe_step({"all": list(model.parameters())})
    assert float(safe_step.state["skipped"]) == 1
    assert float(safe_step.state["streak"]) == 0


def test_clipping_bounds_the_whole_gradient():
    model = small_model()
    _, _, norms = step_once(model, max_norm=0.5)
    clipped = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
    assert float(norms["all"]) > 0.5
    assert clipped == pytest.approx(0.5, rel=1e-4)  # the divisor carries 1e-6 against division by zero


@pytest.mark.parametrize("max_norm", [1e3, 1e9])
def test_clipping_never_makes_a_gradient_larger(max_norm):
    plain, clipped = small_model(), small_model()
    step_once(plain)
    step_once(clipped, max_norm=max_norm)
    for one, other in zip(plain.parameters(), clipped.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def scales_over(steps, monkeypatch):
    """Return the loss scale after each step, where True is a calm one; it doubles after three of them."""
    monkeypatch.setattr(SafeStep, "CALM_STEPS", 3)
    model = small_model()
    safe_step = SafeStep([build_optimizer(model)], max_norm=None, loss_scale=8.0, device="cpu")
    found = []
    for calm in steps:
        model.zero_grad()
        (model(torch.ones(5, 3)).square().sum() * safe_step.loss_scale).backward()
        if not calm:
            model[0].weight.grad[0, 0] = math.inf
        safe_step({"all": list(model.parameters())})
        found.append(float(safe_step.loss_scale))
    return found


def test_the_loss_scale_doubles_after_each_calm_stretch(monkeypatch):
    assert scales_over([True] * 7, monkeypatch) == [8, 8, 16, 16, 16, 32, 32]


def test_an_overflow_ends_the_calm_stretch(monkeypatch):
    assert scales_over([True, False, True, True, True], monkeypatch) == [8, 4, 4, 4, 8]


def test_loss_scaling_changes_nothing_but_the_range():
    plain, scaled = small_model(), small_model()
    _, _, norms = step_once(plain)
    _, safe_step, scaled_norms = step_once(scaled, loss_scale=1024.0)
    assert float(norms["all"]) == pytest.approx(float(scaled_norms["all"]), rel=1e-5)
    for a, b in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert float(safe_step.loss_scale) == 1024


def test_the_loss_scale_halves_on_overflow():
    _, safe_step, _ = step_once(small_model(), loss_scale=1024.0, poison=math.inf)
    assert float(safe_step.loss_scale) == 512


def test_the_optimizer_and_freeze_share_their_names():
    model = tiny_model()
    groups = {
        "image": GroupSettings(match=("visual",), learning_rate_factor=0.5),
        "scale": GroupSettings(match=("logit_scale",), weight_decay=0.0),
        "attention": GroupSettings(match=("text.*.attn.*",), learning_rate_factor=0.25),
    }
    optimizer = build_optimizer(model, learning_rate=1.0, groups=groups, no_decay=("text.token_embedding",))
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {rate[id(parameter)] for parameter in model.core.visual.parameters()} == {0.5}
    block = model.core.text.transformer.resblocks[0]
    assert {rate[id(parameter)] for parameter in block.attn.parameters()} == {0.25}
    assert {rate[id(parameter)] for parameter in block.mlp.parameters()} == {1.0}
    assert decay[id(model.core.text.token_embedding.weight)] == 0.0
    for pattern in (
        "core.visual",
        "*.logit_scale",
        "visual",
        "logit_scale",
        "text.*.attn.*",
        "text.token_embedding",
        "visual.*.attn.*",
    ):
        tiny_model(freeze=(pattern,))


def test_nothing_left_to_train_is_said():
    with pytest.raises(RecipeError, match="nothing is left to train"):
        build_optimizer(tiny_model(freeze=("visual", "text"), learn_scale=False))


def test_parameters_begin_to_move_one_block_after_another():
    model = tiny_model(image={**VIT, "layers": 3}, text={**TEXT, "layers": 2})
    optimizer = build_optimizer(model, model.blocks_behind(), learning_rate=1e-3, unfreeze_every=10)
    names = {
        "core.visual.proj": 0,
        "core.logit_scale": 0,
        "core.visual.transformer.resblocks.2.ln_1.weight": 10,
        "core.visual.transformer.resblocks.0.attn.in_proj_weight": 30,
        "core.visual.conv1.weight": 40,
        "core.text.token_embedding.weight": 30,
    }
    parameters = dict(model.named_parameters())
    first: dict[str, int] = {}
    for step in range(45):
        set_learning_rate(optimizer, 1.0, step)
        before = {name: parameters[name].detach().clone() for name in names}
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        for name in names:
            if not torch.equal(before[name], parameters[name]):
                first.setdefault(name, step)
    assert first == names


def test_a_training_that_ends_before_all_has_moved_is_refused():
    model = tiny_model()
    optimizer = build_optimizer(model, model.blocks_behind(), unfreeze_every=10)
    last = 10 * max(model.blocks_behind().values())
    check_unfreezing(optimizer, last + 1)
    with pytest.raises(
        RecipeError, match=rf"optimizer\.unfreeze_every: the last .* from step {last} on, .* has {last}:"
    ):
        check_unfreezing(optimizer, last)


def test_a_group_may_keep_its_rate():
    groups = {"scale": GroupSettings(match=("logit_scale",), learning_rate_factor=0.25, constant=True)}
    optimizer = build_optimizer(tiny_model(), learning_rate=4e-4, groups=groups)
    set_learning_rate(optimizer, 0.1, 5)
    rates = sorted(group["lr"] for group in optimizer.param_groups)
    assert rates == pytest.approx([4e-5] * (len(rates) - 1) + [1e-4])
