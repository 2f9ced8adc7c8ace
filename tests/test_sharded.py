"""Sharded parameters (FSDP2): the same losses, norms, averages and checkpoints as whole ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import DTensor

from tests.processes import run_processes
from tests.shards import write_shards
from tests.small_steps import PLAIN_STEPS, RECIPES, WORDS, batch_for, small_parts, small_recipe
from tests.tiny import tiny_recipe
from tests.towers.tiny import WORDS as BERT_WORDS
from tests.towers.tiny import tiny_bert
from vlp.ground import dist
from vlp.ground.types import RecipeError
from vlp.run.distributing import distribute, is_sharded, mesh_of
from vlp.run.state import full
from vlp.train import one_step, train

LAUNCH = Path(__file__).resolve().parent.parent / "recipes" / "launch" / "fsdp2.yaml"


def launched() -> dict[str, str]:
    """Return what `accelerate launch` puts into the environment of a process for the shipped configuration."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    asked = launch_command_parser().parse_args(["--config_file", str(LAUNCH), "-m", "vlp.train"])
    environment = prepare_multi_gpu_env(_validate_launch_command(asked)[0])
    return {name: value for name, value in environment.items() if name.startswith(("FSDP", "ACCELERATE_USE_FSDP"))}


# ---------------------------------------- a run
def _train_sharded(rank, world_size, folder, shards, environment, more):
    os.environ.update(environment)
    recipe = tiny_recipe(Path(folder) / str(rank), shards, f"runs={folder}/runs", "name=sharded", *OPTIONS, *more)
    run = train(recipe)
    first = lines(run)
    dist.barrier()
    if rank == 0:
        shutil.rmtree(run / "checkpoints" / "step_00000006")
    dist.barrier()
    train(recipe, resume=True)
    return first, lines(run)


LEARNED = (
    "data.views={local: {count: 1}}",
    "heads={local: {type: linear, width: 8, reads: features, views: further}}",
    "objective.local={type: clip_views, head: local}",
    "strategies.dual_teacher={decay: 0.5}",
    "objective.feature_distillation={}",
)
OPTIONS = ("model.image.patch_dropout=0.0", "train.micro_batches=2", "train.clip_gradient_norm=0.5")


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.processes
@pytest.mark.parametrize(
    ("processes", "more"),
    [(2, ()), (4, ("train.shards=2",)), (2, LEARNED)],
    ids=["parts", "copies of parts", "beside what terms learn, with a teacher"],
)
def test_sharded_parameters_train_like_whole_ones(tmp_path, processes, more):
    write_shards(tmp_path / "shards", num_shards=3, samples_per_shard=7)
    shards = f"{tmp_path}/shards/*.tar"
    for rank in range(processes):
        (tmp_path / str(rank)).mkdir()
    own = () if more != LEARNED else LEARNED
    one = train(tiny_recipe(tmp_path, shards, "name=one", *OPTIONS, *own))
    first, resumed = run_processes(_train_sharded, processes, str(tmp_path), shards, launched(), more)[0]
    for whole, sharded in zip(lines(one), first, strict=True):
        for key in ("loss", "scale", "gradient_norm/image", "gradient_norm/text"):
            assert sharded[key] == pytest.approx(whole[key], rel=2e-4), key  # float32 sums in another order, 6 steps
        shares = [sharded[f"memory_gb/{part}"] / whole[f"memory_gb/{part}"] for part in ("weights", "gradients")]
        assert all(0.5 <= share < (0.75 if own else 0.6) for share in shares), shares  # what terms learn is not split
    assert [line["loss"] for line in resumed] == [line["loss"] for line in first]
    from safetensors.torch import load_file

    for label in ("model", "ema", *(["dual_teacher"] if own else [])):
        whole = load_file(one / "checkpoints" / "step_00000006" / f"{label}.safetensors")
        sharded = load_file(tmp_path / "runs" / "sharded" / "checkpoints" / "step_00000006" / f"{label}.safetensors")
        assert whole.keys() == sharded.keys()
        for name, value in whole.items():
            assert torch.allclose(value, sharded[name], atol=2e-4), name


def test_copies_of_unequal_size_are_refused(monkeypatch):
    monkeypatch.setattr(dist, "world_size", lambda: 6)
    with pytest.raises(RecipeError, match=r"train\.shards: 6 processes cannot hold whole copies of 4 parts each"):
        mesh_of("cpu", 4)


