"""Resumed equals uninterrupted, twice equals once, two processes equal one, and a run survives what happens to it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.processes import run_processes
from tests.shards import write_shards
from tests.tiny import tiny_recipe
from vlp.export.run import export_run
from vlp.ground import dist
from vlp.ground.types import RecipeError, VlpWarning
from vlp.recipe.compose import lock_text
from vlp.recipe.model import build_model
from vlp.report import write_report
from vlp.run.clock import PREEMPTED
from vlp.run.trained_model import load_model_of_run
from vlp.step.learning_rate import learning_rate_factor
from vlp.train import train


@pytest.fixture
def shards(tmp_path):
    write_shards(tmp_path / "shards", num_shards=3, samples_per_shard=7)
    return f"{tmp_path}/shards/*.tar"


def lines(run: Path) -> list[dict]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if "loss" in record]


def losses(run: Path) -> list[tuple[int, str, str]]:
    return [(line["step"], line["loss"].hex(), line["gradient_norm/text"].hex()) for line in lines(run)]


def weights(run: Path, step: int = 6) -> dict[str, str]:
    """Checksums of all that the run computed up to a step."""
    folder = run / "checkpoints" / f"step_{step:08d}"
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("model.safetensors", "ema.safetensors")
    }


def forget(run: Path, step: int) -> None:
    """Make the run look as if it was killed before it reached a step."""
    shutil.rmtree(run / "checkpoints" / f"step_{step:08d}")


def assert_resumes_bit_for_bit(recipe) -> None:
    run = train(recipe)
    expected = losses(run), weights(run)
    forget(run, 6)
    train(recipe, resume=True)
    assert (losses(run), weights(run)) == expected
    assert [line["step"] for line in lines(run)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.claim
@pytest.mark.parametrize("workers", [0, 2])
def test_resume_equals_no_interruption_bit_for_bit(tmp_path, shards, workers):
    assert_resumes_bit_for_bit(tiny_recipe(tmp_path, shards, f"data.workers={workers}", "train.micro_batches=2"))


HEADS = ("objective.siamlip={hidden_width: 8}", "objective.isogclr={budget: 1.0}", "model.image.patch_dropout=0.0")


def test_what_terms_learn_and_remember_resumes_bit_for_bit(tmp_path, shards):
    recipe = tiny_recipe(tmp_path, shards, *HEADS)
    assert_resumes_bit_for_bit(recipe)
    last = lines(recipe.folder)[-1]
    assert last["gradient_norm/terms"] > 0
    assert last["gauge/isogclr/t50_image"] > 0


@pytest.mark.processes
def test_what_terms_learn_is_the_same_on_two_processes(tmp_path, shards):
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    one = train(tiny_recipe(tmp_path, shards, "name=one", *HEADS))
    two = run_processes(_train_with_others, 2, str(tmp_path), shards, HEADS)
    for single, double in zip(lines(one), two[0], strict=True):
        for key in ("loss", "loss/siamlip", "loss/isogclr", "gradient_norm/terms"):
            assert double[key] == pytest.approx(single[key], rel=1e-3), key  # float32 sums in another order, 6 steps


@pytest.mark.processes
def test_batch_norms_see_the_batches_of_two_processes(tmp_path, shards):
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    normed = ("model.image={type: timm, name: test_resnet, image_size: 32}",)
    one = train(tiny_recipe(tmp_path, shards, "name=one", *normed))
    two = run_processes(_train_with_others, 2, str(tmp_path), shards, normed)
    for single, double in zip(lines(one)[:2], two[0], strict=False):
        for key in ("loss", "gradient_norm/image", "gradient_norm/text"):
            assert double[key] == pytest.approx(single[key], rel=2e-3), (
                key
            )  # what rounding adds grows from step to step


def test_the_same_seed_twice_gives_the_same_run(tmp_path, shards):
    first = train(tiny_recipe(tmp_path, shards, "name=first"))
    second = train(tiny_recipe(tmp_path, shards, "name=second"))
    other = train(tiny_recipe(tmp_path, shards, "name=other", "seed=1"))
    assert (losses(first), weights(first)) == (losses(second), weights(second))
    assert losses(other)[0] != losses(first)[0]


def _resume_with_others(rank, world_size, folder, shards):
    recipe = tiny_recipe(Path(folder) / str(rank), shards, f"runs={folder}/runs", "train.precision=float32")
    run = train(recipe)
    expected = losses(run), weights(run)
    dist.barrier()
    if rank == 0:
        forget(run, 6)
    dist.barrier()
    train(recipe, resume=True)
    return expected == (losses(run), weights(run)), lines(run)


@pytest.mark.claim
@pytest.mark.processes
def test_two_processes_resume_bit_for_bit_and_equal_one(tmp_path, shards):
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    results = run_processes(_resume_with_others, 2, str(tmp_path), shards)
    assert [same for same, _ in results] == [True, True]
    # dropout differs between layouts, so patch dropout is off in the comparison of layouts
    off = ("model.image.patch_dropout=0.0",)
    one = train(tiny_recipe(tmp_path, shards, "name=one", *off))
    two = run_processes(_train_with_others, 2, str(tmp_path), shards, off)
    for single, double in zip(lines(one), two[0], strict=True):
        for key in ("loss", "loss/clip", "loss/uniformity", "scale", "gradient_norm/image", "gradient_norm/text"):
            assert double[key] == pytest.approx(single[key], rel=2e-4), key  # float32 sums in another order, 6 steps


def _train_with_others(rank, world_size, folder, shards, overrides):
    recipe = tiny_recipe(Path(folder) / str(rank), shards, f"runs={folder}/runs", "name=two", *overrides)
    return lines(train(recipe))


def start(recipe, folder: Path, *arguments: str) -> subprocess.Popen:
    (folder / "started.yaml").write_text(lock_text(recipe))
    return subprocess.Popen(
        [sys.executable, "-m", "vlp.train", "--config", str(folder / "started.yaml"), *arguments],
        cwd=Path(__file__).resolve().parent.parent,
        env={**os.environ},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_for_lines(run: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "metrics.jsonl").exists() and len((run / "metrics.jsonl").read_text().splitlines()) >= count:
            return
        time.sleep(0.01)
    raise AssertionError(process.stderr.read().decode() if process.poll() is not None else "the run is too slow")


def test_rates_and_weights_are_those_of_the_step(tmp_path, shards, monkeypatch):
    rates = []
    monkeypatch.setattr("vlp.train.set_learning_rate", lambda _, factor, step: rates.append(factor))
    run = train(tiny_recipe(tmp_path, shards, "schedule.warmup_steps=2"))
    factor = learning_rate_factor(6, warmup_steps=2)
    assert rates == [factor(step) for step in range(6)]
    assert [line["learning_rate"] for line in lines(run)] == pytest.approx([1e-3 * rate for rate in rates])
    for step, line in enumerate(lines(run)):
        weight = min(0.1, 0.1 * step / 4)
        assert line["loss"] - line["loss/clip"] == pytest.approx(weight * line["loss/uniformity"], abs=1e-5)


@pytest.mark.processes
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, PREEMPTED), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_run_that_is_killed_loses_and_repeats_no_sample(tmp_path, shards, number, code):
    length = ("train.steps=40", "checkpoint.every=5")
    expected = train(tiny_recipe(tmp_path, shards, "name=whole", *length))
    recipe = tiny_recipe(tmp_path, shards, "name=killed", *length)
    process = start(recipe, tmp_path)
    wait_for_lines(recipe.folder, 7, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == code, said.decode()
    assert len(lines(recipe.folder)) < 40, "the signal came too late to test anything"
    train(recipe, resume=True)
    assert losses(recipe.folder) == losses(expected)
    assert weights(recipe.folder, 40) == weights(expected, 40)


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_saves_too(tmp_path, shards, number):
    """Ctrl-C and cluster managers reach the processes that decode as well."""
    recipe = tiny_recipe(tmp_path, shards, "train.steps=400", "checkpoint.every=400", "data.workers=2")
    process = start(recipe, tmp_path)
    wait_for_lines(recipe.folder, 5, process)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == PREEMPTED, said.decode()
    assert list((recipe.folder / "checkpoints").glob("step_*"))


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, shards):
    recipe = tiny_recipe(tmp_path, shards)
    run = train(recipe)
    expected = losses(run), weights(run)
    file = run / "checkpoints" / "step_00000006" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.warns(VlpWarning, match=r"step_00000006(: model.safetensors is| was) damaged"):
        train(recipe, resume=True)
    assert (losses(run), weights(run)) == expected


def test_a_second_start_is_refused_and_changes_are_listed(tmp_path, shards):
    run = train(tiny_recipe(tmp_path, shards, "train.steps=2"))
    with pytest.raises(RecipeError, match=r"holds a run already.*--resume"):
        train(tiny_recipe(tmp_path, shards, "train.steps=2"))
    changed = tiny_recipe(tmp_path, shards, "train.steps=3", "optimizer.learning_rate=1e-4")
    with pytest.raises(
        RecipeError, match=r"(?s)optimizer.learning_rate: 0.001 -> 0.0001.*train.steps: 2 -> 3.*--allow"
    ):
        train(changed, resume=True)
    train(changed, resume=True, allow_changes=True)
    assert [line["step"] for line in lines(run)] == [1, 2, 3]


def test_a_term_without_its_reference_is_refused(tmp_path, shards):
    with pytest.raises(RecipeError, match=r"objective.cwcl: needs reference.*model.freeze.*ema_teacher"):
        train(tiny_recipe(tmp_path, shards, "objective.cwcl={}"))


@pytest.mark.parametrize(
    "overrides",
    [
        ("objective.cwcl={}", "model.freeze=[visual]"),
        ("objective.cwcl={}", "strategies.ema_teacher={}", "train.micro_batches=2"),
        ("train.precision=bfloat16",),
        ("train.precision=bfloat16", "train.micro_batches=4", "train.deterministic=true"),
        ("objective={clip: null, siglip: {}}", "model.init_bias=-10.0", "model.init_scale=10.0"),
        ("train.steps=null", "train.epochs=1.0"),
    ],
    ids=lambda overrides: " ".join(overrides),
)
@pytest.mark.filterwarnings("ignore:train.precision")
@pytest.mark.filterwarnings("ignore:model.freeze")
def test_variants_train(tmp_path, shards, overrides):
    run = train(tiny_recipe(tmp_path, shards, *overrides))
    found = lines(run)
    assert all(line["loss"] is not None and line["skipped_steps"] == 0 for line in found)
    assert len({line["loss"] for line in found}) == len(found)


def test_trackers_receive_the_metrics(tmp_path, shards):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(tiny_recipe(tmp_path, shards, "log.trackers=[tensorboard]", "train.steps=3"))
    events = EventAccumulator(str(run / "vlp"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([line["loss"] for line in lines(run)])


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_towers_give_the_same_losses(tmp_path, shards):
    plain = train(tiny_recipe(tmp_path, shards, "name=plain", "train.steps=2", "model.image.patch_dropout=0.0"))
    fast = train(
        tiny_recipe(
            tmp_path, shards, "name=fast", "train.steps=2", "model.image.patch_dropout=0.0", "train.compile=true"
        )
    )
    for one, other in zip(lines(plain), lines(fast), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)  # fused kernels round differently
    known = [line["compiled_graphs"] for line in lines(fast)]
    assert 2 <= known[0] <= known[-1] == sum(line["compiled_anew"] for line in lines(fast))
    assert "compiled_graphs" not in lines(plain)[0]
    assert f"<span>{known[-1]:.0f} compiled graphs</span>" in write_report(fast).read_text(encoding="utf-8")


def _poisoned(rank, world_size, folder, shards):
    from vlp.data import Augment

    recipe = tiny_recipe(Path(folder) / str(rank), shards, f"runs={folder}/runs", "train.steps=4", "checkpoint.every=9")
    clean, calls = Augment.__call__, []

    def poison(self, images, draws):
        calls.append(1)
        pixels = clean(self, images, draws)
        return pixels * float("nan") if rank == 1 and len(calls) == 2 else pixels

    Augment.__call__ = poison
    return lines(train(recipe))


@pytest.mark.processes
def test_a_nan_on_one_process_is_skipped_by_all(tmp_path, shards):
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    found = run_processes(_poisoned, 2, str(tmp_path), shards)[0]
    assert [line["skipped_steps"] for line in found] == [0, 1, 1, 1]
    assert [line["loss"] is None for line in found] == [False, True, False, False]


def test_batches_that_do_not_divide_are_refused(tmp_path, shards):
    with pytest.raises(RecipeError, match=r"train.batch_size: 8 pairs do not divide .* train.micro_batches=3"):
        train(tiny_recipe(tmp_path, shards, "train.micro_batches=3"))


def test_batch_norm_with_micro_batches_is_refused(tmp_path, shards):
    image = "model.image={type: timm, name: test_resnet}"
    with pytest.raises(RecipeError, match=r"model.image: batch norm"):
        train(tiny_recipe(tmp_path, shards, image, "train.micro_batches=2"))


def test_a_run_of_nans_ends_and_names_the_checkpoints(tmp_path, shards):
    recipe = tiny_recipe(
        tmp_path, shards, "optimizer.learning_rate=1e30", "train.max_bad_steps=2", "train.steps=20", "strategies={}"
    )
    recipe = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"weights": "model"})})
    with pytest.raises(RecipeError, match=r"NaN or Inf in \d+ steps in a row .*checkpoints"):
        train(recipe)


def test_a_tower_locked_at_random_is_said(tmp_path, shards):
    with pytest.warns(VlpWarning, match=r"model\.freeze: the image tower is locked, and starts from random weights"):
        train(tiny_recipe(tmp_path, shards, "objective.cwcl={}", "model.freeze=[visual]", "train.steps=1"))


def test_a_projection_locked_at_random_is_said(tmp_path, shards):
    start = train(tiny_recipe(tmp_path, shards, "train.steps=1", "name=start"))
    with pytest.warns(VlpWarning, match=r"image tower is locked, and 1 of its tensors are random: keep its own width"):
        locked = (f"model.image.weights={start}", "model.embed_dim=24", "model.freeze=[visual]")
        train(tiny_recipe(tmp_path, shards, *locked, "train.steps=1"))


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """A run with QuickGELU and colours of its own."""
    folder = tmp_path_factory.mktemp("earlier")
    write_shards(folder / "shards", num_shards=3, samples_per_shard=7)
    quick = ("model.image.quick_gelu=true", "model.text.quick_gelu=true", "model.mean=[0.1,0.2,0.3]")
    return train(tiny_recipe(folder, str(folder / "shards" / "*.tar"), *quick)), folder


@pytest.mark.parametrize(
    ("place", "label", "step"),
    [
        ("{run}", "ema", 6),
        ("{run}:model", "model", 6),
        ("{run}/checkpoints/step_00000003", "ema", 3),
        ("{run}/checkpoints/step_00000003:model", "model", 3),
        ("{run}/checkpoints/step_00000003/model.safetensors", "model", 3),
    ],
)
def test_a_run_can_start_from_another(tmp_path, shards, earlier, capfd, place, label, step):
    """With its activation and its colours, which the new run keeps when it is loaded without the old one."""
    recipe = tiny_recipe(tmp_path, shards, f"model.weights={place.format(run=earlier[0])}", "train.steps=1")
    run = train(recipe)
    assert f"image tower: 20 of 20 tensors from {recipe.model.weights} ({label}, step {step})" in capfd.readouterr().err
    assert f"({label}, step {step})" in " ".join((run / "recipe.lock.yaml").read_text().split())
    found = load_model_of_run(run).model
    assert found.model_cfg["quick_gelu"] is True
    assert found.preprocess_cfg["mean"] == (0.1, 0.2, 0.3)
    folder = earlier[0] / "checkpoints" / f"step_{step:08d}" / f"{label}.safetensors"
    first = build_model(recipe.model).state_dict()
    assert all(torch.equal(first[name], value) for name, value in load_file(folder).items())
    train(recipe, resume=True)


def test_an_architecture_whose_weights_lie_beside_it_is_not_taken_alone(tmp_path, shards, earlier):
    export_run(earlier[0], tmp_path / "export")
    tower = f"{{type: open_clip, name: {tmp_path / 'export'}}}"
    both = (f"model.image={tower}", f"model.text={tower}", "model.embed_dim=null")
    with pytest.raises(RecipeError, match=r"model\.image\.name: .* has weights.*model\.image\.weights="):
        train(tiny_recipe(tmp_path, shards, "train.steps=1", *both))
    alone = [each.replace("/export}", "/export/open_clip_config.json}") for each in both]
    train(tiny_recipe(tmp_path, shards, "train.steps=1", "name=alone", *alone))
    weights = f"model.weights={tmp_path / 'export'}"
    run = train(tiny_recipe(tmp_path, shards, "train.steps=1", "name=whole", *both, weights))
    assert load_model_of_run(run).model.model_cfg["quick_gelu"] is True


def test_a_run_can_be_loaded_again(tmp_path, shards):
    run = train(tiny_recipe(tmp_path, shards))
    newest = load_model_of_run(run)
    older = load_model_of_run(run / "checkpoints" / "step_00000003", "model")
    assert (newest.checkpoint.step, newest.weights, older.checkpoint.step, older.weights) == (6, "ema", 3, "model")
    with pytest.raises(RecipeError, match=r"no weights 'emma' \(known: ema, model\)"):
        load_model_of_run(run, "emma")


def test_a_cpu_without_bfloat16_is_said(tmp_path, shards, monkeypatch):
    if torch.cuda.is_available() or not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("asks what a CPU can do")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    with pytest.warns(UserWarning, match=r"train\.precision=float32"):
        train(tiny_recipe(tmp_path, shards, "train.steps=1", "train.precision=bfloat16"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("strategies.ema.decay=1.5", "strategies.ema: decay 1.5 must lie in"),
        ("optimizer.learning_rate=-1", "optimizer.learning_rate: -1.0 is out of range"),
        ("optimizer.betas=[0.9, 1.0]", "optimizer.betas"),
        ("optimizer.epsilon=-1", "optimizer.epsilon"),
        ("optimizer.weight_decay=-3", "optimizer.weight_decay"),
        ("schedule.warmup_share=5", "schedule.warmup_share: input should be less than or equal to 1"),
        ("schedule.warmup_steps=-3", "schedule.warmup_steps"),
        ("schedule.final_factor=-0.1", "schedule.final_factor"),
        ("schedule.cooldown_share=-1", "schedule.cooldown_share"),
        ("schedule.cooldown_share=20", "schedule.cooldown_share"),
        ("optimizer.learning_rate=.nan", "optimizer.learning_rate"),
        ("model.init_scale=.inf", "model.init_scale"),
        ("model.init_scale=-3", "model.init_scale: -3.0 must be positive"),
        ("model.max_scale=0", "model.max_scale"),
        ("model.text_buckets=0", "model.text_buckets"),
        ("objective.clip.weight=.nan", "objective"),
    ],
)
def test_numbers_out_of_range_are_refused_by_their_key(tmp_path, shards, setting, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        train(tiny_recipe(tmp_path, shards, "strategies.ema={decay: 0.9}", setting))
    assert not list(tmp_path.glob("runs/*/checkpoints"))
