"""DualEncoder: what comes out, and what locking, cutting and checkpointing may not change."""

import pytest
import torch
import torch.nn.functional as F

from tests.towers.tiny import SIGLIP_TEXT, TEXT, VIT, tiny_batch, tiny_model
from vlp.ground.registry import settings_of
from vlp.ground.types import RecipeError
from vlp.towers.dual import DualEncoder


def test_embeddings_are_float32_of_unit_norm_under_autocast():
    model = tiny_model(init_bias=-10.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(*tiny_batch(model))
    for value in (found.image, found.text, found.scale, found.bias):
        assert value.dtype == torch.float32
    for rows in (found.image, found.text):
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(len(rows)))


def test_scale_and_bias_are_those_set():
    model = tiny_model(init_scale=20.0, init_bias=-10.0)
    found = model(*tiny_batch(model))
    assert found.scale.item() == pytest.approx(20.0)
    assert found.bias.item() == -10.0
    assert found.scale.shape == found.bias.shape == ()
    assert model.core.logit_scale.shape == (1,)


def test_bias_is_a_constant_zero_without_init_bias():
    model = tiny_model()
    found = model(*tiny_batch(model))
    assert found.bias.item() == 0.0
    assert not found.bias.requires_grad


def test_every_parameter_gets_a_gradient():
    model = tiny_model(init_bias=-10.0)
    found = model(*tiny_batch(model))
    (found.image.sum() + found.text.sum() + found.scale + found.bias).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_further_views_follow_the_first():
    model = tiny_model().eval()
    pixels, tokens, lengths = tiny_batch(model)
    found = model(torch.cat([pixels, pixels.flip(1)]), tokens, lengths)
    torch.testing.assert_close(found.image_views[0], found.image.flip(0))
    assert found.text_views == ()


@pytest.mark.parametrize("buckets", [1, 2, 4, 9])
@pytest.mark.parametrize("pool", ["argmax", "eos"])
def test_buckets_change_nothing(buckets, pool):
    model = tiny_model(text={**TEXT, "pool": pool}, text_buckets=buckets)
    _, tokens, lengths = tiny_batch(model)
    assert lengths.unique().numel() > 3
    full = F.normalize(model.core.text(F.pad(tokens[0], (0, 77 - tokens.shape[2]))), dim=-1)
    torch.testing.assert_close(model.embed_tokens(tokens[0], lengths[0]), full, atol=1e-5, rtol=0)


def test_text_that_sees_its_padding_keeps_the_full_context():
    model = tiny_model(text=SIGLIP_TEXT)
    tokens, lengths = model.tokenizer(["a cat", "a dog"])
    assert tokens.shape[1] < 16
    full = F.normalize(model.core.text(F.pad(tokens, (0, 16 - tokens.shape[1]))), dim=-1)
    torch.testing.assert_close(model.embed_tokens(tokens, lengths), full)


def test_grad_checkpointing_keeps_the_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(image={**VIT, "patch_dropout": 0.5}, grad_checkpointing=checkpointing)
        batch = tiny_batch(model)
        torch.manual_seed(5)
        found = model(*batch)
        (found.image[:, 0].sum() + found.text[:, 0].sum()).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) > 20
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_locked_image_tower_rests_and_has_no_graph():
    model = tiny_model(image={"type": "timm", "name": "test_resnet", "image_size": 64}, freeze=("visual",)).train()
    assert model.locked_image
    assert not model.has_batch_norm
    assert not any(module.training for module in model.core.visual.modules())
    assert model.core.text.training
    before = {name: value.clone() for name, value in model.core.visual.named_buffers()}
    found = model(*tiny_batch(model))
    assert not found.image.requires_grad
    assert found.text.requires_grad
    torch.testing.assert_close(found.reference, found.image)
    for name, value in model.core.visual.named_buffers():
        torch.testing.assert_close(value, before[name])


def test_locked_trunk_rests_while_its_head_trains():
    model = tiny_model(
        image={"type": "timm", "name": "test_resnet", "image_size": 64}, freeze=("visual.trunk",)
    ).train()
    assert not model.locked_image
    assert not model.core.visual.trunk.training
    assert model.core.visual.head.training
    assert model(*tiny_batch(model)).image.requires_grad


def test_training_batch_norm_is_told():
    assert tiny_model(image={"type": "timm", "name": "test_resnet", "image_size": 64}).has_batch_norm
    assert not tiny_model().has_batch_norm


def test_clamp_keeps_the_scale_in_range():
    model = tiny_model(max_scale=50.0)
    for start, end in ((9.0, 50.0), (-3.0, 1.0)):
        model.core.logit_scale.data.fill_(start)
        model.clamp_()
        assert model.scale.item() == pytest.approx(end, rel=1e-5)


def test_fixed_scale_does_not_train():
    assert not tiny_model(learn_scale=False).core.logit_scale.requires_grad


def test_state_has_the_core_under_one_prefix():
    model = tiny_model()
    assert {f"core.{name}" for name in model.core.state_dict()} == set(model.state_dict())


def test_preprocessing_is_explicit_and_can_be_set():
    model = tiny_model(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize_mode="squash", interpolation="bilinear")
    assert model.preprocess_cfg == {
        "size": 32,
        "mode": "RGB",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "interpolation": "bilinear",
        "resize_mode": "squash",
        "fill_color": 0,
    }
    assert tiny_model().preprocess_cfg["resize_mode"] == "shortest"


def test_width_of_the_embedding_is_needed_where_nothing_says_it():
    with pytest.raises(RecipeError, match="embed_dim"):
        tiny_model(embed_dim=None)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"embed_dim": 0}, r"model\.embed_dim: 0 must be at least 1"),
        ({"embed_dim": -4}, r"model\.embed_dim: -4 must be at least 1"),
        ({"init_scale": 20.0, "max_scale": 10.0}, r"model\.init_scale: 20 is above model\.max_scale, 10"),
        ({"image": {**VIT, "patch_dropout": 1.0}}, r"image\.patch_dropout: 1\.0 is no share"),
        ({"image": {**VIT, "patch_dropout": -0.1}}, r"image\.patch_dropout: -0\.1 is no share"),
    ],
)
def test_numbers_of_which_no_model_can_be_made_are_refused(settings, said):
    with pytest.raises(RecipeError, match=said):
        tiny_model(**settings)


def test_towers_must_agree_on_the_activation():
    with pytest.raises(RecipeError, match="quick_gelu"):
        tiny_model(image={**VIT, "quick_gelu": True}, text={**TEXT, "quick_gelu": False})


def test_settings_are_a_schema():
    assert "freeze" in settings_of(DualEncoder).model_fields
    assert settings_of(DualEncoder)(freeze=["visual"]).freeze == ("visual",)
