"""Weights: from files, folders and single towers; never by half."""

import json
import math

import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file
from timm.models import generate_default_cfgs, register_model

from tests.export.test_siglip import IMAGE as SIGLIP_IMAGE
from tests.export.test_siglip import SETTINGS as SIGLIP
from tests.export.test_siglip import tiny_siglip_for_tests
from tests.towers.tiny import SIGLIP_TEXT, TEXT, VIT, tiny_bert, tiny_model
from vlp.ground.types import RecipeError

default_cfgs = generate_default_cfgs(
    {"larger_siglip_for_tests.untrained": {"input_size": (3, 48, 48), "fixed_input_size": True}}
)
__all__: list[str] = []


@register_model
def larger_siglip_for_tests(pretrained=False, **kwargs):
    return tiny_siglip_for_tests(pretrained, img_size=48, **kwargs)


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


@pytest.mark.parametrize("side", ["image", "text"])
def test_one_tower_may_go_to_a_space_of_another_width(trained, side):
    sides = {"image": VIT, "text": TEXT}
    sides[side] = {**sides[side], "weights": str(trained)}
    model = tiny_model(**sides, moved=False, embed_dim=24)
    part, last = ("core.visual.", "proj") if side == "image" else ("core.text.", "text_projection")
    found, expected, random = model.state_dict(), tiny_model().state_dict(), tiny_model(moved=False, embed_dim=24)
    for name, value in found.items():
        if name.startswith(part):
            assert torch.equal(value, random.state_dict()[name] if name == part + last else expected[name]), name
    assert found[part + last].shape == (32, 24)
    (said,) = model.origins()
    assert "the others start at random; its projection has 16 coordinates and the model 24, so that a new one" in said


def test_both_towers_at_once_may_not(trained):
    with pytest.raises(RecipeError, match=r"'visual\.proj' has shape \(32, 16\), the model \(32, 24\)"):
        tiny_model(weights=str(trained), embed_dim=24)


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


def test_a_tower_of_timm_of_another_size_resizes_the_positions(tmp_path):
    text = {**SIGLIP_TEXT, "tokenizer": tiny_bert(tmp_path / "words")}
    small = tiny_model(image=SIGLIP_IMAGE, text=text, **SIGLIP)
    save_file(small.core.state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": small.model_cfg, "preprocess_cfg": small.preprocess_cfg})
    )
    image = {**SIGLIP_IMAGE, "name": "larger_siglip_for_tests"}
    text = {"type": "open_clip", "name": str(tmp_path)}
    large = tiny_model(image=image, text=text, weights=str(tmp_path), moved=False, embed_dim=32)
    assert (
        large.bias.item() == -10.0
        and large.image_size == 48
        and "its 16 positions interpolated to 36" in large.origins()[0]
    )
    found, expected = large.core.state_dict(), small.core.state_dict()
    name = "visual.trunk.pos_embed"
    assert all(torch.equal(found[each], value) for each, value in expected.items() if each != name)
    back = torch.nn.functional.interpolate(
        found[name].reshape(1, 6, 6, 32).permute(0, 3, 1, 2), (4, 4), mode="bicubic", antialias=True
    )
    assert (
        torch.corrcoef(
            torch.stack([back.flatten(), expected[name].reshape(1, 4, 4, 32).permute(0, 3, 1, 2).flatten()])
        )[0, 1]
        > 0.9
    )


@pytest.mark.parametrize("source", ["nowhere", "ViT-B-32:nothing", "ViT-B-23:openai"])
def test_missing_weights_are_named(source):
    with pytest.raises(RecipeError, match=source.split(":")[-1]):
        tiny_model(weights=source)


def state_of(model):
    return {name.removeprefix("core."): value for name, value in model.state_dict().items()}


NAMED = {
    "ours": lambda state: {f"core.{name}": value for name, value in state.items()},
    "DDP": lambda state: {f"module.{name}": value for name, value in state.items()},
    "compiled": lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    "compiled inside DDP": lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
    "compiled towers": lambda state: {name.replace(".", "._orig_mod.", 1): value for name, value in state.items()},
    "recomputing": lambda state: {
        name.replace("resblocks.0.", "resblocks.0._checkpoint_wrapped_module."): value for name, value in state.items()
    },
    "lightning": lambda state: (
        {f"model.{name}": value for name, value in state.items()} | {"loss.weight": torch.ones(3)}
    ),
    "own trainer": lambda state: {f"net.clip.{name}": value for name, value in state.items()},
    "one module": lambda state: {name.removeprefix("text."): value for name, value in state.items()},
    "one module, DDP": lambda state: {f"module.{name.removeprefix('text.')}": value for name, value in state.items()},
}


