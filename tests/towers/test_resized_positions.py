"""Vision transformers take smaller images: what they compute is that of a tower with resized weights."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.towers.tiny import VIT, tiny_model
from vlp.towers.dual import DualEncoder
from vlp.towers.resized_positions import interpolation, take_any_size
from vlp.towers.weights import load_weights

TOWERS = {
    "open_clip": VIT,
    "timm": {"type": "timm", "name": "test_vit"},
    "timm, registers": {"type": "timm", "name": "test_vit2"},
    "timm, no class token": {"type": "timm", "name": "test_vit3"},
}


def towers(name: str, **more) -> tuple[DualEncoder, int, int]:
    """Return a model, the side of its images, and a smaller one."""
    full, small = (32, 16) if name == "open_clip" else (160, 80)
    torch.manual_seed(0)
    return tiny_model(image={**TOWERS[name], **more}).eval(), full, small


def images(side: int, height: int | None = None) -> torch.Tensor:
    return torch.randn(3, 3, height or side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", TOWERS)
def test_at_the_full_size_nothing_changes(name):
    plain, full, _ = towers(name)
    able, _, _ = towers(name)
    take_any_size(able.core.visual)
    for model in (plain, able):
        model.embed_images(images(full)).square().sum().backward()
    assert torch.equal(plain.embed_images(images(full)), able.embed_images(images(full)))
    theirs = dict(able.named_parameters())
    assert theirs.keys() == dict(plain.named_parameters()).keys()
    for key, value in plain.core.visual.named_parameters():
        assert torch.equal(value.grad, theirs[f"core.visual.{key}"].grad)


def resized(name: str, able: DualEncoder, small: int, folder: Path) -> DualEncoder:
    """Return the model as its library makes it for images of another size."""
    if name != "open_clip":
        other = copy.deepcopy(able)
        other.core.visual.trunk.set_input_size(img_size=(small, small))
        return other
    save_file(able.core.state_dict(), folder / "whole.safetensors")
    other, _, _ = towers(name, image_size=small)
    load_weights(other.core, folder / "whole.safetensors", part="", source="whole")
    return other


@pytest.mark.parametrize("name", TOWERS)
def test_a_smaller_image_is_seen_as_by_a_tower_with_resized_weights(name, tmp_path):
    able, full, small = towers(name)
    other = resized(name, able, small, tmp_path)
    take_any_size(able.core.visual)
    torch.testing.assert_close(
        able.embed_images(images(small)), other.embed_images(images(small)), rtol=1e-5, atol=1e-6
    )
    assert able.embed_images(images(full, small)).shape == (3, 16)  # any shape of whole patches
    assert torch.equal(able.embed_images(images(full)), towers(name)[0].embed_images(images(full)))


@pytest.mark.parametrize("name", TOWERS)
def test_gradients_reach_the_positions_of_the_full_size(name):
    able, _, small = towers(name)
    take_any_size(able.core.visual)
    positions = next(value for key, value in able.core.visual.named_parameters() if "pos" in key)
    able.embed_images(images(small)).sum().backward()
    assert positions.grad.shape == positions.shape and (positions.grad.abs().sum(-1) > 0).all()


def test_images_without_whole_patches_are_refused_and_leave_the_tower_as_it_was():
    able, full, _ = towers("open_clip")
    take_any_size(able.core.visual)
    kept = able.core.visual.positional_embedding
    with pytest.raises(ValueError, match=r"20 x 20 px are not made of whole patches of \(8, 8\)"):
        able.embed_images(images(20))
    with pytest.raises(RuntimeError):
        able.embed_images(images(16).double())
    assert able.core.visual.positional_embedding is kept
    assert able.embed_images(images(full)).shape == (3, 16)


def test_a_grid_of_the_same_size_is_itself_and_constants_stay_constant():
    torch.testing.assert_close(interpolation((4, 4), (4, 4)), torch.eye(16))
    torch.testing.assert_close(interpolation((7, 5), (3, 4)).sum(1), torch.ones(12))
