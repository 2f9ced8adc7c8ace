"""How much of a device the model makes use of: operations as captions come, over the peak of the data sheet."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.small_steps import batch_for, small_parts, small_recipe
from vlp import train
from vlp.plan.counts import count
from vlp.run.utilisation import ModelOperations, Utilisation, product_rate

CUDA = torch.device("cuda")


@pytest.fixture
def recipe():
    return small_recipe("vitb32_clip", "train.precision=float32")


def operations_of(recipe):
    return ModelOperations(lambda tokens: count(recipe, tokens=tokens))


def test_a_caption_counts_with_its_own_length(recipe):
    operations, batch = operations_of(recipe), batch_for(recipe, 16)
    lengths = batch.lengths[0].tolist()
    counts = {length: count(recipe, tokens=float(length)) for length in set(lengths)}
    operations.add(batch)
    expected = counts[lengths[0]].image.operations + sum(counts[one].text.operations for one in lengths) / len(lengths)
    assert operations.take() == pytest.approx(expected, rel=1e-3)  # interpolated
    assert operations.take() == 0.0


def test_an_image_that_is_not_embedded_does_not_count(recipe):
    operations, batch = operations_of(recipe), batch_for(recipe, 16)
    operations.add(batch)
    whole = operations.take()
    operations.add(replace(batch, blank=torch.ones(16, dtype=torch.bool)))
    assert whole - operations.take() == pytest.approx(count(recipe, tokens=12.0).image.operations)


def test_what_was_counted_is_what_the_towers_compute(monkeypatch, recipe):
    """Of captions of one length, which need no padding; the loss of 16 pairs is next to nothing."""
    parts = small_parts(monkeypatch, recipe)
    batch = batch_for(recipe, 16)
    lengths = torch.full_like(batch.lengths, batch.tokens.shape[2])
    batch = replace(batch, lengths=lengths)
    counter = FlopCounterMode(display=False)
    with counter:
        train.one_step(parts, batch, 0)
    assert 16 * parts.utilisation.operations.take() == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_views_teachers_and_locked_towers_count(monkeypatch):
    plain, locked, views = (
        operations_of(small_recipe(name)) for name in ("vitb32_clip", "lit_cwcl", "vitb32_multi_crop")
    )
    for operations, name in ((plain, "vitb32_clip"), (locked, "lit_cwcl"), (views, "vitb32_multi_crop")):
        operations.add(batch_for(small_recipe(name), 16))
    found = plain.take()
    assert locked.take() < found < views.take()


def test_a_known_device_has_the_peak_of_its_data_sheet(monkeypatch, recipe):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    utilisation = Utilisation(recipe.model_copy(update={"train": recipe.train.model_copy()}), CUDA)
    utilisation.operations.add(batch_for(recipe, 16))
    again = operations_of(recipe)
    again.add(batch_for(recipe, 16))
    assert utilisation.metrics(1e6) == {"mfu": pytest.approx(again.take() * 1e6 / 494e12)}  # float32 runs in TF32


def test_another_device_is_measured(monkeypatch, recipe):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Frob 9000")
    monkeypatch.setattr("vlp.run.utilisation.product_rate", lambda *_: 2e12)
    utilisation = Utilisation(recipe, CUDA)
    utilisation.operations.add(batch_for(recipe, 16))
    assert utilisation.metrics(1e3)["mfu"] > 0
    assert product_rate(torch.device("cpu"), torch.float32, 64) > 1e6


def test_the_cpu_says_nothing(recipe):
    assert Utilisation(recipe, torch.device("cpu")).metrics(1.0) == {}
