"""Batch norms over the batches of all processes are those of one process with the whole batch."""

from __future__ import annotations

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from tests.processes import run_processes
from tests.towers.tiny import tiny_batch, tiny_model
from vlp.towers.whole_batch_norm import WholeBatchNorm, put_whole_batch_norms

NORMS = {
    "plain": lambda: nn.BatchNorm2d(3),
    "with an activation": lambda: BatchNormAct2d(3),
    "cumulative": lambda: nn.BatchNorm2d(3, momentum=None),
    "without averages": lambda: nn.BatchNorm2d(3, track_running_stats=False),
    "without gains": lambda: nn.BatchNorm2d(3, affine=False),
    "of vectors": lambda: nn.BatchNorm1d(3),
}


def moved(name: str) -> nn.Module:
    """Return a norm whose gains and shifts are not those of a new one."""
    norm = NORMS[name]()
    torch.manual_seed(0)
    for parameter in norm.parameters():
        nn.init.normal_(parameter, 1.0, 0.3)
    return norm


def passes(rank: int, world_size: int, name: str, is_whole: bool) -> dict[str, torch.Tensor]:
    """Return what two training passes and one of evaluation leave, of this process's share of each batch."""
    torch.manual_seed(1)
    norm = moved(name)
    if is_whole:
        norm = WholeBatchNorm(norm)
    found = {}
    for step in range(2):
        batch = torch.randn(8, 3) if name == "of vectors" else torch.randn(8, 3, 5, 4)
        batch = (2 * batch + 1).requires_grad_()
        weights = torch.randn_like(batch)
        rows = batch.chunk(world_size)[rank]
        out = norm(rows)
        (out.sin() * weights.chunk(world_size)[rank]).sum().backward()
        found |= {f"out {step}": out.detach(), f"gradient {step}": batch.grad.chunk(world_size)[rank]}
    norm.eval()
    found["at rest"] = norm(rows).detach()
    return found | {f"of {key}": value.grad for key, value in norm.named_parameters()} | norm.state_dict()


@pytest.mark.parametrize("name", NORMS)
def test_one_process_normalises_as_torch_does(name):
    theirs, ours = passes(0, 1, name, False), passes(0, 1, name, True)
    assert theirs.keys() == ours.keys()
    for key, value in theirs.items():
        assert torch.allclose(ours[key], value, atol=1e-5), key


def all_of(rank: int, world_size: int) -> dict[str, dict[str, torch.Tensor]]:
    return {name: passes(rank, world_size, name, True) for name in NORMS}


@pytest.mark.processes
def test_two_processes_normalise_as_one():
    parts = run_processes(all_of, 2)
    for name in NORMS:
        whole = passes(0, 1, name, False)
        for key, value in whole.items():
            first, second = (part[name][key] for part in parts)
            if key.startswith(("out", "gradient", "at rest")):
                found = torch.cat([first, second])
            elif key.startswith("of"):
                found = first + second
            else:
                assert torch.equal(first, second), (name, key)
                found = first
            assert torch.allclose(found, value, atol=1e-5), (name, key)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_a_tower_keeps_its_parameters_and_what_it_says(name):
    model = tiny_model(image={"type": "timm", "name": name}).eval()
    pixels = tiny_batch(model, ["a cat", "a dog"])[0][0]
    before, names = model.embed_images(pixels), list(model.state_dict())
    put_whole_batch_norms(model)
    assert list(model.state_dict()) == names
    assert torch.equal(model.embed_images(pixels), before)


def test_half_precision_sums_in_float32():
    norm = WholeBatchNorm(nn.BatchNorm2d(1))
    rows = torch.full((64, 1, 32, 32), 3.0) + torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(0)) / 8
    out = norm(rows.bfloat16())
    assert out.dtype == torch.bfloat16
    assert abs(out.float().mean()) < 1e-2 and abs(out.float().std() - 1) < 1e-2


def of_a_tower(rank: int, world_size: int) -> dict[str, torch.Tensor]:
    """Return gradients and averages of a tower in float64 after a training pass of this process's images."""
    model = tiny_model(image={"type": "timm", "name": "test_resnet"})
    tower = model.core.visual.double().train()
    if world_size > 1:
        put_whole_batch_norms(tower)
    generator = torch.Generator().manual_seed(0)
    side = model.image_size if isinstance(model.image_size, int) else model.image_size[0]
    pixels = torch.randn(8, 3, side, side, dtype=torch.float64, generator=generator)
    tower(pixels.chunk(world_size)[rank]).square().sum().backward()
    return {name: value.grad for name, value in tower.named_parameters()} | dict(tower.named_buffers())


@pytest.mark.processes
def test_a_tower_on_two_processes_learns_what_it_learns_on_one():
    whole, (first, second) = of_a_tower(0, 1), run_processes(of_a_tower, 2)
    assert any("running_var" in name for name in whole)
    for name, value in whole.items():
        is_average = "running" in name or "num_batches" in name
        assert torch.allclose(first[name] if is_average else first[name] + second[name], value, rtol=1e-9), name
