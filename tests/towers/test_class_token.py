"""The unimodal half of a CoCa: a class token that sees its caption alone, and is seen by nothing."""

from __future__ import annotations

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from tests.towers.tiny import CAPTIONS, COCA, TEXT, tiny_model
from vlp.ground.types import RecipeError
from vlp.towers.class_token import ClassTokenText

SHORT = ["a cat", "", "two dogs on a leash", "a"]


def tower_of(**settings) -> tuple[ClassTokenText, torch.Tensor]:
    model = tiny_model(**COCA, **settings).eval()
    return model.core.text, model.tokenizer(SHORT)[0]


def legacy(tower: ClassTokenText) -> ClassTokenText:
    tower.correct_cls_mask = False
    return tower


def full(tokens: torch.Tensor, length: int = 16) -> torch.Tensor:
    return torch.nn.functional.pad(tokens, (0, length - tokens.shape[1]))


@torch.no_grad()
@pytest.mark.parametrize("correct", [True, False])
def test_cut_captions_give_what_open_clip_gives_whole_ones(correct):
    tower, tokens = tower_of()
    tower.correct_cls_mask = correct
    theirs = open_clip.transformer.TextTransformer(
        context_length=16, width=32, heads=2, layers=2, output_dim=32, embed_cls=True, output_tokens=True,
        correct_cls_mask=correct,
    )  # fmt: skip
    theirs.load_state_dict(tower.state_dict())
    pooled, states = theirs.eval()(full(tokens))
    for width in (tokens.shape[1], tokens.shape[1] + 1, 16):
        found, kept = tower(full(tokens, width))
        torch.testing.assert_close(found, pooled, rtol=1e-5, atol=1e-5)
        is_real = (tokens != 0)[..., None]
        torch.testing.assert_close(
            kept[:, : tokens.shape[1]] * is_real, states[:, : tokens.shape[1]] * is_real, rtol=1e-5, atol=1e-5
        )


@torch.no_grad()
@pytest.mark.parametrize("place", range(4))
def test_a_token_changes_no_state_before_its_own(place):
    tower, tokens = tower_of()
    changed = tokens.clone()
    changed[:, place] = changed[:, place] % 1000 + 7
    before, after = tower(tokens)[1], tower(changed)[1]
    assert torch.equal(before[:, :place], after[:, :place])
    assert not torch.equal(before[:, place], after[:, place])


@torch.no_grad()
def test_the_class_token_is_seen_by_no_token():
    tower, tokens = tower_of()
    pooled, states = tower(tokens)
    tower.cls_emb += 1.0
    other, same = tower(tokens)
    assert torch.equal(states, same)
    assert not torch.allclose(pooled, other)


@torch.no_grad()
def test_the_class_token_sees_no_padding_but_in_open_clips_mask():
    tower, tokens = tower_of()
    before = tower(tokens)[0]
    tower.token_embedding.weight[0] += 1.0  # of padding
    assert torch.equal(tower(tokens)[0], before)
    assert not torch.allclose(legacy(tower)(tokens)[0], before)


@torch.no_grad()
def test_the_class_token_sees_every_token_of_its_caption():
    tower, tokens = tower_of()
    before = tower(tokens)[0]
    length = int((tokens[2] != 0).sum())
    for place in range(length):
        changed = tokens.clone()
        changed[2, place] = changed[2, place] % 1000 + 7
        after = tower(changed)[0]
        assert torch.equal(after[[0, 1, 3]], before[[0, 1, 3]]) and not torch.allclose(after[2], before[2])


def test_captions_without_a_decoder_are_cut_in_groups():
    settings = {key: value for key, value in COCA.items() if key != "decoder"}
    alone, whole = tiny_model(**settings).eval(), tiny_model(**settings, text_buckets=1).eval()
    tokens, lengths = alone.tokenizer(CAPTIONS)
    torch.testing.assert_close(
        alone.embed_tokens(tokens, lengths.numpy()), whole.embed_tokens(tokens, lengths.numpy()), rtol=1e-5, atol=1e-6
    )


def test_a_shorter_context_keeps_the_place_of_the_class_token(tmp_path):
    model = tiny_model(**COCA)
    save_file(model.core.state_dict(), tmp_path / "weights.safetensors")
    ours = model.core.text.positional_embedding
    short = tiny_model(
        **{**COCA, "text": {**COCA["text"], "context_length": 8}},
        weights=str(tmp_path / "weights.safetensors"),
        moved=False,
    )
    assert torch.equal(short.core.text.positional_embedding, torch.cat([ours[:8], ours[-1:]]))


def test_a_tower_without_a_causal_mask_has_no_such_token():
    with pytest.raises(RecipeError, match="cls"):
        tiny_model(text={**TEXT, "causal": False, "pool": "cls"})
