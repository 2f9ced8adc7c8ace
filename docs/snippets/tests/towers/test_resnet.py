"""A small residual network embeds and learns; a size that it cannot halve is refused."""

import pytest

from tests.towers.tiny import tiny_batch, tiny_model
from vlp.ground.types import RecipeError

SMALL = {"type": "resnet", "layers": (1, 1, 1, 1), "width": 8, "head_width": 32, "image_size": 64}


def test_it_embeds_and_learns():
    model = tiny_model(image=SMALL)
    found = model(*tiny_batch(model, ["a cat", "a dog"]))
    assert found.image.shape == (2, 16)
    found.image[:, 0].sum().backward()
    assert [name for name, parameter in model.core.visual.named_parameters() if parameter.grad is None] == []


def test_open_clip_knows_it_by_its_configuration():
    config = tiny_model(image=SMALL).model_cfg["vision_cfg"]
    assert config == {"layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "image_size": 64}


def test_a_size_that_it_cannot_halve_is_refused():
    with pytest.raises(RecipeError, match="no multiple of 32"):
        tiny_model(image={**SMALL, "image_size": 48})
