"""Some steps of a recipe are timed, and a forecast can be made of them."""

from __future__ import annotations

import json

import pytest

from tests.shards import write_shards
from tests.tiny import tiny_recipe
from vlp.cli import main
from vlp.commands.planning import read_calibration
from vlp.commands.timed_steps import PARTS, bench
from vlp.ground.types import RecipeError
from vlp.plan.counts import count
from vlp.plan.forecast import Assumptions
from vlp.recipe.compose import load_recipe, lock_text


@pytest.fixture
def file(tmp_path):
    write_shards(tmp_path / "shards", num_shards=3, samples_per_shard=7)
    recipe = tiny_recipe(tmp_path, f"{tmp_path}/shards/*.tar", "model.image.patch_dropout=0.0", "data.workers=1")
    path = tmp_path / "recipe.yaml"
    path.write_text(lock_text(recipe))
    return path


def test_what_is_measured_is_complete_and_leaves_nothing_behind(file, tmp_path):
    found = bench(str(file), steps=3)
    assert len(found.seconds) == len(found.waited) == 3
    assert list(found.parts) == list(PARTS) and all(seconds > 0 for seconds in found.parts.values())
    assert 0 < found.utilisation < 1 and 0 <= found.wait < 1
    assert found.device.matrix > 0 and found.device.memory > 1e9
    assert not (tmp_path / "runs").exists()


def test_its_operations_are_those_that_were_counted(file):
    recipe = load_recipe(str(file))
    found = bench(str(file), steps=1)
    context = count(recipe, tokens=99)
    shortest = count(recipe, tokens=2)
    batch = recipe.train.batch_size
    least, most = (batch * (each.image.operations + each.text.operations) for each in (shortest, context))
    loss = 6 * 2 * batch * batch * context.embed_dim
    assert least <= found.operations <= most + loss


def test_a_plan_is_made_of_what_was_measured(file, tmp_path, capsys):
    calibration = tmp_path / "machine.json"
    main(["bench", "train", str(file), "--steps", "2", "--to", str(calibration)])
    said = capsys.readouterr().out
    assert "pairs/s" in said and "MFU" in said and str(calibration) in said
    known = json.loads(calibration.read_text())
    main(["plan", str(file), "--calibration", str(calibration), "--pairs", "1e6", "--price", "2"])
    said = capsys.readouterr().out
    assert known["device"]["name"] in said and f"measured: {known['where']}" in said
    assert "1,000,000 pairs" in said and "for an hour of a device" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--calibration", "absent.json"], "--calibration: absent.json"),
        (["--device", "H1000"], "'H1000' is not known"),
        (["--gpus", "0"], "--gpus: 0"),
        (["--share", "1.5"], "--share: 1.5"),
    ],
)
def test_mistakes_end_in_one_line(file, words, message):
    with pytest.raises(SystemExit) as ended:
        main(["plan", str(file), *words])
    assert message in str(ended.value)


DEVICE = '{"name": "x", "matrix": 1, "tf32": 1, "float32": 1, "memory": 1, "bandwidth": 1, "link": 1}'
CALIBRATION = f'{{"where": "here", "share": 0.5, "decode": null, "device": {DEVICE}}}'


@pytest.mark.parametrize(
    "text",
    [
        '{"share": "fast"}',
        "[]",
        CALIBRATION.replace('"tf32": 1', '"tf32": 0'),
        CALIBRATION.replace('"tf32": 1', '"tf32": "much"'),
        CALIBRATION.replace('"tf32": 1, ', ""),
        CALIBRATION.replace('"tf32": 1', '"tf32": 1, "other": 2'),
        CALIBRATION.replace("null", '"slow"'),
        "[" * 100_000,
    ],
)
def test_a_damaged_calibration_names_the_way_out(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(CALIBRATION)
    assert read_calibration(path, Assumptions())[1].name == "x"
    path.write_text(text)
    with pytest.raises(RecipeError, match="vlp bench train RECIPE --to FILE"):
        read_calibration(path, Assumptions())
