"""Two steps of a recipe with small towers, in one process or several: what must not depend on how it is run."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest
import torch

from tests.processes import run_processes
from tests.small_steps import batch_for, small_parts, small_recipe
from vlp.ground import dist
from vlp.run.state import full
from vlp.train import one_step

PAIRS, STEPS = 8, 2
SETTINGS = ("train.precision=float32", f"train.batch_size={PAIRS}", "train.threads=1", "optimizer.learning_rate=1e-3")

Found = tuple[list[dict[str, float]], dict[str, torch.Tensor]]


def steps_of(name: str, overrides: tuple[str, ...], micro_batches: int = 1) -> Found:
    """Return what was reported of each step, and the weights behind the last."""
    recipe = small_recipe(name, *SETTINGS, *overrides)
    with pytest.MonkeyPatch.context() as patch:
        parts = small_parts(patch, recipe)
        parts.micro_batches._numbers = {0: micro_batches}
        share = PAIRS // dist.world_size()
        reports = []
        for step in range(STEPS):
            batch = batch_for(recipe, PAIRS, step).narrow(share * dist.rank(), share)
            report, norms = one_step(parts, batch, step)
            reports.append({key: float(value) for key, value in (report | norms).items()})
        return reports, full(parts.towers.state_dict())


def _in_a_process(_rank, _world_size, cases, layouts):
    found = {}
    for label, (environment, micro_batches) in layouts.items():
        os.environ.update(environment)
        found[label] = {case: steps_of(*settings, micro_batches) for case, settings in cases.items()}
        for name in environment:
            del os.environ[name]
    return found


def in_two_processes(
    cases: Mapping[str, tuple[str, tuple[str, ...]]], layouts: Mapping[str, tuple[dict[str, str], int]]
) -> list[dict[str, dict[str, Found]]]:
    """Return what each of two processes found, by layout and case.

    Args:
        cases: Recipes, and what to change in them.
        layouts: What a launcher puts into the environment, and numbers of micro-batches.
    """
    return run_processes(_in_a_process, 2, dict(cases), dict(layouts))


def assert_alike(found: Found, expected: Found, tolerance: float = 1e-4) -> None:
    """Compare; a colour whose slope is next to nothing may move the other way, which changes little."""
    for ours, theirs in zip(found[0], expected[0], strict=True):
        assert ours == pytest.approx(theirs, rel=tolerance, abs=1e-5)
    assert found[1].keys() == expected[1].keys()
    apart = torch.cat([(value - expected[1][name]).abs().flatten() for name, value in found[1].items()])
    assert apart.mean() < 1e-6
    assert apart.max() < 1e-3  # Adam makes a step of a gradient that is all rounding
