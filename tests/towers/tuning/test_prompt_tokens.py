"""Prompt tokens: what the papers write down, one block at a time, and what they leave as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn.functional import linear, normalize

from tests.towers.tiny import CAPTIONS, TEXT, VIT, tiny_batch, tiny_bert, tiny_model
from tests.towers.tuning.test_base import gradients, trained
from vlp.ground.types import RecipeError
from vlp.towers.learned_tokens import prompted

DEEP_VIT = VIT | {"layers": 3}
TIMM = {"type": "timm", "name": "test_vit", "image_size": 160}
TEXTS = {
    "packed": TEXT,
    "not causal": {**TEXT, "causal": False, "pool": "first", "context_length": 40},
    "last": {**TEXT, "causal": False, "pool": "last", "context_length": 40},
}


def prompts(**settings):
    return {"type": "prompts", **settings}


def attended(layer, rows, mask=None):
    """Attend as the formula says, whichever class an open_clip takes for it."""
    parts = linear(rows, layer.in_proj_weight, layer.in_proj_bias).chunk(3, dim=-1)
    queries, keys, values = (part.unflatten(-1, (layer.num_heads, -1)).transpose(-2, -3) for part in parts)
    scores = queries @ keys.mT / queries.shape[-1] ** 0.5
    shares = (scores if mask is None else scores + mask).softmax(dim=-1)
    return layer.out_proj((shares @ values).transpose(-2, -3).flatten(-2))


def caption_by_hand(model, caption):
    """Embed one caption: its start token, the learned vectors, the rest, and then the tower's own blocks."""
    tower, tokens = model.core.text, model.tokenizer([caption])[0][0]
    length = model.context_length - len(prompted(tower))
    if tower.attn_mask is None:  # a tower without a mask sees the padding
        tokens = torch.cat([tokens, torch.full((length - len(tokens),), model.tokenizer.pad_id)])
    known = tower.token_embedding.weight[tokens]
    row = torch.cat([known[:1], prompted(tower), known[1:]]) + tower.positional_embedding[: len(known) + 4]
    mask = None if tower.attn_mask is None else torch.full((len(row), len(row)), -torch.inf).triu(1)
    for block in tower.transformer.resblocks:
        row = row + attended(block.attn, block.ln_1(row), mask)
        row = row + block.mlp(block.ln_2(row))
    place = {"argmax": int(tokens.argmax()) + 4, "first": 0, "last": -1}[tower.pool_type]
    return normalize(tower.ln_final(row)[place] @ tower.text_projection, dim=0)


