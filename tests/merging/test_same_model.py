"""Models of one kind are told from those that only look alike."""

from __future__ import annotations

import pytest
import torch

from tests.towers.tiny import TEXT, VIT, tiny_bert, tiny_model
from vlp.ground.types import RecipeError
from vlp.merging.same_model import build_of, check_same_model

NAMES = ("transformer", "resnet")


def refused(first, other) -> str:
    with pytest.raises(RecipeError) as caught:
        check_same_model(build_of("a", first), build_of("b", other))
    return str(caught.value)


def test_other_weights_and_what_belongs_to_training_may_differ():
    plain = tiny_model()
    check_same_model(build_of("a", plain), build_of("b", tiny_model(moved=False)))
    check_same_model(build_of("a", plain), build_of("b", tiny_model(image={**VIT, "patch_dropout": 0.5})))
    check_same_model(build_of("a", plain), build_of("b", tiny_model(init_scale=30.0, freeze=("visual",))))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": {**VIT, "layers": 3}}, "another architecture (vision_cfg.layers 2 and 3)"),
        ({"image": {**VIT, "quick_gelu": True}, "text": {**TEXT, "quick_gelu": True}}, "quick_gelu False and True"),
        ({"embed_dim": 24}, "another architecture (embed_dim 16 and 24)"),
        ({"text": {**TEXT, "context_length": 20}}, "text_cfg.context_length 77 and 20"),
        ({"init_bias": -10.0}, "another shape of tensors (core.logit_bias absent and (1,) torch.float32)"),
        ({"mean": (0.5, 0.5, 0.5)}, "another preprocessing (mean "),
        ({"resize_mode": "squash"}, "another preprocessing (resize_mode shortest and squash)"),
    ],
)
def test_what_differs_is_named(changes, said):
    message = refused(tiny_model(), tiny_model(**changes))
    assert said in message
    assert message.startswith("'a' and 'b' cannot be put together")


def test_another_vocabulary_is_another_tokenizer(tmp_path):
    words = tiny_bert(tmp_path / "one")
    other = tiny_bert(tmp_path / "two")
    text = {"type": "transformers", "tokenizer": words, "pretrained": False, "context_length": 16}
    first = tiny_model(text={**text, "name": words})
    check_same_model(build_of("a", first), build_of("b", tiny_model(text={**text, "name": other, "tokenizer": other})))
    path = tmp_path / "two" / "tokenizer.json"
    path.write_text(path.read_text().replace('"cat": 5', '"cow": 5'))
    assert "another tokenizer (ids of 'a photo of a cat'" in refused(
        first, tiny_model(text={**text, "name": other, "tokenizer": other})
    )


def test_whole_numbers_must_be_equal_but_counters_may_differ():
    model, other = tiny_model(), tiny_model()
    for each in (model, other):
        each.core.visual.register_buffer("places", torch.arange(4))
        each.core.visual.norm = torch.nn.BatchNorm1d(3)
    other.core.visual.norm.num_batches_tracked += 5
    check_same_model(build_of("a", model), build_of("b", other))
    assert build_of("a", model).norms == 1
    other.core.visual.places += 1
    assert "tensors that are no real numbers (core.visual.places" in refused(model, other)
