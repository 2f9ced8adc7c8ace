"""Micro-batches give the gradients of the undivided batch, dropout included, for every parameter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.processes import run_processes
from vlp.ground import dist
from vlp.ground.types import Batch, Embeddings
from vlp.objectives.base import Objective
from vlp.objectives.clip import ClipTerm
from vlp.objectives.schedule import Schedule
from vlp.objectives.siglip import SigLipTerm
from vlp.objectives.uniformity import UniformityTerm
from vlp.pairs import Pairs
from vlp.step.micro_batches import Seeds, backward


class Towers(nn.Module):
    """Two perceptrons with dropout, a scale and a bias."""

    def __init__(self, dtype: torch.dtype = torch.float64):
        super().__init__()
        torch.manual_seed(1)
        self.image = nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Dropout(0.3), nn.Linear(16, 8))
        self.text = nn.Sequential(nn.Embedding(50, 16), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 8))
        self.log_scale = nn.Parameter(torch.tensor(2.0))
        self.bias = nn.Parameter(torch.tensor(-3.0))
        self.to(dtype)

    def forward(self, batch: Batch) -> Embeddings:
        unit = nn.functional.normalize
        pixels = batch.images[0].flatten(1).to(self.bias.dtype) / 255
        return Embeddings(
            unit(self.image(pixels)), unit(self.text(batch.tokens[0])), self.log_scale.exp(), self.bias + 0.0
        )


def draw_batch(size: int) -> Batch:
    generator = torch.Generator().manual_seed(7)
    return Batch(
        images=torch.randint(0, 256, (1, size, 2, 2, 3), generator=generator, dtype=torch.uint8),
        tokens=torch.randint(0, 50, (1, size, 4), generator=generator),
        lengths=torch.full((1, size), 4),
        draws=torch.zeros(1, size, 1),
        ids=torch.arange(size),
        caption_ids=torch.arange(size),
        sources=("test",) * size,
    )


def objective() -> Objective:
    one = Schedule(start=1.0)
    return Objective({"clip": (ClipTerm(), one), "siglip": (SigLipTerm(), one), "uniformity": (UniformityTerm(), one)})


def evaluate_with(batch: Batch):
    terms = objective()

    def evaluate(embeddings):
        loss, report = terms(Pairs(embeddings, ids=batch.ids, caption_ids=batch.caption_ids), 0)
        return loss * dist.world_size(), report

    return evaluate


def join(parts: list[Embeddings]) -> Embeddings:
    return Embeddings(
        torch.cat([part.image for part in parts]),
        torch.cat([part.text for part in parts]),
        parts[0].scale,
        parts[0].bias,
    )


def gradients(towers: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.grad.clone() for name, value in towers.named_parameters()}


@pytest.mark.parametrize("pieces", [2, 3, 6])
def test_micro_batches_equal_one_graph_with_dropout_on(pieces):
    batch, seeds = draw_batch(6), Seeds(seed=3, step=5, process=0)
    whole = Towers()
    parts = []
    for k, piece in enumerate(batch.chunk(pieces)):
        seeds.set(k)
        parts.append(whole(piece))
    loss, _ = evaluate_with(batch)(join(parts))
    loss.backward()

    divided = Towers()
    divided_loss, _ = backward(batch.chunk(pieces), divided, evaluate_with(batch), seeds)
    assert float(loss.detach()) == pytest.approx(float(divided_loss), abs=1e-12)
    expected = gradients(whole)
    for name, value in gradients(divided).items():
        assert torch.allclose(value, expected[name], rtol=1e-9, atol=1e-12), name


def test_scale_and_bias_are_not_counted_once_per_micro_batch():
    batch, seeds = draw_batch(6), Seeds(seed=3, step=5, process=0)
    one, three = Towers().eval(), Towers().eval()
    backward([batch], one, evaluate_with(batch), seeds)
    backward(batch.chunk(3), three, evaluate_with(batch), seeds)
    assert float(three.log_scale.grad) == pytest.approx(float(one.log_scale.grad), rel=1e-10)
    assert float(three.bias.grad) == pytest.approx(float(one.bias.grad), rel=1e-10)


def test_the_random_state_is_a_function_of_step_process_and_micro_batch():
    drawn = set()
    for step in range(3):
        for process in range(3):
            for piece in range(3):
                Seeds(seed=0, step=step, process=process).set(piece)
                drawn.add(float(torch.rand(())))
    assert len(drawn) == 27


def _gradients_of_a_process(rank, world_size, pieces):
    batch = draw_batch(8)
    share = batch.narrow(rank * 8 // world_size, 8 // world_size)
    towers = Towers().eval()
    model = nn.parallel.DistributedDataParallel(towers) if world_size > 1 else towers
    no_sync = model.no_sync if world_size > 1 else None
    options = {"no_sync": no_sync} if no_sync else {}
    _, report = backward(share.chunk(pieces), model, evaluate_with(share), Seeds(0, 0, rank), **options)
    return gradients(towers), {name: float(value) for name, value in report.items()}


@pytest.mark.processes
@pytest.mark.parametrize("pieces", [1, 2])
def test_two_processes_equal_one(pieces):
    expected, expected_report = _gradients_of_a_process(0, 1, 1)
    for found, report in run_processes(_gradients_of_a_process, 2, pieces):
        assert report == pytest.approx(expected_report, rel=1e-9)
        for name, value in found.items():
            assert torch.allclose(value, expected[name], rtol=1e-8, atol=1e-11), name
