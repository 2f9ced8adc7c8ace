"""Selective recomputation: the gradients of none at all, and a cost between that and whole blocks again."""

import copy
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.towers.tiny import COCA, TEXT, VIT, tiny_batch, tiny_bert, tiny_model
from vlp.ground.types import RecipeError
from vlp.step.kept_bytes import KeptBytes
from vlp.towers.compiling import compile_towers

TIMM = {"type": "timm"}
WAYS = (False, "selective", True)


def pass_of(model):
    """Return gradients, bytes kept between forward and backward, and operations of the backward pass."""
    pixels, tokens, lengths = tiny_batch(model)
    kept = KeptBytes(math.inf, (*model.parameters(), *model.buffers()))
    counter = FlopCounterMode(display=False)
    torch.manual_seed(5)
    with counter:
        with kept:
            found = model(pixels, tokens, lengths.numpy())
        bytes_kept, forward = kept.bytes, counter.get_total_flops()
        parts = [found.image[:, 0].sum(), found.text[:, 0].sum()]
        sum(parts if found.caption_losses is None else [*parts, found.caption_losses.sum()]).backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return gradients, bytes_kept, counter.get_total_flops() - forward


@pytest.fixture
def settings(request, tmp_path):
    found = {
        "open_clip": {"image": {**VIT, "patch_dropout": 0.5}},
        "convolutions": {"image": {**TIMM, "name": "test_convnext"}},
        "decoder": COCA,
    }
    if request.param == "timm and transformers":
        text = {"type": "transformers", "name": tiny_bert(tmp_path), "context_length": 24}
        return {"image": {**TIMM, "name": "test_vit", "drop_path": 0.2}, "text": text}
    return found[request.param]


@pytest.mark.parametrize("settings", ["open_clip", "timm and transformers", "convolutions", "decoder"], indirect=True)
def test_gradients_are_the_same_and_cost_lies_between(settings):
    plain, selective, whole = (pass_of(tiny_model(**settings, grad_checkpointing=way)) for way in WAYS)
    assert plain[0].keys() == selective[0].keys()
    for name, gradient in plain[0].items():
        assert torch.equal(gradient, selective[0][name]), name
    assert whole[1] < selective[1] < plain[1]
    assert plain[2] == selective[2] < whole[2]


def gradients_of_texts(model, *, views=1, number_format=None):
    """Return the gradients of the text tower, which reads so many views of captions."""
    pixels, tokens, lengths = tiny_batch(model)
    torch.manual_seed(5)
    if number_format is None:
        found = model(pixels, tokens.expand(views, -1, -1), lengths.expand(views, -1).numpy())
        (found.text[:, 0].sum() + sum(view.sum() for view in found.text_views)).backward()
    else:
        with torch.autocast("cpu", dtype=number_format):
            found = model.embed_tokens(tokens[0], lengths[0])
        found[:, 0].sum().backward()
    return [value.grad for value in model.core.text.parameters()]


def test_other_views_are_read_with_the_same_dropout():
    plain, selective = (
        gradients_of_texts(tiny_model(text_dropout=0.5, grad_checkpointing=way), views=2) for way in WAYS[:2]
    )
    assert all(map(torch.equal, plain, selective))


def test_groups_of_captions_in_one_autocast_cast_each_their_own():
    plain, selective = (
        gradients_of_texts(tiny_model(grad_checkpointing=way), number_format=torch.bfloat16) for way in WAYS[:2]
    )
    for ours, theirs in zip(plain, selective, strict=True):  # plain groups share a cast, and add up in bfloat16
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02 * float(ours.abs().max()))


def test_a_copy_recomputes_with_its_own_weights():
    model = tiny_model(grad_checkpointing="selective")
    other = copy.deepcopy(model)
    gradients = gradients_of_texts(other)
    assert all(gradient is not None for gradient in gradients)
    assert all(value.grad is None for value in model.core.text.parameters())


@pytest.mark.parametrize("way", WAYS[1:])
def test_batch_norms_that_would_see_a_batch_twice_are_refused(way):
    with pytest.raises(RecipeError, match=r"model\.lock_batch_norm=true"):
        tiny_model(image={**TIMM, "name": "test_resnet"}, grad_checkpointing=way)
    tiny_model(image={**TIMM, "name": "test_resnet"}, grad_checkpointing=way, lock_batch_norm=True)


@pytest.mark.long
@pytest.mark.parametrize("whole", [True, False])
def test_compiled_towers_keep_as_much(whole):
    found = []
    for way in WAYS[:2]:
        model = tiny_model(text=TEXT, grad_checkpointing=way, text_buckets=1)
        compile_towers(model.core, whole=whole)
        found.append(pass_of(model))
    (plain, most, _), (selective, less, _) = found
    assert less < most
    for name, gradient in plain.items():
        torch.testing.assert_close(gradient, selective[name], rtol=1e-4, atol=1e-5)
