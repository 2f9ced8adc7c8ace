"""Captions one behind the other: the layout is the least, and the towers compute what open_clip's own do."""

from __future__ import annotations

import copy
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transformer import ResidualAttentionBlock, TextTransformer

from tests.towers.tiny import SIGLIP_TEXT, TEXT, tiny_batch, tiny_model
from vlp.towers import packed_text, unpadded_attention
from vlp.towers.attention import LeanBlock
from vlp.towers.caption_layout import FEWEST, cut, lay_out, lay_out_unpadded
from vlp.towers.packed_text import can_pack
from vlp.towers.unpadded_attention import can_attend_unpadded

CPU = torch.device("cpu")
LENGTHS = st.lists(st.integers(2, 14), min_size=1, max_size=14).map(np.array)


def least(lengths, num_groups):
    """Try every way to cut the sorted captions."""
    ordered, found = sorted(lengths), []
    for number in range(num_groups):
        for cuts in combinations(range(1, len(ordered)), number):
            groups = np.split(ordered, cuts)
            if all(len(group) >= min(FEWEST, len(ordered)) for group in groups):
                found.append(sum(len(group) * max(group) for group in groups))
    return min(found)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 4))
def test_no_other_groups_have_less_padding(lengths, num_groups):
    groups = cut(lengths, num_groups)
    assert 1 <= len(groups) <= num_groups
    assert sum(count for count, _ in groups) == len(lengths)
    assert sum(count * longest for count, longest in groups) == least(lengths, num_groups)
    assert groups == sorted(groups, key=lambda group: group[1])


@settings(max_examples=100, deadline=None)
@given(LENGTHS, st.integers(1, 4), st.integers(14, 20))
def test_every_token_has_a_place(lengths, num_groups, width):
    layout = lay_out(lengths, width, num_groups, CPU)
    assert len(layout.tokens) == len(layout.positions) == sum(count * longest for count, longest in layout.groups)
    for number, (start, length) in enumerate(zip(layout.starts.tolist(), lengths, strict=True)):
        assert layout.tokens[start : start + length].tolist() == list(range(number * width, number * width + length))
        assert layout.positions[start : start + length].tolist() == list(range(length))


@settings(max_examples=100, deadline=None)
@given(LENGTHS, st.integers(14, 20))
def test_without_padding_every_token_has_the_only_place(lengths, width):
    layout = lay_out_unpadded(lengths, width, CPU)
    assert len(layout.tokens) == len(layout.positions) == lengths.sum()
    assert layout.bounds.tolist() == [*layout.starts.tolist(), lengths.sum()]
    assert layout.longest == lengths.max()
    for number, (start, length) in enumerate(zip(layout.starts.tolist(), lengths, strict=True)):
        assert layout.tokens[start : start + length].tolist() == list(range(number * width, number * width + length))
        assert layout.positions[start : start + length].tolist() == list(range(length))


def as_open_clip_has_it(tower):
    """Return the tower with open_clip's own classes."""
    tower = copy.deepcopy(tower)
    tower.__class__ = TextTransformer
    for block in tower.transformer.resblocks:
        block.__class__ = ResidualAttentionBlock
    return tower


@pytest.mark.parametrize("more", [{}, {"proj_bias": True}, {"pool": "eos"}])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_embeddings_and_gradients_are_those_of_open_clip(more, checkpointing):
    model = tiny_model(text={**TEXT, **more}, grad_checkpointing=checkpointing).double()
    assert can_pack(model.core.text)
    _, tokens, lengths = tiny_batch(model)
    direction = torch.randn(tokens.shape[1], 16, dtype=torch.float64)
    theirs = as_open_clip_has_it(model.core.text)
    whole = torch.nn.functional.pad(tokens[0], (0, 77 - tokens.shape[2]))
    expected = torch.nn.functional.normalize(theirs(whole), dim=-1)
    found = model.embed_tokens(tokens[0], lengths[0])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6, check_dtype=False)
    (found * direction).sum().backward()
    (expected * direction).sum().backward()
    gradients = {name: value.grad for name, value in model.core.text.named_parameters()}
    for name, value in theirs.named_parameters():
        torch.testing.assert_close(gradients[name], value.grad, rtol=1e-4, atol=1e-6, msg=name)


def read_slowly(queries, keys, values, begin, end, longest_asking, longest_asked, *, window_size):
    """What torch's kernel, which is for CUDA alone, promises: caption by caption, [tokens, heads, width]."""
    assert begin is end and begin.dtype == torch.int32 and window_size == (-1, 0)
    bounds = begin.tolist()
    assert longest_asking == longest_asked == max(np.diff(bounds)) and bounds[-1] == len(queries)
    parts = []
    for first, last in pairwise(bounds):
        scores = torch.einsum("qhc,khc->hqk", queries[first:last], keys[first:last]) / queries.shape[-1] ** 0.5
        unseen = torch.ones(last - first, last - first, dtype=torch.bool).triu(1)
        shares = scores.masked_fill(unseen, -torch.inf).softmax(dim=-1)
        parts.append(torch.einsum("hqk,khc->qhc", shares, values[first:last]))
    return torch.cat(parts)


@pytest.fixture
def _unpadded(monkeypatch):
    """Let towers take captions without padding, as on a GPU."""
    monkeypatch.setattr(packed_text, "can_attend_unpadded", lambda *_: True)
    monkeypatch.setattr(unpadded_attention, "kernel", read_slowly)


