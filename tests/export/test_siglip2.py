"""A model of native aspect becomes Siglip2Model, which gives the same embeddings; what it has no place for is named."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from tests.export.test_siglip import WORDS
from tests.towers.native import NATIVE, native_model, pictures
from tests.towers.tiny import CAPTIONS, SIGLIP_TEXT, tiny_bert
from vlp.export import export_model
from vlp.ground.types import RecipeError
from vlp.towers.encoder import TowerEncoder
from vlp.towers.load import load_model


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("words"))


def test_transformers_and_we_load_it_and_all_agree(tmp_path, words):
    model = native_model(text={**SIGLIP_TEXT, "tokenizer": words})
    report = export_model(model, tmp_path / "export", **WORDS)
    assert report.formats == ("transformers",)
    assert report.parity["transformers"]["class"] == "Siglip2Model"
    for library in ("vlp", "transformers"):
        for modality in ("image", "text"):
            assert report.parity[library][modality]["max_abs"] < 1e-5
    folder = report.folder
    assert json.loads((folder / "config.json").read_text())["model_type"] == "siglip2"
    assert "16 patches of 8 x 8 pixels" in (folder / "README.md").read_text()

    twin = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    images_of = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    reader = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    processor = transformers.Siglip2Processor(images_of, reader)
    inputs = processor(text=CAPTIONS, images=pictures(), return_tensors="pt")  # as they stand, with no sizes named
    with torch.no_grad():
        logits = twin(**inputs).logits_per_image
    ours = TowerEncoder(load_model(str(folder)))
    expected = ours.scale * ours.embed_images(pictures()) @ ours.embed_texts(CAPTIONS).T - 10.0
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    again = export_model(ours.model, tmp_path / "again", **WORDS)
    assert again.formats == report.formats


def test_with_its_own_tokenizer_a_siglip_2_is_read_by_auto_classes_alone(tmp_path):
    letters = ["<pad>", "<eos>", "<bos>", "<unk>", "\u2581", *"acdgot"]
    words = transformers.Siglip2Tokenizer(
        {one: place for place, one in enumerate(letters)}, [], padding_side="right", add_eos_token=True
    )
    words.save_pretrained(tmp_path / "words")
    model = native_model(text={**SIGLIP_TEXT, "tokenizer": str(tmp_path / "words")})
    folder = export_model(model, tmp_path / "export", **WORDS).folder
    processor = transformers.AutoProcessor.from_pretrained(folder, backend="pil")
    assert isinstance(processor, transformers.Siglip2Processor)
    inputs = processor(text=["a cat", "A DOG"], images=pictures(), return_tensors="pt")
    with torch.no_grad():
        found = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)(**inputs)
    ours = TowerEncoder(model)
    torch.testing.assert_close(found.image_embeds, ours.embed_images(pictures()), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.text_embeds, ours.embed_texts(["a cat", "A DOG"]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"text": SIGLIP_TEXT}, "Siglip2Model: CLIP's padding is the word '!'"),
        ({"image": {**NATIVE, "name": "naflexvit_tiny_bicubic_for_tests"}}, "Siglip2Model: it interpolates positions"),
        ({"image": {**NATIVE, "proj": "linear"}}, "Siglip2Model: its image tower has pool 'map'"),
    ],
)
def test_what_has_no_place_is_named(tmp_path, words, settings, reason):
    model = native_model(**{"text": {**SIGLIP_TEXT, "tokenizer": words}, **settings})
    with pytest.raises(RecipeError, match=reason):
        export_model(model, tmp_path / "export", **WORDS)