def image_by_hand(model, pixels, depth, count):
    """Embed one image: each of the first blocks sees tokens of its own, and those that it returns are dropped."""
    tower = model.core.visual
    row = tower._embeds(pixels[None])[0]
    alongside = None
    for number, block in enumerate(tower.transformer.resblocks):
        if number < depth:
            alongside = block.prompts
        seen = torch.cat([row, alongside])[None]
        seen = seen + attended(block.attn, block.ln_1(seen))
        seen = seen + block.mlp(block.ln_2(seen))
        row, alongside = seen[0, :-count], seen[0, -count:]
    return normalize(tower.ln_post(row)[0] @ tower.proj, dim=0)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_captions_are_those_of_the_paper(text):
    model = tiny_model(text=text, tune=prompts()).eval()
    tokens, lengths = model.tokenizer(CAPTIONS)
    assert lengths.max() == model.context_length - 4
    with torch.no_grad():
        expected = torch.stack([caption_by_hand(model, caption) for caption in CAPTIONS])
        torch.testing.assert_close(model.embed_tokens(tokens, lengths.numpy()), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("depth", [1, 2, None], ids=["shallow", "two blocks", "deep"])
def test_images_are_those_of_the_paper(depth):
    model = tiny_model(DEEP_VIT, tune=prompts(image=3, depth=depth)).eval()
    pixels = tiny_batch(model)[0][0]
    with torch.no_grad():
        expected = torch.stack([image_by_hand(model, one, depth or 3, 3) for one in pixels])
        torch.testing.assert_close(model.embed_images(pixels), expected, atol=1e-6, rtol=0)


def test_encoders_of_transformers_see_them_as_embeddings(tmp_path):
    text = {"type": "transformers", "name": tiny_bert(tmp_path / "bert"), "context_length": 16}
    model = tiny_model(text=text, tune=prompts(image=0, text=2)).eval()
    tokens, lengths = model.tokenizer(CAPTIONS)
    tower, found = model.core.text, []
    for row, length in zip(tokens, lengths.tolist(), strict=True):
        known = tower.transformer.embeddings.word_embeddings.weight[row[:length]]
        hidden = torch.cat([known[:1], prompted(tower), known[1:]])[None]
        found.append(tower.proj(tower.transformer(inputs_embeds=hidden).last_hidden_state[0].mean(0)))
    seen = model.embed_tokens(tokens, lengths.numpy())
    torch.testing.assert_close(seen, normalize(torch.stack(found), dim=1), atol=1e-6, rtol=0)
    assert gradients(model) == trained(model)


def test_what_pools_behind_a_tower_of_timm_does_not_see_them():
    pooled = {"type": "timm", "name": "test_vit", "image_size": 160, "pool": "avg"}
    model = tiny_model(pooled, tune=prompts(image=3)).eval()
    seen: list[torch.Size] = []
    model.core.visual.trunk.norm.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    model.core.visual.trunk.blocks[1].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    model.embed_images(tiny_batch(model)[0][0])
    assert seen[0][1] == seen[1][1] + 3
    assert gradients(model) == trained(model)


def test_only_tokens_and_temperature_train():
    model = tiny_model(DEEP_VIT, tune=prompts(depth=2))
    assert trained(model) == {
        "logit_scale", "text.token_embedding.prompts", "visual.transformer.resblocks.0.prompts",
        "visual.transformer.resblocks.1.prompts",
    }  # fmt: skip
    assert gradients(model) == trained(model)
    assert "visual.proj" in trained(tiny_model(tune=prompts(heads=True)))


def test_a_tower_without_tokens_is_locked():
    of_text, of_image = tiny_model(tune=prompts(image=0)), tiny_model(tune=prompts(text=0))
    assert (of_text.locked_image, of_text.locked_text) == (True, False)
    assert (of_image.locked_image, of_image.locked_text) == (False, True)


@pytest.mark.parametrize("image", [VIT, TIMM], ids=["open_clip", "timm"])
def test_a_copy_has_tokens_of_its_own_and_checkpointing_changes_nothing(image):
    model = tiny_model(image, tune=prompts())
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, value in twin.named_parameters():
            if name.endswith("prompts"):
                value.mul_(2)
    pixels, tokens, lengths = tiny_batch(model)
    one, other = (each.eval()(pixels, tokens, lengths.numpy()) for each in (model, twin))
    assert not torch.allclose(one.image, other.image)
    assert not torch.allclose(one.text, other.text)
    again = tiny_model(image, tune=prompts(), grad_checkpointing=True)
    assert gradients(again) == trained(again)
    for each, value in zip(again.parameters(), model.parameters(), strict=True):
        if each.requires_grad:
            assert torch.isfinite(each.grad).all()
            assert torch.equal(each, value)


def test_a_caption_does_not_depend_on_its_neighbours():
    model = tiny_model(tune=prompts()).eval()
    tokens, lengths = model.tokenizer(CAPTIONS)
    together = model.embed_tokens(tokens, lengths.numpy())
    for place, caption in enumerate(CAPTIONS):
        alone, length = model.tokenizer([caption])
        torch.testing.assert_close(model.embed_tokens(alone, np.asarray(length))[0], together[place], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("image", "settings", "words"),
    [
        (VIT, {"image": 0, "text": 0}, "prompts of neither tower train nothing"),
        (VIT, {"image": 0, "depth": 2}, r"model\.tune\.depth: has no effect with image=0"),
        (VIT, {"depth": 3}, "the image tower has 2 blocks: set 2 or less"),
        (VIT, {"text": 75}, r"of the 77 tokens of the context 2 would be left: set 74 or less"),
        ({"type": "timm", "name": "test_resnet", "image_size": 64}, {}, "a ResNet takes no tokens beside its patches"),
    ],
    ids=["neither", "no image", "too deep", "no room", "convolutions"],
)
def test_what_cannot_work_is_refused(image, settings, words):
    with pytest.raises(RecipeError, match=words):
        tiny_model(image, tune=prompts(**settings))
