"""Tokens of an image, from every source of towers: what a decoder reads, and what stands where in the image."""

import json

import pytest
import torch

from tests.towers.tiny import COCA, VIT, tiny_batch, tiny_model
from vlp.export.as_onnx import onnx_obstacles
from vlp.export.as_open_clip import open_clip_obstacles
from vlp.ground.types import RecipeError
from vlp.towers.encoder import TowerEncoder
from vlp.towers.generation.caption_writer import CaptionWriter
from vlp.towers.image_tokens import TokenTimm, hand_out_tokens, map_shape, only_rows
from vlp.towers.writing import Writing

WRITES = {key: COCA[key] for key in ("text", "decoder", "embed_dim")}
TIMM = {"type": "timm", "image_size": 64}
KINDS = {
    "timm vit": {"type": "timm", "name": "test_vit"},
    "timm, registers": {"type": "timm", "name": "test_vit2"},
    "timm resnet": {**TIMM, "name": "test_resnet"},
    "timm convnext": {**TIMM, "name": "test_convnext", "pool": "abs_attn", "proj": ""},
    "timm, channels last": {**TIMM, "name": "test_mambaout", "proj": ""},
    "ResNet": {"type": "open_clip"},
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def image(kind, tmp_path):
    """Settings of an image tower of a kind, such as open_clip's ResNet, of which no name is small."""
    if kind != "ResNet":
        return KINDS[kind]
    vision = {"layers": [1, 1, 1, 1], "width": 8, "head_width": 64, "image_size": 64}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": {"width": 32, "heads": 2, "layers": 1}}
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    return {"type": "open_clip", "name": str(tmp_path / "tiny.json")}


def before_pooling(visual, pixels):
    """Return what enters the pooling of any tower, caught on its way, as [n, c, h, w] or [n, l, w]."""
    if hasattr(visual, "attnpool"):
        seen = []
        hook = visual.attnpool.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        visual(pixels)
        hook.remove()
        return seen[0]
    return visual.trunk.forward_features(pixels)


class WithClassToken(TokenTimm):
    """As backbones of timm that do not say that a class token stands before their patches."""

    def _in_a_row(self, features):
        return features


@each_kind
@torch.no_grad()
def test_tokens_stand_beside_the_same_embeddings(kind, image):
    model = tiny_model(image, embed_dim=32).eval()
    visual, pixels = model.core.visual, tiny_batch(model, ["a", "b"])[0][0]
    rows = visual(pixels)
    caught = before_pooling(visual, pixels)
    hand_out_tokens(visual)
    found, tokens = visual(pixels)
    assert torch.equal(found, rows) and torch.equal(only_rows((found, tokens)), rows)
    height, width, channels = map_shape(visual)
    assert tokens.shape == (2, height * width, channels)
    for row in range(height):
        for column in range(width):
            if caught.ndim == 3:
                expected = caught[:, caught.shape[1] - height * width + row * width + column]
            else:
                expected = caught[:, row, column] if kind.endswith("last") else caught[:, :, row, column]
            assert torch.equal(tokens[:, row * width + column], expected)


@pytest.mark.parametrize("kind", ["timm, registers", "timm resnet", "ResNet"])
def test_a_decoder_reads_them(kind, image):
    model = tiny_model(image, **WRITES)
    pixels, tokens, lengths = tiny_batch(model)
    if kind.endswith("resnet"):
        assert model.has_batch_norm  # so that micro-batches are refused, as without a decoder
    model(pixels, tokens, lengths.numpy()).caption_losses.sum().backward()
    reached = {name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()}
    assert {"core.text_decoder.image_map.weight", "core.text_decoder.text_projection"} <= reached
    assert any(name.startswith("core.visual.") for name in reached)
    assert model.blocks_behind()["core.text_decoder.image_map.weight"] == 5
    assert len(CaptionWriter(model.eval(), Writing(max_words=3))(pixels[0])) == len(tokens[0])
    plain = torch.full((1, 3, *pixels.shape[3:]), 0.5)
    assert TowerEncoder(model).embed_pixels(plain).shape == (1, 32)
    for obstacles in (open_clip_obstacles(model), onnx_obstacles(model)):
        assert any("decoder of captions" in obstacle for obstacle in obstacles)


@torch.no_grad()
def test_steps_of_writing_see_the_image_as_training_does():
    model = tiny_model(KINDS["timm vit"], **WRITES).eval()
    pixels, _, _ = tiny_batch(model, ["a", "b"])
    written = torch.tensor(CaptionWriter(model, Writing(min_words=4, max_words=4)).ids(pixels[0]))
    first = model.tokenizer([""])[0][0, :1].expand(2, 1)
    _, states = model.core.text(torch.cat([first, written], dim=1))
    logits = model.decoder(model.core.visual(pixels[0])[1], states)
    logits[:, :, model.tokenizer.pad_id] = -torch.inf
    logits[:, :, model.tokenizer([""])[0][0, 1]] = -torch.inf  # no end before four words
    assert torch.equal(logits[:, :4].argmax(dim=2), written)


def test_the_tokens_of_a_transformer_of_open_clip_are_a_map_unless_queries_read_them():
    visual = tiny_model(VIT).core.visual
    hand_out_tokens(visual)
    assert map_shape(visual) == (4, 4, 32)
    with pytest.raises(RecipeError, match="pooler_queries"):
        map_shape(tiny_model(**COCA).core.visual)
    with pytest.raises(RecipeError, match="patch_dropout"):
        map_shape(tiny_model({**VIT, "patch_dropout": 0.5}).core.visual)


def test_what_cannot_work_is_refused():
    visual = tiny_model(KINDS["timm vit"]).core.visual
    hand_out_tokens(visual)
    visual.__class__ = WithClassToken
    with pytest.raises(RecipeError, match="101 tokens of 160 x 160 pixels are no grid"):
        map_shape(visual)
    with pytest.raises(RecipeError, match="something reads the tokens"):
        hand_out_tokens(torch.nn.Identity())
