"""How far adapted towers have gone: by hand, in each evaluation's record, and the same after a resume."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch

from tests.evaluators.sets import write_captions
from tests.strategies.runs import recipe_of
from tests.towers.tiny import tiny_model
from vlp.run.way_from_start import WayFromStart
from vlp.towers.low_rank import adapters_of
from vlp.train import train

TUNINGS = {
    "lora": {"image", "text"},
    "{type: last_blocks, image: 1, text: 1}": {"image", "text"},
    "{type: prompts, text: 2, image: 0}": {"text"},
}


def test_an_adapter_counts_as_what_it_adds_to_its_matrix():
    """|share b a| over all matrices, as a share of the tower's norm, vectors and locked weights included."""
    model = tiny_model(tune="lora")
    for _, _, adapter in adapters_of(model):
        torch.nn.init.zeros_(adapter.b)
    way = WayFromStart(model)
    assert way(model.state_dict()) == {"image": 0, "text": 0}
    added = 0.0
    for name, _, adapter in adapters_of(model):
        torch.nn.init.normal_(adapter.b, std=0.1)
        if name.startswith("core.visual."):
            added += float((adapter.share * adapter.b @ adapter.a).detach().double().square().sum())
    held = {name: value for name, value in model.state_dict().items() if name.startswith("core.visual.")}
    norm = sum(float(value.double().square().sum()) for name, value in held.items() if ".lora." not in name)
    assert way(model.state_dict())["image"] == pytest.approx(math.sqrt(added / norm), rel=1e-5)


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.filterwarnings("ignore:model.freeze")  # the tower without prompts is a small random one here
def test_records_of_a_run_say_it_and_a_resumed_one_says_the_same(tmp_path, tuning):
    write_captions(tmp_path / "set")
    (tmp_path / "noise.yaml").write_text(
        "version: 1\nevaluator: retrieval\nmain_metric: mean_recall@5\n"
        f"data: {{root: {tmp_path / 'set'}, samples: 40}}\n"
    )
    tasks = f"evaluation={{tasks: [{tmp_path / 'noise.yaml'}], every: 2, before: true, weights: model}}"
    settings = ("train.steps=4", "checkpoint={every: 2, keep: 9}", "model.image.patch_dropout=0", tasks)
    recipe = recipe_of(tmp_path, *settings, f"model.tune={tuning}")

    def moved() -> list[dict[str, float]]:
        found = sorted(recipe.folder.glob("evaluations/step_*/noise.json"))
        return [json.loads(path.read_text()).get("moved", {}) for path in found]

    train(recipe)
    start, middle, end = moved()
    assert start.keys() == TUNINGS[tuning] and set(start.values()) == {0.0}
    assert all(0 < middle[tower] < end[tower] for tower in start)
    lines = [json.loads(line) for line in (recipe.folder / "metrics.jsonl").read_text().splitlines()]
    logged = [line["moved/text"] for line in lines if "moved/text" in line]
    assert logged == [each["text"] for each in (start, middle, end)]
    shutil.rmtree(recipe.folder / "checkpoints" / "step_00000004")
    shutil.rmtree(recipe.folder / "evaluations" / "step_00000004")
    train(recipe, resume=True)
    assert moved() == [start, middle, end]
