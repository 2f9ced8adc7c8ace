"""Two models against each other: a run and its averages, copies that moved, towers that are not alike."""

from __future__ import annotations

import json
import math

import pytest
from safetensors.torch import load_file

from tests.shards import write_shards
from tests.tiny import tiny_recipe
from tests.towers.tiny import tiny_export
from vlp.cli import main
from vlp.embeddings.model_agreement import agree
from vlp.ground.types import RecipeError
from vlp.train import train

CARD = "embedded-photos"
TASKS = "[geometry, diagnostics, diagnostics-centred, tolerance]"


def values_of(agreement):
    return {metric.name: metric.value for metric in agreement.metrics}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drift")
    write_shards(folder / "shards", num_shards=3, samples_per_shard=7)
    return train(tiny_recipe(folder, f"{folder}/shards/*.tar", f"evaluation.tasks={TASKS}", "evaluation.every=3"))


def lines_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_and_its_averages_by_hand(run):
    found = values_of(agree(f"{run}:model", f"{run}:ema"))
    checkpoint = run / "checkpoints" / "step_00000006"
    weights, averages = (load_file(checkpoint / f"{label}.safetensors") for label in ("model", "ema"))
    for name, start in (
        ("weight_drift", ""),
        ("weight_drift_image", "core.visual."),
        ("weight_drift_text", "core.text."),
    ):
        chosen = [key for key in weights if key.startswith(start)]
        apart = sum(float((weights[key].double() - averages[key].double()).square().sum()) for key in chosen)
        whole = sum(float(weights[key].double().square().sum()) for key in chosen)
        assert found[name] == pytest.approx(math.sqrt(apart / whole)) and found[name] > 0
    logged = [line for line in lines_of(run) if "gauge/ema/weight_drift" in line]
    assert [line["step"] for line in logged] == [1, 2, 3, 4, 5, 6]
    assert {name: logged[-1][f"gauge/ema/{name}"] for name in found} == pytest.approx(found)


def test_diagnostics_are_gauges_of_a_training(run):
    lines = {line["step"]: line for line in lines_of(run) if "eval/geometry/modality_gap" in line}
    assert list(lines) == [3, 6]
    for line in lines.values():
        assert line["eval/diagnostics/rankme_image"] > 1
        assert 0 <= line["eval/diagnostics/image_to_text_hard_share_top1"] <= 1
        assert abs(line["eval/diagnostics-centred/cka"]) <= 1
        assert "eval/tolerance/tolerance_all_pairs" in line
    assert lines[3]["eval/diagnostics/cka"] != lines[6]["eval/diagnostics/cka"]


def test_models_that_embed_the_same_data(tmp_path, capsys):
    for name, shift in (("plain", 0.0), ("moved", 0.03)):
        tiny_export(tmp_path / name, shift)
    found = values_of(agree(str(tmp_path / "plain"), str(tmp_path / "moved"), CARD))
    assert found["weight_drift"] > 0 and found["moved_images"] > 0
    assert found["cka_images"] < 0.9999 and 0 <= found["same_text"] <= 1
    main(["agree", str(tmp_path / "plain"), str(tmp_path / "plain"), "--data", CARD])
    said = capsys.readouterr().out
    assert "samples in both" in said
    assert ["weight_drift_image", "0.0000"] in [line.split() for line in said.splitlines()]
    assert "-0.0000" not in said


def test_models_of_other_towers_need_data(run, tmp_path):
    tiny_export(tmp_path / "other")
    with pytest.raises(
        RecipeError, match=r"have no weights of equal names and shapes; --data CARD compares what they say"
    ):
        agree(str(run), str(tmp_path / "other"))
    found = values_of(agree(str(run), str(tmp_path / "other"), CARD))
    assert "weight_drift" not in found and found["cka_texts"] <= 1


def test_embeddings_and_a_model_do_not_compare(tmp_path):
    tiny_export(tmp_path / "model")
    main(["embed", str(tmp_path / "model"), CARD, "--to", str(tmp_path / "embedded"), "--format", "npy"])
    embedded = str(tmp_path / "embedded")
    with pytest.raises(RecipeError, match="one holds embeddings and the other does not"):
        agree(embedded, str(tmp_path / "model"))
    with pytest.raises(RecipeError, match="hold embeddings already; leave it out"):
        agree(embedded, embedded, CARD)
    assert values_of(agree(embedded, embedded))["same_text"] == 1
