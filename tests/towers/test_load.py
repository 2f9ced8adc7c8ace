"""load_model: a folder in open_clip's layout, and never random weights."""

import json
import sys

import pytest
import torch
from safetensors.torch import save_file

from tests.towers.tiny import CAPTIONS, tiny_images, tiny_model
from vlp.ground.types import RecipeError
from vlp.towers.encoder import TowerEncoder
from vlp.towers.load import load_any_model, load_model


def write_folder(model, folder):
    config = {"model_cfg": model.model_cfg, "preprocess_cfg": model.preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    state = {name: value.squeeze() if "logit" in name else value for name, value in model.core.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")


def test_a_folder_gives_the_same_model(tmp_path):
    model = tiny_model(init_bias=-8.0, mean=(0.5, 0.4, 0.3), resize_mode="squash")
    write_folder(model, tmp_path)
    loaded = load_model(str(tmp_path))
    assert not loaded.training
    assert loaded.preprocess_cfg == model.preprocess_cfg
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    ours, theirs = TowerEncoder(model), TowerEncoder(loaded)
    assert torch.equal(ours.embed_images(tiny_images()), theirs.embed_images(tiny_images()))
    assert torch.equal(ours.embed_texts(CAPTIONS), theirs.embed_texts(CAPTIONS))


def test_an_architecture_without_weights_is_refused():
    with pytest.raises(RecipeError, match="without weights"):
        load_model("ViT-B-32")


def test_a_folder_without_weights_is_refused(tmp_path):
    write_folder(tiny_model(), tmp_path)
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(RecipeError, match="no weights"):
        load_model(str(tmp_path))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="configuration"):
        load_model(str(tmp_path))


def test_an_unknown_name_names_its_neighbour():
    with pytest.raises(RecipeError, match="did you mean 'ViT-B-32'"):
        load_model("ViT-B-23:openai")


def test_a_checkpoint_of_open_clips_trainer_needs_its_architecture_before_the_colon(tmp_path):
    """`NAME:FILE`, as its trainer writes it: weights of a wrapped model beside an optimizer's state."""
    model = tiny_model()
    config = {"model_cfg": model.model_cfg, "preprocess_cfg": model.preprocess_cfg}
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    state = {f"module.{name}": value for name, value in model.core.state_dict().items()}
    torch.save({"epoch": 5, "name": "mine", "state_dict": state, "optimizer": {"state": {}}}, tmp_path / "epoch_5.pt")
    loaded = load_model(f"{tmp_path}/tiny.json:{tmp_path}/epoch_5.pt")
    assert torch.equal(TowerEncoder(model).embed_texts(CAPTIONS), TowerEncoder(loaded).embed_texts(CAPTIONS))
    with pytest.raises(RecipeError, match=r"no weights at .*epoch_6\.pt"):
        load_model(f"{tmp_path}/tiny.json:{tmp_path}/epoch_6.pt")


def test_a_pair_of_onnx_files_without_onnxruntime_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "onnx_pair.json").write_text('{"preprocess_cfg": {"size": 32}}')
    with pytest.raises(RecipeError, match=r"image\.onnx: ONNX files need onnxruntime: pip install 'vlp\[onnx\]'"):
        load_any_model(str(tmp_path))
