"""Low-rank adaptation: nothing at first, the same when merged, and refused where it would do nothing."""

from __future__ import annotations

import pytest
import torch
from timm.models.beit import Beit
from torch import nn

from tests.towers.tiny import TEXT, VIT, tiny_batch, tiny_model
from vlp.ground.types import RecipeError
from vlp.towers.low_rank import AdaptedLinear, LowRank, adapters_of, merge_adapters, merged

LORA = {"type": "lora", "rank": 3, "alpha": 6.0}
TEXTS = {
    "packed": TEXT,
    "not causal": {**TEXT, "causal": False, "pool": "first", "context_length": 40},
    "last": {**TEXT, "causal": False, "pool": "last", "context_length": 40},
}


def embed(model):
    pixels, tokens, lengths = tiny_batch(model)
    with torch.no_grad():
        seen = model.eval()(pixels, tokens, lengths.numpy())
    return torch.cat([seen.image, seen.text])


def moved(model):
    """Give each adapter something to add."""
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for _, _, adapter in adapters_of(model):
            adapter.b.copy_(0.1 * torch.randn(adapter.b.shape, generator=generator))
    return model


def test_adapters_add_nothing_at_first():
    assert torch.equal(embed(tiny_model(tune=LORA, moved=False)), embed(tiny_model(moved=False)))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_merged_is_the_same_model(text):
    model = moved(tiny_model(text=text, tune=LORA))
    plain = tiny_model(text=text)
    before, state = embed(model), merged(model.state_dict())
    assert (before - embed(plain)).abs().max() > 0.01
    merge_adapters(model)
    assert not list(adapters_of(model))
    assert not any(isinstance(module, AdaptedLinear) for module in model.modules())
    assert state.keys() == model.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    torch.testing.assert_close(embed(model), before, atol=1e-6, rtol=0)


def test_each_tower_has_a_rank_of_its_own():
    model = tiny_model(tune={"type": "lora", "rank": {"image": 2, "text": 5}, "alpha": {"image": 6.0, "text": 10.0}})
    found = {(name.split(".")[1], len(adapter.a), adapter.share.item()) for name, _, adapter in adapters_of(model)}
    assert found == {("visual", 2, 3.0), ("text", 5, 2.0)}
    with pytest.raises(RecipeError, match=r"model\.tune\.rank: has none for the text tower: give one, or set"):
        tiny_model(tune={"type": "lora", "rank": {"image": 2}})
    only = tiny_model(tune={"type": "lora", "rank": {"image": 2}, "text": False})
    assert {name.split(".")[1] for name, _, _ in adapters_of(only)} == {"visual"}


def test_the_share_is_alpha_over_rank():
    layer = LowRank(4, 5, rank=2, alpha=6.0)
    nn.init.ones_(layer.b)
    inputs = torch.randn(3, 4)
    torch.testing.assert_close(layer(inputs), 3.0 * inputs @ layer.a.T @ torch.ones(2, 5))


def test_targets_and_towers_are_chosen():
    of_mlp = tiny_model(tune={**LORA, "targets": ("*.mlp.*",)})
    assert {name.split(".")[-2] for name, _, _ in adapters_of(of_mlp)} == {"mlp"}
    of_text = tiny_model(tune={**LORA, "image": False})
    assert {name.split(".")[1] for name, _, _ in adapters_of(of_text)} == {"text"}
    with_heads = tiny_model(tune={**LORA, "heads": True})
    assert dict(with_heads.named_parameters())["core.visual.proj"].requires_grad


@pytest.mark.parametrize(
    ("image", "settings", "words"),
    [
        (VIT, {"targets": ("*.mpl.*",)}, r"model.tune.targets: no parameter matches '\*.mpl.\*'"),
        (VIT, {"image": False, "text": False}, "LoRA of neither tower"),
        ({"type": "timm", "name": "test_resnet", "image_size": 64}, {}, "the image tower have no linear layers"),
        ({"type": "timm", "name": "beit_base_patch16_224", "image_size": 224}, {}, "multiplies with the weights of "),
    ],
    ids=["no such layer", "neither tower", "convolutions", "past the layer"],
)
def test_what_would_do_nothing_is_refused(image, settings, words, monkeypatch):
    monkeypatch.setattr(Beit, "__init__", _small(Beit.__init__))
    with pytest.raises(RecipeError, match=words):
        tiny_model(image, tune=LORA | settings)


def _small(make):
    def small(self, *args, **settings):
        make(self, *args, **settings | {"depth": 1, "embed_dim": 64, "num_heads": 2})

    return small
