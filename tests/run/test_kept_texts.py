"""Embeddings of a locked text tower are computed once for each caption, whoever has it: the same losses to the bit."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.processes import run_processes
from tests.strategies.runs import STEADY, recipe_of
from tests.tiny import tiny_recipe
from vlp.data.rows_by_key import RowsByKey
from vlp.ground.types import RecipeError, VlpWarning
from vlp.run.assemble import assemble
from vlp.train import one_step, train

ONCE = "checkpoint.every=100"
LOCKED = ("model.freeze=[text]", "train.steps=6", STEADY)
KEPT = "train.keep_locked=true"
BOTH = ("model.freeze=[visual, text]", "data.crop={scale: [1, 1], flip: 0}", "train.steps=6", ONCE)
TEMPLATES = "data.captions={templates: ['a {}', 'the {}'], template_probability: 1.0}"
pytestmark = pytest.mark.filterwarnings("ignore:model.freeze")  # the locked tower is a small random one here


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def numbers(run: Path) -> list[list[str]]:
    """Return every loss and norm of each step, to the bit."""
    names = ("loss", "gradient_norm/image", "scale", "weights_checksum")
    return [[line[name].hex() for name in names] for line in lines(run)]


def shares(run: Path) -> list[float]:
    return [line["kept_texts"] for line in lines(run)]


def opened(recipe):
    parts = assemble(recipe, resume=False, allow_changes=False)
    parts.kept.open(recipe, parts.towers, parts.claim.data, print)
    return parts


def _forgets(self, keys):
    return np.zeros(len(keys), dtype=bool), np.zeros((len(keys), self.width), dtype=np.float32)


@pytest.mark.parametrize(
    "more",
    [
        ("train.micro_batches=2", "data.workers=2"),
        (TEMPLATES, "data.text_views={more: {}}", "objective.mv_infonce={}"),
        ("model.text.causal=false", "model.text.pool=last"),
    ],
    ids=["micro-batches and workers", "templates and views", "not cut"],
)
def test_the_same_losses_bit_for_bit_where_nothing_is_found(tmp_path, monkeypatch, more):
    """Over two epochs of 21 samples in batches of 8; and those of a run without, but for how captions are cut."""
    kept = train(recipe_of(tmp_path, *LOCKED, *more, ONCE, KEPT, "name=kept"))
    plain = train(recipe_of(tmp_path, *LOCKED, *more, ONCE, "name=plain"))
    with monkeypatch.context() as patch:
        patch.setattr(RowsByKey, "read", _forgets)
        forgetful = train(recipe_of(tmp_path, *LOCKED, *more, ONCE, KEPT, "name=forgetful"))
    assert numbers(kept) == numbers(forgetful)
    for one, other in zip(lines(plain), lines(kept), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert shares(kept)[0] == 0 and max(shares(forgetful)) == 0
    assert shares(kept)[-1] == 1 or TEMPLATES in more


def test_the_tower_reads_a_caption_once_and_always_in_one_shape(tmp_path):
    parts = opened(recipe_of(tmp_path, *LOCKED, KEPT))
    reads = []
    parts.towers.core.text.register_forward_hook(lambda _, inputs, __: reads.append(tuple(inputs[0].shape)))
    counts = []
    for step, batch in enumerate(islice(parts.stream.batches(0), 5)):
        before = len(reads)
        one_step(parts, batch, step)
        counts.append(len(reads) - before)
    assert counts == [1, 1, 1, 0, 0]
    assert set(reads) == {(32, 16)}


def test_numbers_of_a_caption_are_the_same_in_whatever_company(tmp_path):
    parts = opened(recipe_of(tmp_path, *LOCKED, KEPT))
    (batch,) = islice(parts.stream.batches(0), 1)
    texts = parts.kept.texts
    tokens, lengths = batch.tokens[0], batch.lengths[0].numpy()
    whole = texts._embed(tokens, lengths)
    alone = torch.cat([texts._embed(tokens[k : k + 1], lengths[k : k + 1]) for k in range(len(batch))])
    turned = texts._embed(tokens.flip(0), lengths[::-1].copy()).flip(0)
    assert torch.equal(whole, alone) and torch.equal(whole, turned)


def test_resume_equals_no_interruption(tmp_path):
    """From what is kept, and without any."""
    recipe = recipe_of(tmp_path, *LOCKED, KEPT)
    run = train(recipe)
    whole = numbers(run)
    for forget in (False, True):
        shutil.rmtree(run / "checkpoints" / "step_00000006")
        if forget:
            shutil.rmtree(run / "kept_texts")
        train(recipe, resume=True)
        assert numbers(run) == whole
        assert shares(run)[3] == (0 if forget else 1)


def test_a_second_run_embeds_nothing_of_either_tower(tmp_path, capfd):
    """And has the losses that it would have alone, to the bit."""
    shared, other = f"train.keep_locked={tmp_path}/shared", "objective={clip: {weight: 0.5}, uniformity: null}"
    first = train(recipe_of(tmp_path, *BOTH, shared, "name=first"))
    capfd.readouterr()
    second = train(recipe_of(tmp_path, *BOTH, shared, other, "name=second"))
    said = capfd.readouterr().err
    alone = train(recipe_of(tmp_path, *BOTH, KEPT, other, "name=alone"))
    assert numbers(second) == numbers(alone)
    assert [(line["kept_images"], line["kept_texts"]) for line in (lines(first)[0], *lines(second))] == [
        (0, 0),
        *[(1, 1)] * 6,
    ]
    assert f"embeddings of 21 images are kept in {tmp_path}/shared/kept_images" in said
    assert said.count("21 are known") == 2
    assert not (second / "kept_images").exists() and not (second / "kept_texts").exists()
    both = capfd.readouterr().err
    assert "all images are kept: " in both and "all captions are kept: " in both


def _train_with_others(rank, world_size, folder, shards):
    os.environ["LOCAL_WORLD_SIZE"] = str(world_size)
    return lines(train(tiny_recipe(Path(folder) / str(rank), shards, *LOCKED, ONCE, KEPT, f"runs={folder}/two")))


@pytest.mark.processes
def test_two_processes_equal_one_and_share_what_they_know(tmp_path):
    recipe = recipe_of(tmp_path, *LOCKED)
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    alone = lines(train(recipe))
    two = run_processes(_train_with_others, 2, str(tmp_path), f"{tmp_path}/shards/*.tar")[0]
    for single, double in zip(alone, two, strict=True):
        assert double["loss"] == pytest.approx(single["loss"], rel=2e-4)  # float32 sums in another order
    assert [line["kept_texts"] for line in two[3:]] == [1, 1, 1]


def test_no_room_for_more_is_said_and_the_run_goes_on(tmp_path, monkeypatch):
    parts = opened(recipe_of(tmp_path, *LOCKED, KEPT))

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(parts.kept.texts.rows, "add", full)
    batches = list(islice(parts.stream.batches(0), 2))
    with pytest.warns(VlpWarning, match="no further captions are kept"):
        one_step(parts, batches[0], 0)
    assert torch.isfinite(one_step(parts, batches[1], 1)[0]["loss"])


SOME = "data.captions={separator: ',', wording: {all: 1, some: 1}}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model.freeze=[]", "data.crop={scale: [1, 1], flip: 0}"), r"the image tower trains: lock it"),
        ((*LOCKED, SOME), r"data\.captions\.wording draws other"),
        ((*LOCKED, "model.text_dropout=0.1"), r"model\.text_dropout drops"),
        ((*LOCKED, "data.captions.augment={delete: 0.5}"), r"data\.captions\.augment words captions anew"),
        ((*LOCKED, "data.text_views={more: {swap: 0.5}}", "objective.mv_infonce={}"), r"data\.text_views\.more words"),
        ((*LOCKED, "strategies.short_first={tokens: 4, steps: 2}"), r"strategies\.short_first changes the captions"),
    ],
)
def test_what_another_epoch_would_not_repeat_is_refused(tmp_path, overrides, message):
    with pytest.raises(RecipeError, match=rf"train\.keep_locked: {message}.*train\.keep_locked=false"):
        train(recipe_of(tmp_path, *overrides, KEPT))


def test_what_cannot_be_kept_beside_what_can_is_said(tmp_path, capfd):
    run = train(recipe_of(tmp_path, *BOTH, KEPT, "data.captions.augment={delete: 0.5}", "train.steps=1"))
    assert "captions are embedded at each step: data.captions.augment words" in capfd.readouterr().err
    assert "kept_texts" not in lines(run)[-1]
