"""EfficientNets by the names of efficientnet-pytorch are timm's."""

from __future__ import annotations

import timm
import torch

from tests.towers.tiny import tiny_model
from vlp.towers.efficientnet_names import is_of_efficientnet, to_timm

HEADS = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
LONG = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
LONG |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
SHORT = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}


def as_in_the_package(trunk):
    """Return the state of a timm model by the names that efficientnet-pytorch gives it, in its order."""
    blocks = [(f"blocks.{s}.{k}.", block) for s, row in enumerate(trunk.blocks) for k, block in enumerate(row)]
    found = {}
    for name, value in trunk.state_dict().items():
        place = next((number for number, (prefix, _) in enumerate(blocks) if name.startswith(prefix)), None)
        if place is None:
            first, _, rest = name.partition(".")
            found[f"{HEADS[first]}.{rest}"] = value
            continue
        prefix, block = blocks[place]
        layer, _, rest = name.removeprefix(prefix).partition(".")
        names = LONG if hasattr(block, "conv_pwl") else SHORT
        if layer == "se":
            layer, _, rest = rest.partition(".")
            names = {"conv_reduce": "_se_reduce", "conv_expand": "_se_expand"}
        found[f"_blocks.{place}.{names[layer]}.{rest}"] = value
    return found


def test_every_tensor_finds_its_place():
    for name in ("efficientnet_b0", "tf_efficientnet_lite0"):
        with torch.device("meta"):
            trunk = timm.create_model(name)
        theirs = as_in_the_package(trunk)
        assert is_of_efficientnet(theirs)
        assert not is_of_efficientnet(trunk.state_dict())
        found = to_timm(theirs, trunk)
        assert found.keys() == trunk.state_dict().keys()
        assert all(found[key] is value for key, value in zip(found, theirs.values(), strict=True))
        assert {key: value.shape for key, value in found.items()} == {
            key: value.shape for key, value in trunk.state_dict().items()
        }


def test_a_file_is_read_into_a_tower(tmp_path):
    trunk = timm.create_model("tf_efficientnet_lite0")
    drawn = {name: torch.randn_like(value) for name, value in trunk.state_dict().items() if value.is_floating_point()}
    state = trunk.state_dict() | drawn
    trunk.load_state_dict(state)
    file = tmp_path / "its.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in as_in_the_package(trunk).items()}}, file)
    found = tiny_model({"type": "timm", "name": "tf_efficientnet_lite0", "weights": str(file)}, moved=False)
    inner = found.core.visual.trunk.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in inner.items())
    assert (found.loaded[0].found, found.loaded[0].source) == (len(inner), str(file))
