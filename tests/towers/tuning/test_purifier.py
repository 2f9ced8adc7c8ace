"""Only the auto-encoder trains; runs resume with it, evaluations see it, and exports have it beside the model."""

import json

import open_clip
import pytest
import torch

from tests.small_steps import small_recipe
from tests.strategies.runs import STEADY, assert_resumes, losses_of, recipe_of
from tests.towers.tiny import tiny_batch, tiny_model
from vlp.export import export_model
from vlp.ground.types import RecipeError, VlpWarning
from vlp.plan.counts import count
from vlp.run.trained_model import load_model_of_run
from vlp.strategies.fare import Fare
from vlp.towers.load import load_any_model
from vlp.towers.pixel_autoencoder import squared_change
from vlp.train import train

OPTIONS = (
    "model.tune.type=purifier",
    "model.tune.width=4",
    "model.learn_scale=false",
    "objective={clip: {weight: 0.0}, uniformity: null, feature_distillation: {}}",
    "strategies={ema: null, fare: {steps: 2}}",
    "evaluation.weights=model",
    "optimizer.learning_rate=1e-2",
    STEADY,
)
CONTRAST = ("objective={feature_distillation: null, feature_contrast: {}}", "strategies.fare.attack=contrast")
NEAR = (*OPTIONS, "objective.pixel_change={weight: 1.0}")
pytestmark = pytest.mark.filterwarnings("ignore:model.freeze")  # small towers have no weights


def test_nothing_but_the_autoencoder_trains():
    model = tiny_model(tune={"type": "purifier", "width": 4})
    trained = {name for name, value in model.named_parameters() if value.requires_grad and "logit" not in name}
    assert trained
    assert all(name.startswith("core.visual.purifier.") for name in trained)
    model.train()
    assert model.core.visual.purifier.training
    assert not model.core.visual.transformer.training
    assert not model.core.text.training


def test_a_run_changes_the_autoencoder_alone_and_its_model_is_loaded_with_it(tmp_path):
    run = train(recipe_of(tmp_path, *OPTIONS))
    before, after = (load_model_of_run(run / "checkpoints" / f"step_{step:08d}").model.state_dict() for step in (3, 6))
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("core.visual.purifier.") for name in changed)


@pytest.mark.parametrize(
    "options", [OPTIONS, NEAR, (*OPTIONS, *CONTRAST)], ids=["alone", "near the image", "by contrast"]
)
def test_resume_equals_no_interruption(tmp_path, options):
    assert_resumes(recipe_of(tmp_path, *options))


def test_clean_images_are_held_where_they_are_and_not_changed_ones(tmp_path, monkeypatch):
    seen, original = [], Fare.after_forward

    def look(strategy, images, batch, embeddings):
        tower, std = strategy.model.core.visual, strategy.model.preprocess_cfg["std"]
        seen.append((embeddings.pixel_changes.detach(), squared_change(tower, images[0], std).detach()))
        return original(strategy, images, batch, embeddings)

    monkeypatch.setattr(Fare, "after_forward", look)
    train(recipe_of(tmp_path, *NEAR, "train.micro_batches=1"))
    assert len(seen) == 6
    assert all(torch.equal(told, expected) for told, expected in seen)
    assert not seen[0][0].any() and seen[-1][0].all()


def test_the_heavier_the_term_the_smaller_the_change(tmp_path):
    changes = {}
    for weight in (0.0, 1.0):
        options = (f"objective.pixel_change.weight={weight}", "train.steps=20", "optimizer.learning_rate=3e-3")
        run = train(recipe_of(tmp_path / str(weight), *NEAR, *options))
        changes[weight] = losses_of(run)[-1]["loss/pixel_change"]
    assert 0 < changes[1.0] < 0.5 * changes[0.0]


def test_micro_batches_change_nothing(tmp_path):
    whole, parts = (
        losses_of(train(recipe_of(tmp_path / str(number), *NEAR, f"train.micro_batches={number}"))) for number in (1, 2)
    )
    for one, two in zip(whole, parts, strict=True):
        assert two == pytest.approx(one, rel=1e-3)


def test_what_cannot_be_held_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"pixel_change: needs an auto-encoder .*model.tune=\{type: purifier\}"):
        train(recipe_of(tmp_path, "objective.pixel_change={}"))
    twice = "strategies={ema: null, adversarial_images: {}}"
    objective = "objective={clip: {}, uniformity: null, pixel_change: {}}"
    with pytest.raises(RecipeError, match=r"count twice: leave objective\.pixel_change or the adversary out"):
        train(recipe_of(tmp_path, *OPTIONS, twice, objective))


def test_a_pair_of_onnx_files_has_the_autoencoder_inside(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = tiny_model(tune={"type": "purifier", "width": 4})
    torch.nn.init.normal_(model.core.visual.purifier.leave.weight, std=0.1)
    for number, formats in enumerate([("onnx",), ("open_clip", "onnx")]):
        out = tmp_path / str(number)
        export_model(model, out, name="out", recipe_text="", results=[], data_note="", formats=formats)
        pixels = tiny_batch(model)[0][0]
        session = runtime.InferenceSession(out / "image.onnx")
        (features,) = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})
        found = torch.nn.functional.normalize(torch.from_numpy(features), dim=1)
        torch.testing.assert_close(found, model.eval().embed_images(pixels).detach(), atol=1e-5, rtol=1e-4)
        card = (out / "README.md").read_text()
        assert "`image.onnx` has the auto-encoder inside" in card
        assert ("purify(" in card) == (out / "purifier.pt2").exists() == ("open_clip" in formats)


def test_a_plan_counts_the_pass_on_clean_images():
    without, beside = (
        count(small_recipe("finetune_purifier", "train.precision=float32", f"objective.pixel_change={term}"), tokens=7)
        for term in ("null", "{}")
    )
    assert without.clean.operations == 0 < beside.clean.operations
    assert 0 < beside.clean.saved < beside.image.saved
    assert beside.image == without.image


def test_an_export_is_the_frozen_model_and_a_program_in_front_of_it(tmp_path):
    model = tiny_model(tune={"type": "purifier", "width": 4})
    torch.nn.init.normal_(model.core.visual.purifier.leave.weight, std=0.1)
    export_model(model, tmp_path / "out", name="out", recipe_text="", results=[], data_note="", formats=("open_clip",))
    parity = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert parity["purifier"]["max_abs"] < 1e-5
    assert "purify(preprocess(picture)[None])" in (tmp_path / "out" / "README.md").read_text()
    with pytest.warns(VlpWarning, match=r"without purifier\.pt2, which was trained .* --formats onnx"):
        load_any_model(str(tmp_path / "out"))
    core, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'out'}")
    purify = torch.export.load(tmp_path / "out" / "purifier.pt2").module()
    pixels = tiny_batch(model)[0][0]
    with torch.no_grad():
        found = core.eval().encode_image(purify(pixels), normalize=True)
        torch.testing.assert_close(found, model.eval().embed_images(pixels), atol=1e-5, rtol=1e-4)
        assert not torch.allclose(core.encode_image(pixels, normalize=True), found, atol=1e-3)