@pytest.mark.parametrize("how", NAMED)
def test_prefixes_and_wrappers_come_off(tmp_path, how):
    state = state_of(tiny_model())
    torch.save({"state_dict": NAMED[how](state), "epoch": 1}, tmp_path / "epoch_1.pt")
    found = tiny_model(weights=str(tmp_path / "epoch_1.pt"), moved=False)
    for name, value in state_of(found).items():
        assert torch.equal(value, state[name]), name
    assert [each.found == each.of for each in found.loaded] == [True, True]


@pytest.mark.parametrize(("part", "kind"), [("visual.", "image"), ("text.", "text")])
@pytest.mark.parametrize("prefix", ["", "module.", "encoder."])
def test_a_tower_alone_has_names_of_its_own(tmp_path, part, kind, prefix):
    state = state_of(tiny_model())
    alone = {prefix + name.removeprefix(part): value for name, value in state.items() if name.startswith(part)}
    torch.save(alone, tmp_path / "tower.pt")
    settings = {kind: {**(VIT if kind == "image" else TEXT), "weights": str(tmp_path / "tower.pt")}}
    found = tiny_model(**settings, moved=False)
    for name, value in state_of(found).items():
        if name.startswith(part):
            assert torch.equal(value, state[name]), name
    assert [each.part for each in found.loaded] == [part]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value * math.nan, r"are broken: 'visual\.proj' has NaN or infinity"),
        (lambda value: value + math.inf, r"are broken: 'visual\.proj' has NaN or infinity"),
        (lambda value: (value * 100).to(torch.int8), r"are whole numbers of type torch\.int8 in 'visual\.proj'"),
    ],
)
def test_weights_that_are_none_are_refused(tmp_path, change, said):
    state = state_of(tiny_model())
    torch.save(state | {"visual.proj": change(state["visual.proj"])}, tmp_path / "w.pt")
    with pytest.raises(RecipeError, match=said):
        tiny_model(weights=str(tmp_path / "w.pt"))


def test_a_file_without_any_of_the_tensors_says_what_it_has(tmp_path):
    torch.save({"backbone.stem.weight": torch.ones(3)}, tmp_path / "other.pt")
    with pytest.raises(RecipeError, match=r"0 of its \d+ tensors are there.*backbone\.stem\.weight"):
        tiny_model(weights=str(tmp_path / "other.pt"))


def test_a_file_with_half_of_the_tensors_is_counted(tmp_path):
    state = state_of(tiny_model())
    torch.save(dict(list(state.items())[: len(state) // 2]), tmp_path / "half.pt")
    with pytest.raises(RecipeError, match=rf"{len(state) // 2} of {len(state)} tensors found"):
        tiny_model(weights=str(tmp_path / "half.pt"))


def test_what_was_loaded_is_counted_tower_by_tower(trained):
    lines = [str(each) for each in tiny_model(image={**VIT, "weights": str(trained)}).loaded]
    assert lines == [f"image tower: 32 of 32 tensors from {trained}"]
    assert tiny_model().loaded == []


def test_a_shorter_context_keeps_the_first_positions_of_a_causal_tower(trained):
    found = tiny_model(text={**TEXT, "context_length": 20}, weights=str(trained), moved=False)
    expected = tiny_model().core.text.positional_embedding[:20]
    assert torch.equal(found.core.text.positional_embedding, expected)
    assert str(found.loaded[1]).endswith("its 77 positions cut to 20")


def test_a_longer_context_is_interpolated_and_says_so(trained):
    found = tiny_model(text={**TEXT, "context_length": 100}, weights=str(trained), moved=False)
    assert str(found.loaded[1]).endswith("its 77 positions interpolated to 100")
    larger = tiny_model(image={**VIT, "image_size": 64}, weights=str(trained), moved=False)
    assert str(larger.loaded[0]).endswith("its 17 positions interpolated to 65")


def test_a_backbone_of_timm_has_a_file_of_its_own(tmp_path):
    """As timm publishes it, classifier included; the projection is new."""
    trunk = timm.create_model("test_vit", num_classes=7)
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in trunk.state_dict().items()}}, tmp_path / "a.pt"
    )
    image = {"type": "timm", "name": "test_vit", "pool": "token", "weights": str(tmp_path / "a.pt")}
    found = tiny_model(image=image, moved=False)
    for name, value in found.core.visual.trunk.state_dict().items():
        assert torch.equal(value, trunk.state_dict()[name]), name
    assert "the others start at random" in str(found.loaded[0])


def test_an_encoder_of_transformers_has_a_file_of_its_own(tmp_path):
    folder = tiny_bert(tmp_path / "bert")
    state = transformers.BertModel.from_pretrained(folder).state_dict()
    torch.save(
        {f"bert.{name}": value for name, value in state.items() if "pooler" not in name} | {"cls.bias": torch.ones(2)},
        tmp_path / "masked.bin",
    )
    text = {"type": "transformers", "name": folder, "context_length": 20, "weights": str(tmp_path / "masked.bin")}
    found = tiny_model(text=text, moved=False).core.text.transformer.state_dict()
    for name, value in found.items():
        assert torch.equal(value, state[name]), name
