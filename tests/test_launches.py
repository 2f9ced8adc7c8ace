"""No step launches more kernels than it did, or waits on its way back, and the plain one is within what a GPU hides."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.gpu.launches import by_part
from tests.launches import KEPT, count
from tests.small_steps import RECIPES, batch_for, small_parts, small_recipe
from vlp import train

BUDGET = json.loads(KEPT.read_text(encoding="utf-8"))
same_torch = pytest.mark.skipif(
    torch.__version__ != BUDGET["torch"], reason=f"was counted with torch {BUDGET['torch']}: python -m tests.launches"
)
DEEP = {
    "image": {"type": "vit", "layers": 12, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32},
    "text": {"type": "transformer", "layers": 12, "width": 32, "heads": 2, "context_length": 16},
}
MOST = 1900
"""Launches of a ViT-B/32 step in bfloat16, which an H100 takes about 40 ms to compute and a host 10 ms to enqueue."""


@same_torch
@pytest.mark.filterwarnings("ignore:isogclr")  # a batch of 16 cannot spend its budget
@pytest.mark.parametrize("name", RECIPES)
def test_a_step_launches_no_more_than_it_did(monkeypatch, name):
    found, waits = count(monkeypatch, name)
    assert found <= BUDGET["launches"][name], "where that is wanted: python -m tests.launches"
    assert waits == set()


@pytest.mark.parametrize("groups", [1, 4])
def test_a_step_of_twelve_blocks_stays_within_its_budget(monkeypatch, groups):
    recipe = small_recipe("vitb32_clip", "train.precision=bfloat16", **DEEP)
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"text_buckets": groups})})
    parts = small_parts(monkeypatch, recipe)
    batch = batch_for(recipe, 16)
    assert len(batch.lengths.unique()) > 4
    train.one_step(parts, batch, 0)
    assert by_part(parts, batch)["launches"] <= MOST
