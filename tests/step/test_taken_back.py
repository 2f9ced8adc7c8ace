"""A step that is taken back: on a device that nobody waits for, with counters that live on the host."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.pretend_device import DEVICE, PretendDevice
from vlp.step.guarded_step import SafeStep
from vlp.step.optimizer import build_optimizer
from vlp.step.optimizers.base import optimizers

COUNTING = [name for name in optimizers if not optimizers[name].skips]


class Event:
    """Notes when somebody asks for what was recorded."""

    asked: list[str] = []

    def record(self):
        self.asked.append("recorded")

    def synchronize(self):
        self.asked.append("asked")


def train(name: str, steps: str, device: torch.device) -> dict[str, torch.Tensor]:
    """Take a step for each letter, a bad one for each `x`; return weights and moments."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8))
    for part in model.modules():
        for key, value in list(part.named_parameters(recurse=False)):
            setattr(part, key, nn.Parameter(value.detach().to(device)))
    kind = optimizers.build(name, {})
    optimizer = build_optimizer(model, {}, kind, {"0.weight"}, learning_rate=0.01)
    guard = SafeStep([optimizer], max_norm=1.0, loss_scale=1.0, device=str(device))
    number = 0
    for step in steps:
        bad = step == "x"
        generator = torch.Generator().manual_seed(99 if bad else number)
        number += not bad
        for parameter in model.parameters():
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = (gradient * math.nan if bad else gradient).to(device)
        guard({"all": list(model.parameters())})
    values = {key: value.detach().cpu().clone() for key, value in model.named_parameters()}
    for which, state in optimizer.state_dict()["state"].items():
        values |= {f"{which}.{key}": torch.as_tensor(value).cpu() for key, value in state.items()}
    return values


@pytest.mark.parametrize("name", COUNTING)
def test_a_device_computes_what_the_host_does_and_forgets_what_was_bad(name, monkeypatch):
    expected = train(name, "....", torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda values: values)
    Event.asked = []
    with PretendDevice():
        found = train(name, "x..xx..x", DEVICE)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")
    # the answer of a step is asked for before the next one, and when the state is read
    assert Event.asked == ["recorded", "asked"] * 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", COUNTING)
def test_a_gpu_forgets_what_was_bad(name):
    sound, spoilt = (train(name, steps, torch.device("cuda")) for steps in ("....", "x..xx..x"))
    assert sound.keys() == spoilt.keys()
    assert [key for key, value in sound.items() if not torch.equal(value, spoilt[key])] == []
