"""Weight decay towards the start: how far it goes, what it leaves alone, and that averages stay where they are."""

from __future__ import annotations

import math

import torch
from torch import nn

from tests.step.optimizers.test_contract import RATES, Training, each_optimizer, model_of
from tests.towers.tiny import tiny_model
from vlp.step.learning_rate import set_learning_rate
from vlp.step.optimizer import GroupSettings, build_optimizer
from vlp.step.optimizers.adamw import AdamW
from vlp.step.pull import START, build_pull


def pulled_by(model: nn.Module, **settings) -> dict[str, float]:
    """Return the decay of what is pulled to the start, by name."""
    kind = AdamW()
    pull = build_pull(kind, build_optimizer(model, {}, kind, decay_towards="start", **settings))
    found = {id(p): group["weight_decay"] for group in pull.param_groups for p in group["params"]} if pull else {}
    return {name: found[id(value)] for name, value in model.named_parameters() if id(value) in found}


def test_one_pull_goes_the_share_of_the_way_that_rate_and_decay_say():
    training = Training("adamw", decay_towards="start", learning_rate=0.5, weight_decay=0.2)
    weight = training.model[0].weight
    start = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1.0)
    weight.grad = torch.zeros_like(weight)
    training.pull.step()
    torch.testing.assert_close(weight.detach() - start, torch.full_like(start, 0.9))
    assert torch.equal(training.pull.state[weight][START], start)


@each_optimizer
def test_without_a_gradient_a_step_goes_that_share_and_no_further(name):
    training = Training(name, decay_towards="start", learning_rate=0.5, weight_decay=0.2)
    start = {key: value.clone() for key, value in training.model.state_dict().items()}
    for parameter in training.model.parameters():
        for tensor, _ in training.kind.moved(training.optimizer, parameter):
            tensor.detach().add_(1.0)
        parameter.grad = torch.zeros_like(parameter)
    training.safe_step({"all": list(training.model.parameters())})
    for key, value in training.model.state_dict().items():
        torch.testing.assert_close(value - start[key], torch.full_like(value, 0.9))


def far(training: Training, start: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float((v - start[k]).square().sum()) for k, v in training.model.state_dict().items()))


@each_optimizer
def test_the_pull_keeps_weights_near_their_start(name):
    decay = 0.1 / RATES.get(name, 1e-2)
    free, held = Training(name, weight_decay=0.0), Training(name, decay_towards="start", weight_decay=decay)
    start = {key: value.clone() for key, value in free.model.state_dict().items()}
    for number in range(40):
        free.step(number), held.step(number)
    assert far(held, start) < 0.8 * far(free, start)


def test_vectors_are_pulled_too_and_patterns_and_groups_say_what_is_not():
    groups = {
        "new": GroupSettings(match=("4",), decay_towards="zero"),
        "norm": GroupSettings(match=("1",), weight_decay=0.5),
    }
    found = pulled_by(model_of(), weight_decay=0.1, no_decay=("2.bias",), groups=groups)
    assert found == {"0.weight": 0.1, "0.bias": 0.1, "1.weight": 0.5, "1.bias": 0.5, "2.weight": 0.1}
    assert pulled_by(model_of(), weight_decay=0.0) == {}


def test_the_rate_of_a_pull_is_that_of_its_group_at_every_step():
    model, kind = tiny_model(), AdamW()
    behind = model.blocks_behind()
    groups = {"scale": GroupSettings(match=("logit_scale",), learning_rate_factor=0.25, constant=True)}
    optimizer = build_optimizer(model, behind, kind, decay_towards="start", unfreeze_every=2, groups=groups)
    pull = build_pull(kind, optimizer)
    for step in range(4):
        for each in (optimizer, pull):
            set_learning_rate(each, 1 / (1 + step), step)
        own, pulled = (
            {id(p): group["lr"] for group in each.param_groups for p in group["params"]} for each in (optimizer, pull)
        )
        assert own == pulled


def test_one_group_alone_may_be_pulled():
    model, kind = tiny_model(), AdamW()
    groups = {"image": GroupSettings(match=("visual",), decay_towards="start")}
    optimizer = build_optimizer(model, {}, kind, weight_decay=0.1, groups=groups)
    pull = build_pull(kind, optimizer)
    pulled = {id(p) for group in pull.param_groups for p in group["params"]}
    assert pulled == {id(p) for p in model.core.visual.parameters()}
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays[id(model.core.visual.proj)] == 0.0 and decays[id(model.core.text.text_projection)] == 0.1


def test_a_pull_moves_no_average():
    training = Training("schedule_free", decay_towards="start", weight_decay=0.3)
    for number in range(5):
        training.step(number)
    average = training.kind.averages(training.optimizer)
    newest = {p: training.optimizer.state[p]["z"].clone() for p in training.model.parameters()}
    training.pull.step()
    for parameter, after in training.kind.averages(training.optimizer).items():
        torch.testing.assert_close(after, average[parameter], rtol=1e-5, atol=1e-6)
        assert not torch.equal(training.optimizer.state[parameter]["z"], newest[parameter])
