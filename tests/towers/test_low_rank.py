"""Adapters within a training: steps change them alone, resume is bit for bit, and a run's model is the merged one."""

from __future__ import annotations

import torch

from tests.towers.tuning.test_lora import embed
from vlp.recipe.compose import load_recipe
from vlp.recipe.model import build_model
from vlp.run.checkpoint import latest
from vlp.run.trained_model import load_model_of_run
from vlp.towers.low_rank import adapters_of, merged
from vlp.train import train

SMALL = (
    "data.train=embedded",
    "data.workers=0",
    "model.embed_dim=16",
    "model.image={type: vit, layers: 1, width: 32, head_width: 16, patch_size: 16, image_size: 32}",
    "model.text={type: transformer, layers: 1, width: 32, heads: 2, context_length: 16}",
    "model.tune=lora",
    "train={batch_size: 8, threads: 1, precision: float32}",
    "schedule={shape: constant, warmup_steps: 0}",
)


def test_a_run_trains_its_adapters_alone_and_resumes_bit_for_bit(tmp_path):
    runs = {}
    for name, lengths in (("whole", (4,)), ("parts", (2, 4))):
        for steps in lengths:
            settings = (*SMALL, f"name={name}", f"runs={tmp_path}", f"train.steps={steps}")
            runs[name] = train(load_recipe("base", settings), resume=True, allow_changes=True)
    whole, parts = (latest(run).weights("model") for run in runs.values())
    assert all(torch.equal(parts[name], value) for name, value in whole.items())
    still = (*SMALL, "name=start", f"runs={tmp_path}", "train.steps=1", "optimizer.learning_rate=0")
    start = train(load_recipe("base", still))
    changed = {name for name, value in latest(start).weights("model").items() if not torch.equal(value, whole[name])}
    assert changed
    assert {name.split(".lora.")[-1] for name in changed} <= {"a", "b", "core.logit_scale"}

    model = load_model_of_run(runs["whole"]).model
    assert not list(adapters_of(model))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in merged(whole).items())
    again = load_recipe("base", ("name=a", f"model.weights={runs['whole']}", "train.steps=1", "data.train=embedded"))
    assert again.model.tune.type == "full"
    assert torch.equal(embed(build_model(again.model)), embed(model))
