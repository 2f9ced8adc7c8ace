"""Embeddings of a locked image tower are computed once: the same losses bit for bit, without pixels from then on."""

from __future__ import annotations

import json
import os
import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch

from tests.processes import run_processes
from tests.shards import write_shards
from tests.tiny import tiny_recipe
from vlp.ground.types import RecipeError
from vlp.run.assemble import assemble
from vlp.train import one_step, train

LOCKED = ("model.freeze=[visual]", "data.crop={scale: [1, 1], flip: 0}", "train.steps=9")
KEPT = "train.keep_locked=true"
pytestmark = pytest.mark.filterwarnings("ignore:model.freeze")  # the locked tower is a small random one here


@pytest.fixture
def shards(tmp_path):
    write_shards(tmp_path / "shards", num_shards=3, samples_per_shard=7)
    return f"{tmp_path}/shards/*.tar"


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def numbers(run: Path) -> list[dict[str, str]]:
    """Return every loss and norm of each step, to the bit."""
    names = ("loss", "gradient_norm/text", "scale", "weights_checksum")
    return [{name: line[name].hex() for name in names} for line in lines(run)]


@pytest.mark.claim
@pytest.mark.parametrize(
    "more",
    [
        (),
        ("data.workers=2",),
        ("train.micro_batches=2",),
        ("objective={cwcl: {}, uniformity: {}, clip: null}",),
        ("data.train.tiny.repeat=2", "train.batch_size=2"),
        ("train.precision=bfloat16",),
        ("data.text_views={more: {delete: 0.5}}", "objective.mv_infonce={}"),
    ],
    ids=["plain", "workers", "micro-batches", "references", "repeat", "bfloat16", "text-views"],
)
@pytest.mark.filterwarnings("ignore:train.precision")
def test_the_same_losses_bit_for_bit_with_and_without(tmp_path, shards, more):
    """Over three epochs of 21 samples in batches of 8, so that two batches belong to two epochs each."""
    without = train(tiny_recipe(tmp_path, shards, *LOCKED, *more, "name=without"))
    kept = train(tiny_recipe(tmp_path, shards, *LOCKED, *more, KEPT, "name=kept"))
    assert numbers(kept) == numbers(without)
    shares = [line["kept_images"] for line in lines(kept)]
    assert shares[:2] == [0, 0]
    assert max(shares) == (0 if "train.batch_size=2" in more else 1)  # whose 18 pairs are less than an epoch


def test_what_is_kept_is_neither_embedded_nor_decoded(tmp_path, shards, monkeypatch):
    parts = assemble(tiny_recipe(tmp_path, shards, *LOCKED, KEPT), resume=False, allow_changes=False)
    said: list[str] = []
    parts.kept.open(parts.recipe, parts.towers, parts.claim.data, said.append)
    looks = []
    parts.towers.core.visual.register_forward_hook(lambda *_: looks.append(1))
    seen = []
    for step, batch in enumerate(islice(parts.stream.batches(0), 6)):
        before = len(looks)
        one_step(parts, batch, step)
        seen.append((len(looks) - before, batch.images.shape[2], int(batch.blank.sum())))
    assert seen[:3] == [(1, 32, 0), (1, 32, 0), (1, 32, 3)]  # the third batch ends the first epoch
    assert seen[3:] == [(0, 0, 8)] * 3
    assert "each is computed at first sight" in said[0]


def test_resume_equals_no_interruption(tmp_path, shards):
    """From kept embeddings, from those of the checkpoint alone, and without any."""
    recipe = tiny_recipe(tmp_path, shards, *LOCKED, KEPT)
    run = train(recipe)
    whole = numbers(run)
    for forget in ((), (".known",), (".rows",), (".saved", ".known"), (".about",)):
        for step in (6, 9):
            shutil.rmtree(run / "checkpoints" / f"step_{step:08d}")
        for suffix in forget:
            (run / "kept_images" / f"0{suffix}").unlink()
        train(recipe, resume=True)
        assert numbers(run) == whole, forget
        first = lines(run)[3]["kept_images"]
        assert first == (0 if {".rows", ".saved", ".about"} & set(forget) else 1), forget


def test_a_crash_forgets_what_no_checkpoint_has_brought_to_the_disk(tmp_path, shards):
    recipe = tiny_recipe(tmp_path, shards, *LOCKED, KEPT)
    first = assemble(recipe, resume=False, allow_changes=False)
    first.kept.open(recipe, first.towers, first.claim.data, print)
    batches = list(islice(first.stream.batches(0), 2))
    one_step(first, batches[0], 0)
    first.kept.save()
    one_step(first, batches[1], 1)
    assert first.kept.images.rows.num_known == 16
    again = assemble(recipe, resume=False, allow_changes=False)
    again.kept.open(recipe, again.towers, again.claim.data, print)
    assert again.kept.images.rows.num_known == 8
    again.kept.open(recipe, again.towers, "other data", print)
    assert again.kept.images.rows.num_known == 0


