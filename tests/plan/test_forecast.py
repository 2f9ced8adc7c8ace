"""Memory and time follow from what was counted; the advice holds by the forecast's own numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.small_steps import small_recipe
from vlp.ground.types import RecipeError
from vlp.plan.counts import Counts, TowerCounts
from vlp.plan.devices import DEVICES, find_device
from vlp.plan.forecast import Assumptions, forecast
from vlp.plan.holding import Holding
from vlp.plan.splitting import SplitRows

B32 = Counts(
    parameters=151_000_000,
    trained=151_000_000,
    weights=604_000_000,
    beside=0,
    image=TowerCounts(26e9, 8e9, 15e6),
    text=TowerCounts(4e9, 1e9, 4e6),
    cast=250_000_000,
    tokens=17,
    embed_dim=512,
    image_views=1,
    text_views=1,
    matrices=1,
    rows=(SplitRows(151_000_000, 151_000_000, True, True),),
    pixels=3 * 224 * 224,
)
H100 = DEVICES["H100"]


def plan(*overrides, counts=B32, device=H100, gpus=1, **settings):
    recipe = small_recipe("vitb32_clip", "train.precision=bfloat16", *overrides)
    return forecast(recipe, counts, device, gpus, **settings)


def test_memory_and_time_by_hand():
    found = plan("train.batch_size=1024")
    assert found.memory["weights, float32"] == 604e6
    assert found.memory["gradients"] == 604e6 and found.memory["optimizer"] == 1208e6
    assert found.memory["activations of 1,024 pairs"] == 1024 * 19e6
    image, text, loss = found.parts[:3]
    assert image.floor == pytest.approx(1024 * 26e9 / 989e12)
    assert text.expected == pytest.approx(1024 * 4e9 / 989e12 / 0.35)
    assert loss.floor == pytest.approx(4 * 2 * 1024 * 1024 * 512 / 67e12)
    assert found.step() == pytest.approx(sum(part.expected for part in found.parts))
    assert found.fits and found.pairs_per_second == pytest.approx(1024 / found.step())
    assert found.hours(3600 * found.pairs_per_second) == pytest.approx(1)


def test_micro_batches_repeat_every_forward_pass_and_views_cost_towers():
    counts = replace(B32, strategies=9e9)
    whole, pieces = (plan("train.batch_size=1024", counts=counts, micro_batches=number) for number in (1, 4))
    more = [many.floor - one.floor for one, many in zip(whole.parts[:3], pieces.parts[:3], strict=True)]
    assert more == pytest.approx([1024 * operations / 989e12 for operations in (8e9, 1e9, 9e9)])
    views = plan("train.batch_size=1024", counts=replace(B32, image_views=3))
    assert views.parts[0].floor == pytest.approx(3 * whole.parts[0].floor)
    assert views.cores < plan("train.batch_size=1024").cores  # fewer samples, each decoded once


def test_a_batch_that_does_not_fit_is_told_how_many_pieces_do():
    found = plan("train.batch_size=16384", device=DEVICES["RTX-4090"])
    assert not found.fits
    (pieces,) = [int(line.split("train.micro_batches=")[1].split()[0]) for line in found.advice if "micro" in line]
    assert plan("train.batch_size=16384", device=DEVICES["RTX-4090"], micro_batches=pieces).fits
    assert not plan("train.batch_size=16384", device=DEVICES["RTX-4090"], micro_batches=pieces // 2).fits


def test_a_model_that_never_fits_is_told_other_ways():
    number = 4_000_000_000
    large = replace(B32, trained=number, weights=4 * number, rows=(SplitRows(number, number, True, True),))
    one = plan("train.batch_size=64", counts=large, device=DEVICES["RTX-4090"])
    assert "model.grad_checkpointing=selective" in one.advice[0]
    apart = plan("train.batch_size=64", "model.grad_checkpointing=selective", counts=large, device=DEVICES["RTX-4090"])
    assert "try model.grad_checkpointing=true" in apart.advice[0]
    several = plan(
        "train.batch_size=64", "model.grad_checkpointing=true", counts=large, device=DEVICES["RTX-4090"], gpus=8
    )
    assert "--sharded" in several.advice[0]
    assert (
        several.total_memory > 4 * plan("train.batch_size=64", counts=large, gpus=8, sharded=True).memory["optimizer"]
    )


def test_devices_share_the_batch_and_exchange_gradients_behind_the_towers():
    one, eight, sixteen = (plan("train.batch_size=16384", gpus=gpus) for gpus in (1, 8, 16))
    assert one.parts[0].floor == pytest.approx(8 * eight.parts[0].floor)
    named = [{part.name: part for part in found.parts} for found in (eight, sixteen)]
    gradients = [parts["gradients between devices"] for parts in named]
    assert all(part.hidden for part in gradients)
    assert gradients[1].floor > 5 * gradients[0].floor  # over the network
    assert eight.step() < sum(part.expected for part in eight.parts)
    crowded = plan("train.batch_size=64", gpus=64)
    assert "exchange of gradients" in crowded.advice[0]
    assert crowded.step() == pytest.approx(max(part.expected for part in crowded.parts))


def test_advice_that_is_not_needed_is_not_given():
    assert plan("train.batch_size=1024", assumed=Assumptions(decode=1e-4)).advice == ()
    slow = plan("train.batch_size=1024", assumed=Assumptions(decode=2e-3))
    assert "cores must decode" in slow.advice[-1] and slow.cores > 8
    wasteful = plan("train.batch_size=1024", micro_batches=4, assumed=Assumptions(decode=1e-4))
    assert wasteful.advice == ("train.micro_batches=1 fits too, and saves a forward pass",)
    kept = plan("train.batch_size=1024", "train.keep_locked=true", assumed=Assumptions(decode=1e-4))
    assert [line for line in kept.advice if "this is the first epoch" in line] == list(kept.advice)
    recipe = small_recipe("vitb32_clip", "train.batch_size=1024", "train.precision=float32")
    assert "bfloat16" in forecast(recipe, B32, H100, assumed=Assumptions(decode=1e-4)).advice[0]


def test_mistakes_are_named():
    with pytest.raises(RecipeError, match="1000 pairs do not divide among 16 devices"):
        plan("train.batch_size=1000", gpus=16)
    with pytest.raises(RecipeError, match=r"'H10' is not known.*H100"):
        find_device("H10")


def test_copies_of_parts_hold_a_part_of_the_state():
    whole, copies, parts = (
        Holding(B32, 1024, 16, sharded, shards) for sharded, shards in ((False, None), (True, 8), (True, None))
    )
    assert [each.parts_of_state for each in (whole, copies, parts)] == [1, 8, 16]
    assert Holding(B32, 1024, 4, True, 8).parts_of_state == 4