def test_shards_of_a_launch_that_shards_nothing_are_refused(monkeypatch):
    recipe = small_recipe("vitb32_clip", "train.shards=2", "train.precision=float32")
    small_parts(monkeypatch, recipe)  # one process holds everything, whatever a recipe says
    monkeypatch.setattr(dist, "world_size", lambda *_: 2)
    with pytest.raises(RecipeError, match=r"train\.shards: the launch shards nothing"):
        distribute(None, None, recipe, sharded=False)


# ---------------------------------------- towers of every source
def vit(width: int) -> dict:
    return {"type": "vit", "layers": 1, "width": width, "head_width": 64, "patch_size": 16, "image_size": 32}


def transformer(width: int) -> dict:
    heads = {"heads": width // 64, "vocab_size": WORDS + 1}
    return {"type": "transformer", "layers": 1, "width": width, "context_length": 16, **heads}


SMALL = {"image": vit(64), "text": transformer(64)}
UNEVEN = {"image": vit(64), "text": {**transformer(64), "context_length": 15}}
SINGLE = "train.precision=float32"
DISTILLED = "objective.feature_distillation={weight: 10}"
LATE = tuple(f"objective.{term}.weight=0.5" for term in ("self_distillation", "masked_prediction"))
CASES = {
    "1024 wide": ({"image": vit(1024), "text": transformer(768)}, "vitb32_clip", SINGLE),
    "bfloat16": (SMALL, "vitb32_clip", "train.precision=bfloat16"),
    "captions": (SMALL, "vitb32_coca", SINGLE),
    "documents": (SMALL, "cosmo_embedded", SINGLE, "train.compile=true"),
    "locked": (SMALL, "lit_cwcl", SINGLE),
    "small images first": ({**SMALL, "image": {**vit(64), "image_size": 64}}, "vitb32_clip", SINGLE,
                           "strategies.small_first={image_size: 32, steps: 1}"),
    "prompts": ({**SMALL, "text": transformer(64) | {"vocab_size": 49408}}, "finetune_prompts", SINGLE,
                "train.micro_batches=1"),
    "bias": (UNEVEN, "vitb16_siglip", SINGLE),
    "teacher": (UNEVEN, "vitb32_clip", SINGLE, "strategies.dual_teacher={decay: 0.5}", DISTILLED),
    "FARE": (UNEVEN, "finetune_fare", SINGLE, "train.micro_batches=2", "strategies.fare.steps=2"),
    "reference": (UNEVEN, "vitb32_cwcl", SINGLE, "train.compile=true"),
    "maps": (SMALL, "vitb32_pixpro", SINGLE, "train.micro_batches=1"),
    "small crops": (UNEVEN, "vitb16_siglip2", SINGLE, "train.micro_batches=1", *LATE),
    "recomputed": (SMALL, "vitb32_clip", SINGLE, "model.grad_checkpointing=true"),
    "products kept": (SMALL, "vitb32_clip", SINGLE, "model.grad_checkpointing=selective", "train.compile=true",
                      "train.micro_batches=2"),
    "compiled": (SMALL, "vitb32_clip", SINGLE, "train.compile=true"),
    "timm transformer": ({**SMALL, "image": {"type": "timm", "name": "test_vit"}}, "vitb32_clip", SINGLE),
    "timm convolutions": ({**SMALL, "image": {"type": "timm", "name": "test_convnext"}}, "vitb32_clip", SINGLE),
    "transformers": ({**SMALL, "text": {"type": "transformers", "name": "BERT", "context_length": 16}}, "vitb32_clip",
                     SINGLE),
}  # fmt: skip
PAIRS, STEPS = 8, 2
TOLERANCE = {"bfloat16": 3e-2}  # layer norms round their gains too


Weights = dict[str, torch.Tensor]


def steps_of(case: str, bert: str) -> tuple[list[dict[str, float]], tuple[Weights, Weights], set[str]]:
    """Return reports of two steps of this process's share, weights before and after, and how the parameters lie."""
    towers, name, *overrides = CASES[case]
    towers = {side: {**tower, "name": bert} if tower.get("name") == "BERT" else tower for side, tower in towers.items()}
    words = len(BERT_WORDS) - 1 if case == "transformers" else WORDS
    recipe = small_recipe(name, *overrides, f"train.batch_size={PAIRS}", "train.threads=1", **towers)
    with pytest.MonkeyPatch.context() as patch:
        compiled = torch.compile
        patch.setattr(torch, "compile", lambda function, dynamic: compiled(function, dynamic=dynamic, backend="eager"))
        parts = small_parts(patch, recipe)
        for module in parts.towers.modules():
            if isinstance(module, torch.nn.Dropout):  # two processes draw other numbers than one
                module.p = 0.0
        share = PAIRS // dist.world_size()
        before = {name: value.clone() for name, value in full(parts.towers.state_dict()).items()}
        reports = []
        for step in range(STEPS):
            batch = batch_for(recipe, PAIRS, step, words).narrow(share * dist.rank(), share)
            report, norms = one_step(parts, batch, step)
            reports.append({key: float(value) for key, value in (report | norms).items()})
    kinds = {type(value) for value in (parts.model, *parts.model.parameters())}
    return reports, (before, full(parts.towers.state_dict())), {kind.__name__ for kind in kinds}


def _steps_sharded(rank, world_size, bert, environment):
    os.environ.update(environment)
    return {case: steps_of(case, bert) for case in CASES}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def sharded(bert):
    return run_processes(_steps_sharded, 2, bert, launched())


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.parametrize("case", CASES)
def test_shards_of_any_tower_compute_what_whole_parameters_do(sharded, bert, case):
    reports, (before, weights), _ = steps_of(case, bert)
    tolerance = TOLERANCE.get(case, 1e-4)  # sums in another order
    for found, (_, found_weights), kinds in (rank[case] for rank in sharded):
        assert kinds == {"FSDPDualEncoder", DTensor.__name__}
        for one, other in zip(reports, found, strict=True):
            assert other == pytest.approx(one, rel=tolerance, abs=1e-5)
        assert found_weights.keys() == weights.keys()
        if case in TOLERANCE:  # Adam makes a whole step of a gradient that is all rounding
            moved = mean(abs(value - before[name]) for name, value in weights.items())
            apart = mean(abs(found_weights[name] - value) for name, value in weights.items())
            assert apart < 0.1 * moved  # 0.015 where this was written
            continue
        for name, value in weights.items():
            torch.testing.assert_close(found_weights[name], value, atol=2e-5, rtol=tolerance)


def mean(tensors: Iterable[torch.Tensor]) -> float:
    return float(torch.cat([value.flatten() for value in tensors]).mean())


# ---------------------------------------- every recipe
LEFT_OUT = (
    "vitb32_drrho",
    "vitb32_growing_batches",
)  # need the same teacher on all processes, and batches of their sizes


def losses_of(name: str) -> list[float]:
    """Return the losses of two steps of a shipped recipe, of this process's share."""
    recipe = small_recipe(name, *PLAIN_STEPS, SINGLE)
    with pytest.MonkeyPatch.context() as patch:
        parts = small_parts(patch, recipe)
        share, found = PAIRS // dist.world_size(), []
        for step in range(STEPS):
            report, _ = one_step(parts, batch_for(recipe, PAIRS, step).narrow(share * dist.rank(), share), step)
            found.append(float(report["loss"]))
    return found


def _every_recipe(rank, world_size, environment):
    os.environ.update(environment)
    return {name: losses_of(name) for name in RECIPES if name not in LEFT_OUT}


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.filterwarnings("ignore:isogclr")
def test_every_recipe_loses_on_shards_what_it_loses_on_copies():
    sharded, copies = (run_processes(_every_recipe, 2, environment)[0] for environment in (launched(), {}))
    for name, found in sharded.items():
        assert found == pytest.approx(copies[name], rel=1e-4), name


# ---------------------------------------- what a launch may ask for
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"FSDP_VERSION": "1"}, "fsdp_version"),
        ({"FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
        ({"FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, "fsdp_cpu_ram_efficient_loading"),
        ({"FSDP_VERSION": "2", "FSDP_ACTIVATION_CHECKPOINTING": "true"}, "model.grad_checkpointing"),
    ],
)
def test_settings_of_a_launch_that_would_do_nothing_are_refused(monkeypatch, environment, message):
    for name, value in ({"ACCELERATE_USE_FSDP": "true"} | environment).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match=message):
        is_sharded()


def test_one_process_shards_nothing(monkeypatch):
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}.items():
        monkeypatch.setenv(name, value)
    assert not is_sharded()


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices: one process each")
def test_sharded_parameters_train_on_gpus(tmp_path):
    write_shards(tmp_path / "shards", num_shards=3, samples_per_shard=7)
    recipe = tiny_recipe(tmp_path, f"{tmp_path}/shards/*.tar")
    subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(LAUNCH), "--num_processes", "2",
         "-m", "vlp.train", "--config", str(tmp_path / "recipe.yaml")],
        check=True,
    )  # fmt: skip
    assert len(lines(recipe.folder)) == 6
