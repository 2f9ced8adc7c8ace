"""Folders of transformers' SigLIP, written by transformers itself: the same numbers, or a refusal that says why."""

from __future__ import annotations

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional

from tests.towers.tiny import tiny_images
from vlp.ground.types import RecipeError
from vlp.towers.encoder import TowerEncoder
from vlp.towers.load import load_model
from vlp.towers.transformers_folders import read_folder

LENGTH = 16
WORDS = ["pad", "</s>", "unk", "a", "cat", "dog", "that", "sleeps"]
TEXTS = ["a cat", "a dog that sleeps"]
# The smallest image tower of this kind that timm has, and a small text tower.
VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 16,
    "image_size": 224,
}
TEXT = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": len(WORDS),
    "max_position_embeddings": LENGTH,
    "projection_size": VISION["hidden_size"],
    "bos_token_id": 1,
    "eos_token_id": 1,
}


def words() -> transformers.PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="unk"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="</s>", eos_token="</s>", unk_token="unk", model_max_length=LENGTH
    )


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    torch.manual_seed(0)
    model = transformers.SiglipModel(transformers.SiglipConfig(text_config=TEXT, vision_config=VISION)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # what begins as zeros and ones too
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    words().save_pretrained(folder)
    transformers.SiglipImageProcessor(size={"height": 224, "width": 224}).save_pretrained(folder)
    return folder, model


@pytest.fixture
def described(tmp_path):
    """A folder that says what the model is, and holds none."""
    transformers.SiglipConfig(text_config=TEXT, vision_config=VISION).save_pretrained(tmp_path)
    return tmp_path


@torch.no_grad()
def test_a_siglip_of_transformers_is_the_same_model(theirs):
    folder, model = theirs
    found = load_model(str(folder))
    images = [image.resize((224, 224)) for image in tiny_images()]
    pixels = transformers.SiglipImageProcessor.from_pretrained(folder)(images=images, return_tensors="pt")[
        "pixel_values"
    ]
    ids = words()(TEXTS, padding="max_length", max_length=LENGTH, return_tensors="pt")["input_ids"]
    seen, read = model.vision_model(pixel_values=pixels), model.text_model(input_ids=ids)
    ours = TowerEncoder(found)
    # timm's GELU is exact where that of transformers is the approximation with tanh.
    assert (ours.embed_images(images) - functional.normalize(seen.pooler_output, dim=-1)).abs().max() < 1e-4
    assert (ours.embed_texts(TEXTS) - functional.normalize(read.pooler_output, dim=-1)).abs().max() < 1e-6
    assert found.core.logit_scale.item() == model.logit_scale.item()
    assert found.core.logit_bias.item() == model.logit_bias.item()
    assert all(part.found == part.of for part in found.loaded)
    assert found.preprocess_cfg["mean"] == (0.5, 0.5, 0.5)
    assert found.preprocess_cfg["resize_mode"] == "squash"


@pytest.mark.parametrize(
    ("change", "words_of_refusal"),
    [
        ({"num_attention_heads": 8}, "no SigLIP tower of timm has the sizes of this one .*heads 8"),
        ({"hidden_act": "quick_gelu"}, "timm's SigLIP towers have GELU, not 'quick_gelu'"),
    ],
)
def test_what_timm_has_not_is_refused(tmp_path, change, words_of_refusal):
    transformers.SiglipConfig(text_config=TEXT, vision_config=VISION | change).save_pretrained(tmp_path)
    words().save_pretrained(tmp_path)
    transformers.SiglipImageProcessor(size={"height": 224, "width": 224}).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(RecipeError, match=words_of_refusal):
        load_model(str(tmp_path))


def test_images_are_prepared_as_the_processor_says_that_transformers_5_writes(described):
    images = transformers.SiglipImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], resample=2)
    transformers.SiglipProcessor(images, words()).save_pretrained(described)
    assert not (described / "preprocessor_config.json").exists()
    found = read_folder(described)["preprocess_cfg"]
    assert (found["mean"], found["std"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert (found["interpolation"], found["resize_mode"]) == ("bilinear", "squash")


@pytest.mark.parametrize("content", [None, "[]", '{"do_rescale": true}'])
def test_images_of_a_siglip_that_says_nothing_of_them_are_prepared_as_its_class_does(described, content):
    if content is not None:
        (described / "preprocessor_config.json").write_text(content)
    found, usual = read_folder(described)["preprocess_cfg"], transformers.SiglipImageProcessor()
    assert (found["mean"], found["std"]) == (tuple(usual.image_mean), tuple(usual.image_std))
    assert (found["interpolation"], found["resize_mode"]) == ("bicubic", "squash")


def test_images_that_are_not_normalised_stay_so_and_an_unknown_filter_is_refused(described):
    images = transformers.SiglipImageProcessor(do_normalize=False)
    images.save_pretrained(described)
    found = read_folder(described)["preprocess_cfg"]
    assert (set(found["mean"]), set(found["std"])) == ({0.0}, {1.0})
    transformers.SiglipImageProcessor(resample=1).save_pretrained(described)
    with pytest.raises(RecipeError, match=r"resized by filter 1 of Pillow, open_clip knows 3 \(bicubic\) and 2"):
        read_folder(described)
