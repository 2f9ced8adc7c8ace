"""The multimodal half of a CoCa: what it reads, what open_clip makes of the same weights, and what cannot work."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from tests.towers.tiny import CAPTIONS, COCA, TEXT, VIT, tiny_batch, tiny_bert, tiny_model
from vlp.ground.types import RecipeError
from vlp.towers.base import caption_decoders, image_towers, text_towers
from vlp.towers.build import build_core, join
from vlp.towers.load import load_model

SHORT = ["a cat", "", "two dogs on a leash", "a"]


def coca(**settings):
    return tiny_model(**{**COCA, **settings}).eval()


def parts_of(model, captions=SHORT):
    """Return the tokens of images, the states of captions, the captions, and their lengths."""
    pixels, tokens, lengths = tiny_batch(model, captions)
    _, image_tokens = model.core.visual(pixels[0])
    _, text_tokens = model.core.text(tokens[0])
    return image_tokens, text_tokens, tokens[0], lengths[0].numpy()


@torch.no_grad()
def test_a_loss_is_the_sum_over_words_of_what_open_clips_logits_say():
    model = coca()
    image_tokens, text_tokens, tokens, lengths = parts_of(model)
    theirs = open_clip.transformer.MultimodalTransformer(
        width=32, layers=2, heads=2, context_length=16, output_dim=49408
    )
    theirs.load_state_dict(model.decoder.state_dict())
    shares = theirs.eval()(image_tokens, text_tokens).double().log_softmax(dim=-1)
    found = model.decoder.losses(image_tokens, text_tokens, tokens, lengths)
    for row, length in enumerate(lengths):
        by_hand = -sum(float(shares[row, place - 1, tokens[row, place]]) for place in range(1, length))
        assert float(found[row]) == pytest.approx(by_hand, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("place", range(1, 5))
def test_a_token_changes_no_logits_before_its_own(place):
    """Otherwise the decoder could copy what it should predict."""
    model = coca()
    pixels, tokens, _ = tiny_batch(model, SHORT)

    def logits(captions):
        return model.decoder(model.core.visual(pixels[0])[1], model.core.text(captions)[1])

    changed = tokens[0].clone()
    changed[:, place] = changed[:, place] % 1000 + 7
    before, after = logits(tokens[0]), logits(changed)
    assert torch.equal(before[:, :place], after[:, :place])
    assert not torch.equal(before[:, place:], after[:, place:])


@torch.no_grad()
def test_padding_changes_no_loss():
    model = coca()
    image_tokens, _, tokens, lengths = parts_of(model)
    wide = torch.nn.functional.pad(tokens, (0, 3))
    found = [model.decoder.losses(image_tokens, model.core.text(rows)[1], rows, lengths) for rows in (tokens, wide)]
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_losses_depend_on_the_image_but_not_on_others():
    model = coca()
    image_tokens, text_tokens, tokens, lengths = parts_of(model)
    other = image_tokens.clone()
    other[1] = image_tokens[2]
    before = model.decoder.losses(image_tokens, text_tokens, tokens, lengths)
    after = model.decoder.losses(other, text_tokens, tokens, lengths)
    assert (before != after).tolist() == [False, True, False, False]


def test_an_untrained_decoder_expects_every_word_alike():
    model = tiny_model(**COCA, moved=False)
    found = model(*_inputs(model))
    per_word = found.caption_losses.sum() / found.caption_words.sum()
    assert per_word.item() == pytest.approx(torch.tensor(49408.0).log().item(), rel=0.1)


def _inputs(model):
    pixels, tokens, lengths = tiny_batch(model)
    return pixels, tokens, lengths.numpy()


def test_one_pass_gives_the_embeddings_of_a_model_without_decoder():
    with_decoder = tiny_model(**COCA).eval()
    alone = tiny_model(**{key: value for key, value in COCA.items() if key != "decoder"}).eval()
    alone.load_state_dict({key: value for key, value in with_decoder.state_dict().items() if "decoder" not in key})
    ours, theirs = with_decoder(*_inputs(with_decoder)), alone(*_inputs(alone))
    torch.testing.assert_close(ours.image, theirs.image, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.text, theirs.text, rtol=1e-5, atol=1e-6)
    assert theirs.caption_losses is None and len(ours.caption_losses) == len(CAPTIONS)


def test_gradients_reach_both_towers_and_every_weight_of_the_decoder():
    model = tiny_model(**COCA)
    model(*_inputs(model)).caption_losses.sum().backward()
    without = {name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()}
    of_the_contrast = {"core.logit_scale", "core.visual.proj", "core.text.cls_emb", "core.text.text_projection"}
    assert without == {*of_the_contrast, "core.text.ln_final.weight", "core.text.ln_final.bias"}


def test_recomputed_activations_change_nothing():
    plain, frugal = tiny_model(**COCA), tiny_model(**COCA, grad_checkpointing=True)
    for model in (plain, frugal):
        model(*_inputs(model)).caption_losses.sum().backward()
    for ours, theirs in zip(plain.parameters(), frugal.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("name", ["coca_ViT-B-32", "coca_base"])
def test_a_name_builds_what_open_clip_builds(name):
    image, text = (towers.build("open_clip", {"name": name}).fragment() for towers in (image_towers, text_towers))
    decoder = caption_decoders.build("open_clip", {"name": name})
    with torch.device("meta"):
        ours = build_core(image, text, join(image, text, None, None, {}, decoder), 1 / 0.07)[0].state_dict()
        theirs = open_clip.create_model(name, device="meta").state_dict()
    assert {key: value.shape for key, value in ours.items() if key != "logit_scale"} == {
        key: value.shape for key, value in theirs.items() if key != "logit_scale"
    }


def _their_folder(folder, **config):
    """Write a CoCa of open_clip with weights of its own, as its hub pages are."""
    model_cfg = {
        "embed_dim": 32,
        "vision_cfg": {**_vision(), "attentional_pool": True, "attn_pooler_queries": 6, "attn_pooler_heads": 2},
        "text_cfg": {"width": 32, "heads": 2, "layers": 2, "context_length": 16, "embed_cls": True},
        "multimodal_cfg": {"width": 32, "heads": 2, "layers": 2, "context_length": 16},
        "custom_text": True,
    } | config
    for side in ("vision_cfg", "text_cfg"):
        model_cfg[side] = {**model_cfg[side], "output_tokens": True}
    folder.mkdir()
    torch.manual_seed(5)
    their = open_clip.CoCa(**{key: value for key, value in model_cfg.items() if key != "custom_text"}).eval()
    torch.nn.init.normal_(their.text_decoder.text_projection, std=0.1)  # open_clip leaves what was in memory
    preprocess = {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": preprocess}))
    save_file(their.state_dict(), folder / "open_clip_model.safetensors")
    return their


def _vision():
    return {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}


@torch.no_grad()
def test_weights_of_open_clip_load_and_say_the_same(tmp_path):
    their = _their_folder(tmp_path / "coca")
    ours = load_model(str(tmp_path / "coca"))
    pixels, tokens, lengths = tiny_batch(ours, SHORT)
    words = torch.nn.functional.pad(tokens[0], (0, 16 - tokens.shape[2]))
    found = ours(pixels, tokens, lengths.numpy())
    torch.testing.assert_close(found.image, their.encode_image(pixels[0]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.text, their.encode_text(words), rtol=1e-5, atol=1e-5)
    said = their(pixels[0], words)["logits"][:, : words.shape[1] - 1]  # open_clip 4 also goes on behind the last
    losses = torch.nn.functional.cross_entropy(said.mT, words[:, 1:], ignore_index=0, reduction="none")
    torch.testing.assert_close(found.caption_losses, losses.sum(dim=1), rtol=1e-4, atol=1e-4)
    assert [str(line).split(":")[0] for line in ours.loaded] == ["image tower", "text tower", "caption decoder"]


@torch.no_grad()
def test_the_two_towers_of_a_coca_are_a_dual_encoder(tmp_path):
    their = _their_folder(tmp_path / "coca")
    source = {"type": "open_clip", "name": str(tmp_path / "coca")}
    ours = tiny_model(source, source, embed_dim=None, weights=str(tmp_path / "coca"), moved=False).eval()
    pixels, _, _ = tiny_batch(ours, SHORT)
    torch.testing.assert_close(ours.embed_images(pixels[0]), their.encode_image(pixels[0]), rtol=1e-5, atol=1e-5)
    assert ours.decoder is None and "multimodal_cfg" not in ours.model_cfg


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"text": {**TEXT, "context_length": 16}}, "class token"),
        ({"image": VIT, "embed_dim": 16, "text": {**COCA["text"], "width": 16}}, "32 wide"),
        ({"embed_dim": 16}, "set model.embed_dim=32"),
        ({"decoder": {"layers": 1, "heads": 3}}, "does not divide"),
        ({"decoder": {"type": "open_clip", "name": "ViT-B-32"}}, "no decoder of captions"),
        ({"image": {**COCA["image"], "pool": "avg"}}, "pooler_queries"),
    ],
)
def test_what_cannot_work_is_refused(change, complaint):
    with pytest.raises(RecipeError, match=complaint):
        coca(**change)


def test_a_text_tower_that_sees_whole_captions_is_refused(tmp_path):
    """open_clip's coca_roberta would copy the next word."""
    text = {"type": "transformers", "name": tiny_bert(tmp_path / "bert"), "context_length": 16}
    with pytest.raises(RecipeError, match="sees whole captions"):
        coca(text=text)


def test_layers_of_a_decoder_take_turns():
    """What looks at the image in a layer comes behind what looks at the words."""
    behind = tiny_model(**COCA).blocks_behind()
    names = ["resblocks.0.ln_1", "cross_attn.0.ln_1", "resblocks.1.ln_1", "cross_attn.1.ln_1", "ln_final"]
    assert [behind[f"core.text_decoder.{name}.weight"] for name in names] == [4, 3, 2, 1, 0]
    assert behind["core.text_decoder.text_projection"] == behind["core.visual.attn_pool.query"] == 0
    assert behind["core.text.cls_emb"] == 3


def test_a_decoder_without_a_pooler_reads_the_patches():
    model = coca(image=VIT)
    assert model.core.visual(torch.zeros(1, 3, 32, 32))[1].shape == (1, 16, 32)
    assert model(*_inputs(model)).caption_losses.isfinite().all()
