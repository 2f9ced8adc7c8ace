"""Every recipe computes the same when the blocks of its towers are compiled: traced, without minutes of a compiler."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from tests.small_steps import PLAIN_STEPS, RECIPES, batch_for, small_parts, small_recipe
from vlp import train

SIZE = 16
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore:isogclr")]  # few negatives in a batch


@pytest.mark.parametrize("name", RECIPES)
def test_a_compiled_recipe_computes_what_the_plain_one_does(monkeypatch, name):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    found = []
    for compiled in ("false", "true"):
        torch.compiler.reset()
        recipe = small_recipe(name, *PLAIN_STEPS, "train.precision=float32", f"train.compile={compiled}")
        parts = small_parts(monkeypatch, recipe)
        steps = [train.one_step(parts, batch_for(recipe, SIZE, step), step) for step in range(2)]
        found.append([{key: float(value) for key, value in (report | norms).items()} for report, norms in steps])
    for plain, other in zip(*found, strict=True):
        assert other == pytest.approx(plain, rel=1e-4, abs=1e-6, nan_ok=True)
