"""Sharded parameters (FSDP2): the same losses, norms, averages and checkpoints as whole ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.processes import run_processes
from tests.shards import write_shards
from tests.tiny import tiny_recipe
from vlp import assemble, dist
from vlp.train import train


def _shard(accelerator, towers, optimizer):
    """Split parameters as Accelerate's FSDP2 does on GPUs; on the CPU it does not offer to."""
    from torch.distributed.fsdp import fully_shard

    before = dict(towers.named_parameters())
    for block in (*towers.core.visual.transformer.resblocks, *towers.core.text.transformer.resblocks):
        fully_shard(block)
    fully_shard(towers)
    after = {id(before[name]): value for name, value in towers.named_parameters()}
    for group in optimizer.param_groups:
        group["params"] = [after[id(parameter)] for parameter in group["params"]]
    return towers, optimizer


def _train_sharded(rank, world_size, folder, shards):
    assemble.distribute = _shard
    recipe = tiny_recipe(Path(folder) / str(rank), shards, f"runs={folder}/runs", "name=sharded", *OPTIONS)
    run = train(recipe)
    first = lines(run)
    dist.barrier()
    if rank == 0:
        shutil.rmtree(run / "checkpoints" / "step_00000006")
    dist.barrier()
    train(recipe, resume=True)
    return first, lines(run)


OPTIONS = ("model.image.patch_dropout=0.0", "train.micro_batches=2", "train.clip_gradient_norm=0.5")


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.processes
def test_sharded_parameters_train_like_whole_ones(tmp_path):
    write_shards(tmp_path / "shards", num_shards=3, samples_per_shard=7)
    shards = f"{tmp_path}/shards/*.tar"
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    one = train(tiny_recipe(tmp_path, shards, "name=one", *OPTIONS))
    first, resumed = run_processes(_train_sharded, 2, str(tmp_path), shards)[0]
    for whole, sharded in zip(lines(one), first, strict=True):
        for key in ("loss", "scale", "gradient_norm/image", "gradient_norm/text"):
            assert sharded[key] == pytest.approx(whole[key], rel=2e-4), key  # float32 sums in another order, 6 steps
    assert [line["loss"] for line in resumed] == [line["loss"] for line in first]
    from safetensors.torch import load_file

    for label in ("model", "ema"):
        whole = load_file(one / "checkpoints" / "step_00000006" / f"{label}.safetensors")
        sharded = load_file(tmp_path / "runs" / "sharded" / "checkpoints" / "step_00000006" / f"{label}.safetensors")
        assert whole.keys() == sharded.keys()
        for name, value in whole.items():
            assert torch.allclose(value, sharded[name], atol=2e-4), name


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices for Accelerate's FSDP2")
def test_accelerate_shards_on_gpus(tmp_path):
    import subprocess
    import sys

    write_shards(tmp_path / "shards", num_shards=3, samples_per_shard=7)
    recipe = tiny_recipe(tmp_path, f"{tmp_path}/shards/*.tar")
    config = Path(__file__).resolve().parent.parent / "recipes" / "launch" / "fsdp2.yaml"
    subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "--num_processes", "2",
         "-m", "vlp.train", "--config", str(tmp_path / "recipe.yaml")],
        check=True,
    )  # fmt: skip
    assert len(lines(recipe.folder)) == 6