@pytest.mark.usefixtures("_unpadded")
@pytest.mark.parametrize("more", [{}, {"proj_bias": True}, {"pool": "eos"}])
@pytest.mark.parametrize("checkpointing", [False, True, "selective"])
def test_without_padding_embeddings_and_gradients_are_those_of_groups(more, checkpointing):
    model = tiny_model(text={**TEXT, **more}, grad_checkpointing=checkpointing).double()
    _, tokens, lengths = tiny_batch(model)
    assert len(lengths[0].unique()) > 3
    direction = torch.randn(tokens.shape[1], 16, dtype=torch.float64)
    found = {}
    for buckets in ("auto", 2):
        model.text_buckets = buckets
        model.zero_grad()
        rows = model.embed_tokens(tokens[0], lengths[0])
        (rows * direction).sum().backward()
        found[buckets] = [rows.detach(), *(value.grad.clone() for value in model.core.text.parameters())]
    for ours, padded in zip(found["auto"], found[2], strict=True):
        torch.testing.assert_close(ours, padded, rtol=1e-6, atol=1e-7, check_dtype=False)


@pytest.mark.usefixtures("_unpadded")
def test_captions_without_padding_may_be_adapted(monkeypatch):
    model = tiny_model(tune={"type": "lora", "rank": 2})
    _, tokens, lengths = tiny_batch(model)
    adapted = [model.embed_tokens(tokens[0], lengths[0])]
    model.text_buckets = 1
    adapted.append(model.embed_tokens(tokens[0], lengths[0]))
    torch.testing.assert_close(*adapted, rtol=1e-5, atol=1e-6)


def test_who_wants_groups_gets_them(monkeypatch):
    monkeypatch.setattr(packed_text, "can_attend_unpadded", lambda *_: pytest.fail("nobody asked"))
    model = tiny_model(text_buckets=3)
    _, tokens, lengths = tiny_batch(model)
    assert torch.isfinite(model.embed_tokens(tokens[0], lengths[0])).all()


def test_padding_is_left_out_where_a_kernel_is(monkeypatch):
    if unpadded_attention.kernel is None:
        pytest.skip("torch has no such kernel before 2.11")
    capability = [(8, 0)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability[0])
    cuda = torch.device("cuda", 0)
    assert can_attend_unpadded(cuda, torch.bfloat16, 64) and can_attend_unpadded(cuda, torch.float16, 32)
    assert not can_attend_unpadded(CPU, torch.bfloat16, 64)
    assert not can_attend_unpadded(cuda, torch.float32, 64)
    assert not can_attend_unpadded(cuda, torch.bfloat16, 60)
    assert not can_attend_unpadded(cuda, torch.bfloat16, 264)
    torch.use_deterministic_algorithms(True)
    try:
        assert not can_attend_unpadded(cuda, torch.bfloat16, 64)
    finally:
        torch.use_deterministic_algorithms(False)
    capability[0] = (7, 5)
    assert not can_attend_unpadded(cuda, torch.bfloat16, 64)
    monkeypatch.setattr(unpadded_attention, "kernel", None)
    capability[0] = (9, 0)
    assert not can_attend_unpadded(cuda, torch.bfloat16, 64)


def test_a_caption_that_holds_the_end_token_is_pooled_there():
    """As open_clip does: at the first of the highest numbers."""
    model = tiny_model()
    _, tokens, lengths = tiny_batch(model)
    tokens[0, 1, 3] = tokens.max()
    whole = torch.nn.functional.pad(tokens[0], (0, 77 - tokens.shape[2]))
    expected = torch.nn.functional.normalize(as_open_clip_has_it(model.core.text)(whole), dim=-1)
    torch.testing.assert_close(model.embed_tokens(tokens[0], lengths[0]), expected, rtol=1e-5, atol=1e-6)


def test_images_are_those_of_open_clip_with_fewer_copies():
    model = tiny_model()
    pixels = tiny_batch(model)[0][0]
    blocks = [module for module in model.core.visual.modules() if isinstance(module, LeanBlock)]
    assert len(blocks) == 2
    ours = model.core.visual(pixels)
    for block in blocks:
        block.__class__ = ResidualAttentionBlock
    torch.testing.assert_close(ours, model.core.visual(pixels), rtol=1e-5, atol=1e-6)


def test_what_is_more_than_plain_attention_stays_open_clips():
    model = tiny_model()
    block = model.core.text.transformer.resblocks[0]
    block.__class__ = ResidualAttentionBlock
    assert not can_pack(model.core.text)
    siglip = tiny_model(text=SIGLIP_TEXT)
    assert all(type(block) is LeanBlock for block in siglip.core.text.transformer.resblocks)  # it gets no layout


def test_towers_of_half_an_open_clip_still_cut_by_group():
    model = tiny_model()
    _, tokens, lengths = tiny_batch(model)
    packed = model.embed_tokens(tokens[0], lengths[0])
    for block in model.core.text.transformer.resblocks:
        block.__class__ = ResidualAttentionBlock
    torch.testing.assert_close(model.embed_tokens(tokens[0], lengths[0]), packed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("change", ["another class", "a hook"])
def test_who_changes_an_attention_or_listens_to_it_is_heard(change):
    model = tiny_model()
    _, tokens, lengths = tiny_batch(model)
    before = model.embed_tokens(tokens[0], lengths[0])
    calls = []
    for tower in (model.core.text, model.core.visual):
        layer = tower.transformer.resblocks[0].attn
        if change == "a hook":
            layer.register_forward_hook(lambda *_: calls.append(1))
        else:
            layer.__class__ = type("Adapted", (type(layer),), {})  # as adapters make of an attention
            layer.forward = lambda *given, own=layer.forward, **named: calls.append(1) or own(*given, **named)
    assert not can_pack(model.core.text)
    torch.testing.assert_close(model.embed_tokens(tokens[0], lengths[0]), before, rtol=1e-5, atol=1e-6)
    of_texts = len(calls)
    model.core.visual(tiny_batch(model)[0][0])
    assert 0 < of_texts < len(calls)
