"""A run whose terms have widths: scored at each, and exported at one as a model that other libraries load."""

from __future__ import annotations

import copy
import json

import open_clip
import pytest
import torch
from torch.nn import functional

from tests.evaluators.sets import write_classes
from tests.shards import write_shards
from tests.tiny import tiny_recipe
from tests.towers.tiny import CAPTIONS, tiny_images
from vlp.evaluate import evaluate_models, load
from vlp.export.run import export_any, export_run, find_results
from vlp.ground.types import RecipeError
from vlp.run.subject import find_subject
from vlp.train import train

WIDTHS = (4, 8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("widths")
    write_shards(folder / "shards", num_shards=2, samples_per_shard=8)
    train(tiny_recipe(folder, f"{folder}/shards/*.tar", "objective.clip.widths=[4, 8]", "train.steps=3"))
    return folder / "runs" / "tiny"


def embeddings_of(encoder):
    return encoder.embed_images(tiny_images()), encoder.embed_texts(CAPTIONS)


def test_the_log_has_a_line_for_each_width(run):
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"loss/clip", "loss/clip@4", "loss/clip@8", "loss/uniformity"} < line.keys()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_name_with_a_width_is_the_first_coordinates(run, width):
    subject = find_subject(f"{run}@{width}")
    assert (subject.name, subject.folder.name) == (f"tiny@{width}", f"width_{width}")
    for ours, whole in zip(embeddings_of(subject.encoder("cpu")), embeddings_of(load(str(run))), strict=True):
        torch.testing.assert_close(ours, functional.normalize(whole[:, :width], dim=1))


def test_widths_are_told_apart(run):
    found = [find_subject(f"{run}{at}").tensors() for at in ("", "@4", "@8")]
    assert len({float(sum(value.double().sum() for value in tensors)) for tensors in found}) == 3


def test_a_width_that_the_model_has_not_is_refused(run):
    with pytest.raises(RecipeError, match="@17: the model's embeddings have 16 coordinates"):
        load(f"{run}@17").embed_texts(["a cat"])


def test_an_encoder_of_a_width_can_be_copied(run):
    encoder = copy.copy(find_subject(f"{run}@4").encoder("cpu"))
    assert encoder.embed_texts(["a cat"]).shape == (1, 4) and encoder.scale > 1


def test_a_folder_may_have_such_a_name(run, tmp_path):
    (tmp_path / "model@4").symlink_to(run)
    assert find_subject(str(tmp_path / "model@4")).width is None


@pytest.mark.parametrize("width", WIDTHS)
def test_the_export_is_that_model_everywhere(run, tmp_path, width):
    export_any(f"{run}@{width}", tmp_path / "export")
    expected = embeddings_of(find_subject(f"{run}@{width}").encoder("cpu"))
    for ours, theirs in zip(embeddings_of(load(str(tmp_path / "export"))), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'export'}")
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'export'}")(CAPTIONS)
    with torch.no_grad():
        found = model.eval().encode_text(tokens, normalize=True)
    torch.testing.assert_close(found, expected[1], rtol=1e-4, atol=1e-5)
    assert f"tiny-{width}" in (tmp_path / "export" / "README.md").read_text()


@pytest.mark.parametrize("width", [0, 16, 20])
def test_an_export_of_another_width_is_refused(run, tmp_path, width):
    with pytest.raises(RecipeError, match=f"--width: {width} is not within the 16 coordinates"):
        export_run(run, tmp_path / "export", width=width)
    with pytest.raises(RecipeError, match=r"--width 4: .* tells a width as well"):
        export_any(f"{run}@{width}", tmp_path / "export", width=4)


def test_scores_of_a_width_stand_apart_and_go_into_its_export(run, tmp_path, capsys):
    write_classes(tmp_path / "set")
    text = f"version: 1\nevaluator: zero_shot\nmain_metric: acc1\ndata: {{root: {tmp_path / 'set'}}}\n"
    (tmp_path / "classes.yaml").write_text(text)
    assert evaluate_models([str(run), f"{run}@4"], [str(tmp_path / "classes.yaml")]) == 0
    assert "tiny@4" in capsys.readouterr().out
    step = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    (whole,), (cut,) = find_results(run, step, "ema"), find_results(run, step, "ema", 4)
    assert (whole["model"], cut["model"]) == ("tiny", "tiny@4")
    export_run(run, tmp_path / "export", width=4)
    assert cut["task"] in (tmp_path / "export" / "README.md").read_text()
