"""What weights mean: activation and preprocessing, for every tag of open_clip's registry, and wherever weights lie."""

import json
import shutil

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from tests.towers.tiny import TEXT, VIT, tiny_images, tiny_model
from vlp.export import export_model
from vlp.ground.types import RecipeError
from vlp.towers.base import image_towers, text_towers
from vlp.towers.build import join
from vlp.towers.encoder import TowerEncoder
from vlp.towers.load import load_model
from vlp.towers.meaning import PREPROCESS_KEYS, meaning_of_file, meaning_of_tag
from vlp.towers.sources import WeightFile, dual_encoders, read_config, trained_with

BUILDABLE = set(dual_encoders())
REGISTRY = [(name, tag) for name, tag in open_clip.list_pretrained() if name in BUILDABLE]
# open_clip's own configuration of this model is right where its registry is silent
SILENT = {("roberta-ViT-B-32", "laion2b_s12b_b32k")}


@pytest.mark.parametrize(("name", "tag"), REGISTRY, ids=lambda value: value)
def test_the_model_is_built_as_the_tag_was_trained(name, tag, tmp_path):
    entry = open_clip.pretrained.get_pretrained_cfg(name, tag)
    meaning = meaning_of_tag(name, tag)
    file = WeightFile(tmp_path, meaning, name)
    image = image_towers.build("open_clip", {"name": name}).fragment()
    text = text_towers.build("open_clip", {"name": name}).fragment()
    built = join(image, text, None, None, trained_with({"": file}))
    has_blocks = image.usual_quick_gelu is not None or text.usual_quick_gelu is not None
    expected = entry.get("quick_gelu", False) or (name, tag) in SILENT
    assert built["quick_gelu"] is (expected and has_blocks)
    assert {key: meaning.preprocess.get(key) for key in PREPROCESS_KEYS} == {
        key: entry.get(key) for key in PREPROCESS_KEYS
    }


def test_the_registry_has_tags_that_its_configurations_contradict():
    """Otherwise the test above would say nothing."""
    plain = [open_clip.get_model_config(name).get("quick_gelu", False) for name, _ in REGISTRY]
    tags = [open_clip.pretrained.get_pretrained_cfg(name, tag).get("quick_gelu", False) for name, tag in REGISTRY]
    assert sum(a != b for a, b in zip(plain, tags, strict=True)) > 20


def test_a_file_beside_a_name_means_what_all_tags_of_the_name_say(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"whatever")
    assert meaning_of_file(path, "ViT-L-14-336").quick_gelu is True
    assert meaning_of_file(path, "ViT-B-32").quick_gelu is None  # they disagree
    assert meaning_of_file(path, "ViT-B-32-256").quick_gelu is False
    assert meaning_of_file(path, "ViT-B-16-SigLIP").preprocess["mean"] == (0.5, 0.5, 0.5)
    assert "mean" not in meaning_of_file(path, "ViT-L-14").preprocess
    assert meaning_of_file(path, None).quick_gelu is None


def test_an_archive_of_torchscript_is_openais(tmp_path):
    model = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
    model.save(tmp_path / "ViT-B-32.pt")
    assert meaning_of_file(tmp_path / "ViT-B-32.pt", None).quick_gelu is True
    torch.save({"a.b": torch.ones(2)}, tmp_path / "plain.pt")
    assert meaning_of_file(tmp_path / "plain.pt", None).quick_gelu is None


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """An export of a model with QuickGELU and colours of its own."""
    words = {"name": "tiny", "recipe_text": "name: tiny", "results": [], "data_note": "none"}
    model = tiny_model(
        image={**VIT, "quick_gelu": True}, text={**TEXT, "quick_gelu": True}, mean=(0.1, 0.2, 0.3), resize_mode="squash"
    )
    return model, export_model(model, tmp_path_factory.mktemp("quick") / "export", **words).folder


@pytest.mark.parametrize("place", ["", "/open_clip_model.safetensors"])
def test_weights_bring_their_activation_and_colours(quick, place):
    model, folder = quick
    found = tiny_model(weights=f"{folder}{place}", moved=False)
    assert found.model_cfg["quick_gelu"] is True
    assert found.preprocess_cfg == model.preprocess_cfg
    expected = TowerEncoder(model).embed_images(tiny_images())
    assert torch.equal(TowerEncoder(found).embed_images(tiny_images()), expected)


def test_a_tower_with_random_weights_follows_the_other(quick):
    found = tiny_model(image={**VIT, "weights": str(quick[1])}, moved=False)
    assert found.model_cfg["quick_gelu"] is True
    assert found.preprocess_cfg["mean"] == (0.1, 0.2, 0.3)


def test_a_setting_that_contradicts_the_weights_is_refused(quick):
    with pytest.raises(RecipeError, match=r"image\.quick_gelu: false contradicts"):
        tiny_model(image={**VIT, "quick_gelu": False}, weights=str(quick[1]), moved=False)


def test_weights_of_two_activations_are_refused(quick, tmp_path):
    words = {"name": "tiny", "recipe_text": "name: tiny", "results": [], "data_note": "none"}
    other = export_model(tiny_model(), tmp_path / "export", **words).folder
    with pytest.raises(RecipeError, match="differ"):
        tiny_model(image={**VIT, "weights": str(quick[1])}, text={**TEXT, "weights": str(other)}, moved=False)


@pytest.mark.parametrize("as_class", ["clip"])
def test_a_folder_of_transformers_is_the_same_model(quick, tmp_path, as_class):
    """With open_clip's own files gone: architecture, activation, colours and numbers all come from transformers'."""
    model, folder = quick
    alone = tmp_path / "theirs"
    shutil.copytree(folder, alone)
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (alone / name).unlink()
    assert json.loads((alone / "config.json").read_text())["model_type"] == as_class
    found = load_model(str(alone))
    assert found.preprocess_cfg == model.preprocess_cfg
    for encode in ("embed_images", "embed_texts"):
        things = tiny_images() if encode == "embed_images" else ["a cat", "a dog that sleeps"]
        ours, theirs = (getattr(TowerEncoder(each), encode)(things) for each in (model, found))
        assert (ours - theirs).abs().max() < 1e-6
    spelled = tiny_model(weights=str(alone), moved=False)
    assert torch.equal(spelled.core.visual.proj, model.core.visual.proj)
    assert [f"{each.part}{each.found - each.of}" for each in spelled.loaded] == ["visual.0", "text.0"]


def test_an_export_keeps_what_its_tag_meant(tmp_path, quick):
    save_file(tiny_model().core.state_dict(), tmp_path / "other.safetensors")
    found = tiny_model(weights=str(tmp_path / "other.safetensors"), moved=False)
    assert found.model_cfg["quick_gelu"] is False


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"embed_dim": 8, "audio_cfg": {}, "text_cfg": {}}, "embeds sounds"),
        ({"embed_dim": 8, "text_cfg": {}}, "lacks vision_cfg"),
    ],
)
def test_only_what_has_an_image_and_a_text_tower_is_built_and_listed(config, reason, tmp_path, monkeypatch):
    path = tmp_path / "other.json"
    path.write_text(json.dumps(config))
    with pytest.raises(RecipeError, match=reason):
        read_config(str(path))
    monkeypatch.setattr(open_clip, "list_models", lambda: ["ViT-B-32", "other"])
    real = open_clip.get_model_config
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: config if name == "other" else real(name))
    assert dual_encoders() == ["ViT-B-32"]
