"""Weights: from files, folders and single towers; never by half."""

import pytest
import torch
from safetensors.torch import save_file

from tests.towers.tiny import TEXT, VIT, tiny_model
from vlp.types import RecipeError


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    model = tiny_model()
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(model.state_dict(), path)
    return path


def test_a_checkpoint_of_the_trainer_can_be_the_start(trained):
    found = tiny_model(weights=str(trained), moved=False).state_dict()
    for name, value in tiny_model().state_dict().items():
        assert torch.equal(found[name], value)


def test_one_tower_can_have_weights_of_its_own(trained):
    found = tiny_model(image={**VIT, "weights": str(trained)}, moved=False).state_dict()
    expected, random = tiny_model().state_dict(), tiny_model(moved=False).state_dict()
    assert torch.equal(found["core.visual.proj"], expected["core.visual.proj"])
    assert torch.equal(found["core.text.text_projection"], random["core.text.text_projection"])


def test_a_bias_may_be_new(trained):
    assert tiny_model(weights=str(trained), init_bias=-10.0).bias.item() == -10.0


def test_weights_of_another_model_are_refused(trained):
    with pytest.raises(RecipeError, match="missing"):
        tiny_model(image={**VIT, "layers": 3}, weights=str(trained))
    with pytest.raises(RecipeError, match="width"):
        tiny_model(text={**TEXT, "width": 64}, weights=str(trained))
    with pytest.raises(RecipeError, match="shape"):
        tiny_model(text={**TEXT, "mlp_ratio": 2.0}, weights=str(trained))


def test_a_larger_grid_resizes_the_positions(trained):
    assert (
        tiny_model(image={**VIT, "image_size": 64}, weights=str(trained)).core.visual.positional_embedding.shape[0]
        == 65
    )


@pytest.mark.parametrize("source", ["nowhere", "ViT-B-32:nothing", "ViT-B-23:openai"])
def test_missing_weights_are_named(source):
    with pytest.raises(RecipeError, match=source.split(":")[-1]):
        tiny_model(weights=source)
