"""What takes a device's memory is counted by what holds it, and a plan foretold it."""

from __future__ import annotations

import pytest

from tests.small_steps import batch_for, small_parts, small_recipe
from vlp import train
from vlp.plan.counts import count
from vlp.plan.holding import Holding
from vlp.report.planned import PARTS
from vlp.run.memory_parts import PREFIX, memory_by_part


def gigabytes(values) -> float:
    return sum(value.numel() * value.element_size() for value in values) / 1e9


def parts_after_a_step(monkeypatch, recipe):
    run = small_parts(monkeypatch, recipe)
    train.one_step(run, batch_for(recipe, 16), 0)
    return run, memory_by_part(run)


def test_parts_are_what_stands_in_a_run(monkeypatch):
    run, found = parts_after_a_step(monkeypatch, small_recipe("vitb32_clip", "strategies.ema_teacher={}"))
    towers, trained = run.towers, [each for each in run.towers.parameters() if each.requires_grad]
    assert found[PREFIX + "weights"] == pytest.approx(gigabytes([*towers.parameters(), *towers.buffers()]), rel=1e-6)
    assert found[PREFIX + "gradients"] == pytest.approx(gigabytes(trained), rel=1e-6)
    assert found[PREFIX + "optimizer"] == pytest.approx(2 * gigabytes(trained), rel=1e-3)  # and a counter for each
    assert found[PREFIX + "kept"] == pytest.approx(gigabytes(trained), rel=0.05)
    assert PREFIX + "passing" not in found  # what passes is told on a device alone


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("vitb32_clip", ()),
        ("vitb32_clip", ("strategies.ema_teacher={}", "optimizer.type=lion")),
        ("vitb32_clip", ("model.freeze=[visual]", "strategies.dual_teacher={decay: 0.9}")),
        ("vitb32_mochi", ()),
        ("vitb32_coca", ()),
    ],
)
def test_a_plan_foretells_them(monkeypatch, name, changes):
    recipe = small_recipe(name, "train.batch_size=16", *changes)
    planned = Holding(count(recipe), 16).memory(1)
    _, found = parts_after_a_step(monkeypatch, recipe)
    for part, called in PARTS.items():
        assert found[PREFIX + part] == pytest.approx(planned[called] / 1e9, rel=0.03, abs=2e-6), part