def test_a_step_that_is_skipped_leaves_no_trace(tmp_path, shards):
    """What was embedded in it is right all the same, and the next step is that of a run that never saw it."""
    parts, other = (
        assemble(tiny_recipe(tmp_path, shards, *LOCKED, KEPT, f"name={name}"), resume=False, allow_changes=False)
        for name in ("one", "two")
    )
    for each in (parts, other):
        each.kept.open(each.recipe, each.towers, each.claim.data, print)
    batches = list(islice(parts.stream.batches(0), 3))
    bad = parts.towers.core.logit_scale.register_hook(lambda gradient: gradient * torch.nan)
    one_step(parts, batches[0], 0)
    bad.remove()
    assert float(parts.safe_step.state["skipped"]) == 1
    for step in (1, 2):
        ours, theirs = (one_step(each, batches[step], step)[0] for each in (parts, other))
        assert ours["loss"].item().hex() == theirs["loss"].item().hex()
    rows = [each.kept.images.rows for each in (parts, other)]
    both = rows[1].has(batches[1].visits[:, 1].numpy()).nonzero()[0]
    assert len(both) == 8
    chosen = batches[1].visits[:, 1].numpy()
    assert (rows[0].read(chosen) == rows[1].read(chosen)).all()


def _train_with_others(rank, world_size, folder, shards, per_machine, overrides):
    os.environ["LOCAL_WORLD_SIZE"] = str(per_machine)
    recipe = tiny_recipe(Path(folder) / str(rank), shards, f"runs={folder}/runs", *overrides)
    return lines(train(recipe))


@pytest.mark.processes
@pytest.mark.parametrize(("per_machine", "at_once"), [(2, True), (1, False)], ids=["one machine", "two machines"])
def test_two_processes_equal_one_and_share_what_they_know(tmp_path, shards, per_machine, at_once):
    """On two machines each embeds at its own first sight."""
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    alone = lines(train(tiny_recipe(tmp_path, shards, *LOCKED, "name=one")))
    options = (*LOCKED, KEPT, "name=two")
    two, *_ = run_processes(_train_with_others, 2, str(tmp_path), shards, per_machine, options)
    options = (*LOCKED, "name=without")
    without, *_ = run_processes(_train_with_others, 2, str(tmp_path), shards, per_machine, options)
    assert [line["loss"].hex() for line in two] == [line["loss"].hex() for line in without]
    shares = [line["kept_images"] for line in two]
    assert (shares[3:] == [1] * 6) == at_once
    assert shares[-1] > 0
    for single, double in zip(alone, two, strict=True):
        assert double["loss"] == pytest.approx(single["loss"], rel=2e-4)  # float32 sums in another order


def test_the_log_says_what_it_gains(tmp_path, shards, capfd):
    train(tiny_recipe(tmp_path, shards, *LOCKED, KEPT))
    said = capfd.readouterr().err
    assert "embeddings of 21 images are kept in" in said
    assert said.count("all images are kept: ") == 1
    assert "while they were embedded (" in said


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((LOCKED[1],), r"the image tower trains: lock it \(model\.freeze=\[visual\]\)"),
        ((LOCKED[0],), r"data\.crop draws another part.*scale: \[1, 1\], flip: 0"),
        ((*LOCKED, "data.crop.flip=0.5"), r"data\.crop draws"),
        ((*LOCKED, "data.policy={type: randaugment}"), r"data\.policy changes the pixels"),
        ((*LOCKED, "data.augment={gray: 0.1}"), r"data\.augment changes the pixels"),
        ((*LOCKED, "data.views={local: {}}", "objective.mv_infonce={}"), r"data\.views shows further parts"),
        ((*LOCKED, "strategies.dual_teacher={}", "objective.soft_targets={}"), r"strategies\.dual_teacher looks at"),
        ((*LOCKED, "strategies.image_views={}", "objective.mv_infonce={}"), r"strategies\.image_views looks at"),
    ],
)
def test_what_another_epoch_would_not_repeat_is_refused(tmp_path, shards, overrides, message):
    with pytest.raises(RecipeError, match=rf"train\.keep_locked: {message}.*train\.keep_locked=false"):
        train(tiny_recipe(tmp_path, shards, *overrides, KEPT))
