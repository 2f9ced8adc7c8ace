"""What `vlp merge` writes is the mean of its models, says of what it is made, and loads everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file

from tests.shards import write_shards
from tests.tiny import tiny_recipe
from tests.towers.tiny import tiny_export
from vlp.cli import main
from vlp.evaluate import load
from vlp.export.checksums import changed_files
from vlp.export.run import export_any, export_run
from vlp.ground.types import RecipeError
from vlp.merging.contributors import open_contributor, sha256_of_weights
from vlp.merging.merge import merge
from vlp.merging.same_model import OF_BATCH_NORM
from vlp.recipe.compose import load_recipe
from vlp.recipe.model import build_model
from vlp.train import train


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    return [str(tiny_export(folder / name, shift)) for name, shift in (("a", 0.0), ("b", 0.25), ("c", -0.125))]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_shards(folder / "shards", num_shards=1, samples_per_shard=8)
    return train(tiny_recipe(folder, f"{folder}/shards/*.tar", "train.steps=3"))


def weights_of(name: str) -> dict[str, torch.Tensor]:
    return open_contributor(name)[1].state_dict()


@pytest.mark.parametrize(("shares", "shift"), [(None, 0.125 / 3), ((1.0, 2.0, 1.0), 0.375 / 4)])
def test_the_folder_holds_the_mean(exports, tmp_path, shares, shift):
    merge(exports, tmp_path / "mean", shares=shares)
    first, found = weights_of(exports[0]), weights_of(str(tmp_path / "mean"))
    assert found.keys() == first.keys()
    for name, value in first.items():
        torch.testing.assert_close(found[name], value + shift, rtol=0, atol=5e-7)  # rounding of the sums in the files


def test_a_run_and_its_export_are_the_same_model(run, tmp_path):
    export_run(run, tmp_path / "export")
    report = merge([str(run), str(tmp_path / "export"), f"{run}:ema"], tmp_path / "same")
    expected = load_file(run / "checkpoints" / "step_00000003" / "ema.safetensors")
    found = weights_of(str(tmp_path / "same"))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    sums = {row[3] for row in report.table[1:]}
    assert sums == {sha256_of_weights(expected)}


def test_it_loads_wherever_an_export_does(run, exports, tmp_path):
    folder = tmp_path / "mean"
    merge([str(run), f"{run}:model"], folder)
    core, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    words = open_clip.get_tokenizer(f"local-dir:{folder}")(["a cat"])
    with torch.no_grad():
        theirs = core.eval().encode_text(words, normalize=True)
    torch.testing.assert_close(load(str(folder)).embed_texts(["a cat"]), theirs, rtol=1e-5, atol=1e-6)
    assert changed_files(folder) == []
    recipe = load_recipe(str(run / "recipe.lock.yaml"), [f"model.weights={folder}"])
    started = build_model(recipe.model).state_dict()
    assert all(torch.equal(started[name], value) for name, value in weights_of(str(folder)).items())
    report = export_any(str(folder), tmp_path / "again")
    assert report.formats == ("open_clip", "transformers")
    assert sha256_of_weights(weights_of(str(tmp_path / "again"))) == sha256_of_weights(weights_of(str(folder)))


def test_the_card_and_a_record_say_of_what_it_is_made(run, exports, tmp_path, capsys):
    main(["merge", *exports, "--shares", "1", "1", "2", "--to", str(tmp_path / "mean")])
    printed = capsys.readouterr().out
    card = (tmp_path / "mean" / "README.md").read_text()
    record = json.loads((tmp_path / "mean" / "merge.json").read_text())
    for name, share in zip(exports, (0.25, 0.25, 0.5), strict=True):
        told = sha256_of_weights(weights_of(name))
        assert f"| {share:.4f} | {name} |" in card and told in card
        assert f"{share:.4f}  {name}" in printed
        assert {"model": name, "share": share, "sha256": told}.items() <= next(
            row for row in record["models"] if row["model"] == name
        ).items()
    assert "loads and agrees in open_clip and transformers" in printed


def test_the_card_names_the_data_and_the_start_of_runs(run, tmp_path):
    merge([str(run), f"{run}:model"], tmp_path / "mean")
    card = (tmp_path / "mean" / "README.md").read_text()
    assert "- **tiny**" in card and f"{run} (ema, step 3)" in card
    assert "## Recipe" not in card and "## Weights at the start" not in card


def test_unrelated_models_are_told_from_relatives(exports, tmp_path):
    close, far = (str(tiny_export(tmp_path / name, shift)) for name, shift in (("close", 0.01), ("far", 3.0)))
    near, apart = (merge([exports[0], other], tmp_path / f"with {Path(other).name}") for other in (close, far))
    assert not any("unrelated" in note for note in near.notes)
    assert any("far is as far from the others as unrelated models are" in note for note in apart.notes)


def test_statistics_of_batch_norm_are_said(tmp_path):
    write_shards(tmp_path / "shards", num_shards=1, samples_per_shard=8)
    tower = "model.image={type: timm, name: resnet10t, image_size: 32}"
    run = train(tiny_recipe(tmp_path, f"{tmp_path}/shards/*.tar", tower, "train.steps=1", "objective={clip: {}}"))
    report = merge([str(run), f"{run}:model"], tmp_path / "mean")
    assert OF_BATCH_NORM in report.notes
    assert OF_BATCH_NORM in (tmp_path / "mean" / "README.md").read_text()


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ((1.0,), "--shares: 1 for 3 models: give one for each"),
        ((1.0, 0.0, 1.0), "each must be a positive number"),
        ((1.0, -0.5, 1.0), "each must be a positive number"),
        ((1.0, float("nan"), 1.0), "each must be a positive number"),
    ],
)
def test_shares_that_make_no_mean_are_refused(exports, tmp_path, shares, said):
    with pytest.raises(RecipeError, match=said):
        merge(exports, tmp_path / "mean", shares=shares)


def test_what_cannot_be_merged_is_refused_and_leaves_nothing(run, exports, tmp_path):
    (tmp_path / "taken").mkdir()
    for names, to, said in (
        (exports, "taken", "exists already"),
        (exports[:1], "mean", "two models or more"),
        ([exports[0], f"{exports[1]}@8"], "mean", "is the first 8 coordinates of a model: name the model itself"),
        ([exports[0], str(run)], "mean", r"another architecture \(.*vision_cfg.layers 2 and 1"),
        ([exports[0], str(tmp_path / "nothing")], "mean", "there is no run, export or model folder"),
    ):
        with pytest.raises(RecipeError, match=said):
            merge(names, tmp_path / to)
        assert not (tmp_path / "mean").exists()


def test_flags_of_runs_are_refused_for_exports(exports, tmp_path):
    with pytest.raises(RecipeError, match=r"--weights ema: '.*' is no run, and holds one set of weights"):
        export_any(exports[0], tmp_path / "export", weights="ema")
