"""Muon: what it makes orthogonal, and what it leaves to AdamW."""

from __future__ import annotations

import torch

from tests.towers.tiny import tiny_model
from vlp.step.optimizer import build_optimizer
from vlp.step.optimizers.muon import Muon


def test_matrices_of_blocks_move_by_orthogonal_steps_and_the_rest_as_under_adamw():
    model = tiny_model()
    kind = Muon()
    optimizer = build_optimizer(model, {}, kind, model.names_in_blocks(), learning_rate=1.0, weight_decay=0.0)
    adamw = tiny_model()
    adamw.load_state_dict(model.state_dict())
    reference = build_optimizer(adamw, learning_rate=1.0, weight_decay=0.0)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
        dict(adamw.named_parameters())[name].grad = parameter.grad.clone()
    optimizer.step(), reference.step()
    seen = set()
    for name, parameter in model.named_parameters():
        way = parameter.detach() - before[name]
        if "resblocks" in name and parameter.ndim == 2:
            values = torch.linalg.svdvals(way) / (0.2 * max(way.shape) ** 0.5)
            # five products leave singular values near one; the smallest of all does not come the whole way
            assert float(values[:-1].min()) > 0.6 and float(values.max()) < 1.4, name
            seen.add("orthogonal")
        else:
            torch.testing.assert_close(parameter.detach(), dict(adamw.named_parameters())[name].detach(), msg=name)
            seen.add("vector" if parameter.ndim < 2 else "embedding or projection")
    assert seen == {"orthogonal", "vector", "embedding or projection"}
