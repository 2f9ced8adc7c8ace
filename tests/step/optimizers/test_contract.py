"""What any optimizer must hold. A new one is covered here the moment it is registered."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch import Tensor, nn

from vlp.ground.types import RecipeError
from vlp.step.guarded_step import SafeStep
from vlp.step.learning_rate import set_learning_rate
from vlp.step.optimizer import BASE_RATE, GroupSettings, build_optimizer
from vlp.step.optimizers.base import optimizers
from vlp.step.pull import build_pull

each_optimizer = pytest.mark.parametrize("name", list(optimizers))
RATES = {"lion": 3e-3, "schedule_free": 3e-2}
WIDTH = 8
IN_BLOCKS = {"0.weight", "2.weight"}


def model_of(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(WIDTH, 16), nn.LayerNorm(16), nn.Linear(16, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 2))


class Training:
    """A regression: inputs and targets are a function of the step alone."""

    def __init__(self, name: str, model: nn.Module | None = None, max_norm: float | None = 1.0, **settings):
        self.model = model_of() if model is None else model
        self.kind = optimizers.build(name, {})
        settings = {"learning_rate": RATES.get(name, 1e-2), "weight_decay": 0.01, **settings}
        self.optimizer = build_optimizer(self.model, {}, self.kind, IN_BLOCKS, **settings)
        self.pull = build_pull(self.kind, self.optimizer)
        every = [each for each in (self.pull, self.optimizer) if each is not None]
        self.safe_step = SafeStep(every, max_norm=max_norm, loss_scale=1.0, device="cpu")

    def step(self, number: int, poison: float = 0.0) -> float:
        generator = torch.Generator().manual_seed(number)
        inputs = torch.randn(32, WIDTH, generator=generator)
        targets = torch.stack([inputs[:, 0] - inputs[:, 1], inputs[:, 2]], dim=1)
        for optimizer in self.safe_step.optimizers:
            set_learning_rate(optimizer, 1.0, number)
        self.model.zero_grad()
        loss = (self.model(inputs) - targets).square().mean()
        loss.backward()
        if poison:
            self.model[2].weight.grad[0, 0] = poison
        self.safe_step({"all": list(self.model.parameters())})
        return float(loss.detach())

    def values(self) -> dict[str, object]:
        """Return a copy of weights, state and counters, by path."""
        found: dict[str, object] = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for which, optimizer in enumerate(self.safe_step.optimizers):
            told = optimizer.state_dict()
            found |= {f"{which}.{key}.{name}": x for key, kept in told["state"].items() for name, x in kept.items()}
            found |= {
                f"{which}.group{n}.{k}": v for n, group in enumerate(told["param_groups"]) for k, v in group.items()
            }
        return copy.deepcopy(found)


def same(ours: dict[str, object], theirs: dict[str, object]) -> list[str]:
    assert ours.keys() == theirs.keys()
    pairs = ((name, value, theirs[name]) for name, value in ours.items())
    return [n for n, a, b in pairs if not (torch.equal(a, b) if isinstance(a, Tensor) else a == b)]


@each_optimizer
@pytest.mark.parametrize("goal", ["zero", "start"])
def test_learns_a_regression(name, goal):
    training = Training(name, decay_towards=goal)
    losses = [training.step(number) for number in range(150)]
    assert sum(losses[-10:]) < 0.1 * sum(losses[:10])


@each_optimizer
@pytest.mark.parametrize("goal", ["zero", "start"])
@pytest.mark.parametrize("poison", [math.nan, -math.inf])
@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_a_bad_step_leaves_no_trace(name, goal, poison, max_norm):
    seen, unseen = (Training(name, max_norm=max_norm, decay_towards=goal) for _ in range(2))
    for bad in (0, 3, 4):  # before the first sound one, and two in a row
        before = seen.values()
        seen.step(bad, poison)
        after = seen.values()
        assert not any(after.pop(key).any() for key in after.keys() - before.keys())  # moments that are made just now
        assert same(after, before) == []
        for number in {0: (1, 2), 3: (), 4: (5,)}[bad]:
            assert seen.step(number) == unseen.step(number)
    assert same(seen.values(), unseen.values()) == []
    assert float(seen.safe_step.state["skipped"]) == 3


@each_optimizer
def test_a_bad_step_is_forgotten_though_nobody_asks_for_the_state(name):
    seen, unseen = Training(name), Training(name)
    for number in range(6):
        losses = [seen.step(number), unseen.step(number)]
        seen.step(99, math.nan)
        assert losses[0] == losses[1]


@each_optimizer
def test_the_state_goes_on_bit_for_bit(name):
    whole, first = Training(name, decay_towards="start"), Training(name, decay_towards="start")
    for number in range(6):
        whole.step(number)
    for number in range(3):
        first.step(number)
    kept = io.BytesIO()
    torch.save([optimizer.state_dict() for optimizer in first.safe_step.optimizers], kept)
    second = Training(name, decay_towards="start")
    second.model.load_state_dict(first.model.state_dict())
    kept.seek(0)
    for optimizer, state in zip(second.safe_step.optimizers, torch.load(kept, weights_only=True), strict=True):
        optimizer.load_state_dict(state)
    for number in range(3, 6):
        second.step(number)
    assert same(whole.values(), second.values()) == []


@each_optimizer
def test_a_bad_step_before_the_state_is_loaded_does_not_come_back(name):
    training = Training(name)
    training.step(0)
    kept = copy.deepcopy([training.model.state_dict(), training.optimizer.state_dict()])
    training.step(1, math.nan)
    training.model.load_state_dict(kept[0])
    training.optimizer.load_state_dict(copy.deepcopy(kept[1]))
    training.step(2)
    other = Training(name)
    other.step(0), other.step(2)
    assert same(training.values(), other.values()) == []


@each_optimizer
def test_depth_groups_and_patterns_reach_its_groups(name):
    model = model_of()
    model[4].requires_grad_(False)
    behind = {"0.weight": 2, "0.bias": 2, "2.weight": 1, "2.bias": 1}
    groups = {"norm": GroupSettings(match=("1",), learning_rate_factor=0.1, weight_decay=0.5)}
    optimizer = build_optimizer(
        model, behind, optimizers.build(name, {}), IN_BLOCKS, learning_rate=1.0, weight_decay=0.25,
        no_decay=("2.weight",), layer_decay=0.5, groups=groups,
    )  # fmt: skip
    found = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    told = {
        n: (found[id(p)]["lr"], found[id(p)]["weight_decay"]) for n, p in model.named_parameters() if id(p) in found
    }
    assert told == {
        "0.weight": (0.25, 0.25),
        "0.bias": (0.25, 0.0),
        "1.weight": (0.1, 0.5),
        "1.bias": (0.1, 0.5),
        "2.weight": (0.5, 0.0),
        "2.bias": (0.5, 0.0),
    }
    assert all(group["lr"] == group[BASE_RATE] for group in optimizer.param_groups)


@each_optimizer
def test_what_has_no_rate_stays_and_the_rest_moves(name):
    training = Training(name, groups={"first": GroupSettings(match=("0",), learning_rate_factor=0.0)})
    before = copy.deepcopy(training.model.state_dict())
    for number in range(2):
        training.step(number)
    for key, value in training.model.state_dict().items():
        assert torch.equal(value, before[key]) == key.startswith("0."), key


@each_optimizer
def test_decay_shrinks_matrices_alone(name):
    training = Training(name, weight_decay=0.1, learning_rate=0.1)
    before = copy.deepcopy(training.model.state_dict())
    for parameter in training.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    training.safe_step({"all": list(training.model.parameters())})
    for key, value in training.model.state_dict().items():
        if value.ndim == 1:
            assert torch.equal(value, before[key])
        else:
            assert 0 < value.norm() < before[key].norm()


@each_optimizer
def test_frozen_parameters_have_no_state(name):
    model = model_of()
    model[0].requires_grad_(False)
    training = Training(name, model)
    kept = model[0].weight.clone()
    training.step(0)
    assert torch.equal(model[0].weight, kept) and model[0].weight not in training.optimizer.state


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("lion", {"betas": (0.9, 1.0)}, r"optimizer\.betas"),
        ("lamb", {"epsilon": -1.0}, r"optimizer\.epsilon"),
        ("adafactor", {"beta2_cap": 1.5}, r"optimizer\.beta2_cap"),
        ("adafactor", {"momentum": -0.5}, r"optimizer\.momentum"),
        ("muon", {"momentum": 1.0}, r"optimizer\.momentum"),
        ("schedule_free", {"betas": (0.0, 0.9)}, r"optimizer\.betas"),
    ],
)
def test_numbers_out_of_range_are_refused(name, settings, message):
    with pytest.raises(RecipeError, match=message):
        optimizers.build(name, settings)
