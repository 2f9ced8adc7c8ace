"""Dual encoders that open_clip cannot build are run by transformers, and give what transformers gives."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional

from tests.evaluators.sets import write_classes
from tests.hub_double import hub_double
from tests.towers.tiny import tiny_images
from vlp.evaluate import evaluate_model, load
from vlp.ground.types import RecipeError
from vlp.run.subject import find_subject
from vlp.towers.borrowed import BorrowedModel
from vlp.towers.dual import DualEncoder
from vlp.towers.encoder import TowerEncoder
from vlp.towers.load import load_any_model, load_model

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "dog", "that", "sleeps", "of", "photo"]
TEXTS = ["a cat", "a dog that sleeps"]
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**SMALL, "image_size": 32, "patch_size": 8}
TEXT = {**SMALL, "vocab_size": len(WORDS), "max_position_embeddings": 16, "bos_token_id": 2, "eos_token_id": 3}


def clipseg():
    config = transformers.CLIPSegConfig(text_config=TEXT, vision_config=VISION, projection_dim=24)
    return transformers.CLIPSegModel(config)


def siglip2():
    vision = {**SMALL, "patch_size": 8, "num_patches": 16}
    text = {**TEXT, "projection_size": 32}
    return transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision))


def chinese_clip():
    config = transformers.ChineseCLIPConfig(
        text_config={**SMALL, "vocab_size": len(WORDS), "max_position_embeddings": 16},
        vision_config=VISION,
        projection_dim=24,
    )
    return transformers.ChineseCLIPModel(config)


SIZE = {"height": 32, "width": 32}
PREPARED = {
    clipseg: lambda: transformers.CLIPImageProcessor(size=SIZE, do_center_crop=False),
    siglip2: lambda: transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16),
    chinese_clip: lambda: transformers.ChineseCLIPImageProcessor(size=SIZE, do_center_crop=False),
}


def words():
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        eos_token="[SEP]",
        model_max_length=16,
    )


def write(folder, make):
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    words().save_pretrained(folder)
    PREPARED[make]().save_pretrained(folder)
    return model


@pytest.fixture(params=PREPARED, ids=lambda make: make.__name__)
def theirs(request, tmp_path):
    return tmp_path / "model", write(tmp_path / "model", request.param)


def features(found):
    return functional.normalize(found if isinstance(found, torch.Tensor) else found.pooler_output, dim=-1)


@torch.no_grad()
def test_embeddings_are_those_of_transformers(theirs):
    folder, model = theirs
    encoder = load(str(folder))
    images = [image.convert("RGB") for image in tiny_images()]
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    prepared = processor(images=images, return_tensors="pt")
    fill = {"padding": "max_length"} if model.config.model_type == "siglip2" else {"padding": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(TEXTS, max_length=16, truncation=True, return_tensors="pt", **fill)
    assert torch.allclose(encoder.embed_images(images), features(model.get_image_features(**prepared)), atol=1e-6)
    assert torch.allclose(encoder.embed_texts(TEXTS), features(model.get_text_features(**tokens)), atol=1e-6)
    assert encoder.scale == pytest.approx(float(model.logit_scale.exp()))


def test_what_else_a_batch_holds_changes_nothing(theirs):
    encoder = load(str(theirs[0]))
    together = encoder.embed_texts(TEXTS)
    alone = torch.cat([encoder.embed_texts([text]) for text in TEXTS])
    assert torch.allclose(together, alone, atol=1e-6)
    long = encoder.embed_texts(["a " * 100])
    assert long.shape == together[:1].shape


def test_such_a_model_is_evaluated(theirs, tmp_path, capsys):
    write_classes(tmp_path / "set")
    (tmp_path / "task.yaml").write_text(
        f"version: 1\nevaluator: zero_shot\nmain_metric: acc1\ndata: {{root: {tmp_path}/set}}\n"
    )
    assert evaluate_model(str(theirs[0]), [str(tmp_path / "task.yaml")], tmp_path / "out") == 0
    record = json.loads((tmp_path / "out" / "task.json").read_text())
    assert record["preprocess"]["image_processor_type"]
    assert record["model_checksum"] > 0


def test_the_width_is_known(theirs):
    folder, model = theirs
    subject = find_subject(str(folder))
    assert isinstance(subject.model, BorrowedModel)
    assert subject.model.embed_dim == load(str(folder)).embed_images(tiny_images()).shape[1]
    assert len(list(subject.tensors())) == len(model.state_dict())


def test_weights_that_are_missing_are_refused(tmp_path):
    write(tmp_path / "model", clipseg)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RecipeError, match=r"1 tensors have no weights there, text_projection\.weight"):
        load_any_model(str(tmp_path / "model"))


def test_a_model_of_one_side_is_refused(tmp_path):
    config = transformers.ViTConfig(**SMALL, image_size=32, patch_size=8)
    transformers.ViTModel(config).save_pretrained(tmp_path)
    words().save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size=SIZE).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="a vit of transformers is no dual encoder"):
        load_any_model(str(tmp_path))


def test_a_folder_without_its_tokenizer_says_so(tmp_path):
    write(tmp_path / "model", clipseg)
    for path in (tmp_path / "model").glob("token*"):
        path.unlink()
    with pytest.raises(RecipeError, match="no tokenizer"):
        load_any_model(str(tmp_path / "model"))


def test_a_clip_of_sentence_transformers_is_found(tmp_path):
    write(tmp_path / "whole" / "0_CLIPModel", clipseg)
    modules = [{"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}]
    (tmp_path / "whole" / "modules.json").write_text(json.dumps(modules))
    found = load_any_model(str(tmp_path / "whole"))
    assert isinstance(found, BorrowedModel) and found.folder.name == "0_CLIPModel"


def clip_folder(folder):
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=24)
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    words().save_pretrained(folder)
    transformers.CLIPImageProcessor(size=SIZE, do_center_crop=False).save_pretrained(folder)


@pytest.mark.parametrize("kind", ["models.CLIPModel", "base.modules.transformer.Transformer"])
def test_a_clip_that_sentence_transformers_keeps_in_the_folder_itself_is_found(tmp_path, kind):
    clip_folder(tmp_path)
    modules = [{"idx": 0, "name": "0", "path": "", "type": f"sentence_transformers.{kind}"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert isinstance(load_any_model(str(tmp_path)), DualEncoder)


@pytest.mark.parametrize("inner", ["", "0_CLIPModel"])
def test_what_sentence_transformers_puts_behind_a_clip_is_not_left_out_silently(tmp_path, inner):
    clip_folder(tmp_path / inner)
    types = {"CLIPModel": inner, "Normalize": "1_Normalize", "Dense": "2_Dense"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for kind, path in types.items()]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(RecipeError, match="puts Dense behind the CLIP, and these are not read"):
        load_any_model(str(tmp_path))
    (tmp_path / "modules.json").write_text(json.dumps(modules[:2]))
    assert isinstance(load_any_model(str(tmp_path)), DualEncoder)


def test_a_clip_that_open_clip_can_build_is_not_borrowed(tmp_path):
    clip_folder(tmp_path)
    assert isinstance(load_any_model(str(tmp_path)), DualEncoder)


def test_a_clip_that_it_cannot_build_is(tmp_path):
    clip_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "gelu"  # the text tower keeps QuickGELU
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert isinstance(load_any_model(str(tmp_path)), BorrowedModel)


LOAD = """
import sys, torch
from tests.towers.test_borrowed import TEXTS
from vlp.evaluate import load
for name in ("me/seg", "me/clip"):
    there, here = load("hf-hub:" + name), load(sys.argv[1] + "/" + name)
    assert torch.equal(there.embed_texts(TEXTS), here.embed_texts(TEXTS)), name
    print(type(there).__name__)
try:
    load("hf-hub:me/nothing")
except ValueError as error:
    print(error)

from vlp.recipe.compose import load_recipe
from vlp.recipe.model import build_model

start = build_model(load_recipe("finetune", ("model.weights=hf-hub:me/clip",)).model)
assert all(map(torch.equal, start.parameters(), load(f"{sys.argv[1]}/me/clip").model.parameters()))
print(start.origins()[0])
"""


def test_a_page_of_the_hub_for_transformers(tmp_path):
    """One process for all of it: the hub's client reads its environment when it is imported."""
    write(tmp_path / "me" / "seg", clipseg)
    clip_folder(tmp_path / "me" / "clip")
    with hub_double() as hub:
        for name in ("me/seg", "me/clip"):
            files = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
            hub.repositories[name] = files | {"model.py": b"raise SystemExit", "old.bin": b"a pickle"}
        hub.repositories["me/nothing"] = {"README.md": b"nothing"}
        away = {"HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
        environment = {**os.environ, **away, "HF_HUB_OFFLINE": "0"}
        done = subprocess.run(
            [sys.executable, "-c", LOAD, str(tmp_path)], env=environment, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert lines[:2] == ["BorrowedEncoder", "TowerEncoder"]
    assert "cannot fetch open_clip_config.json of 'hf-hub:me/nothing'" in lines[2]
    assert re.fullmatch(r"image tower: (\d+) of \1 tensors from hf-hub:me/clip", lines[-1])
    assert not [call for call in hub.calls if call.endswith(("model.py", "old.bin"))]


def test_a_tokenizer_with_more_words_than_the_tower_is_refused(tmp_path):
    write(tmp_path / "model", clipseg)
    text = {**TEXT, "vocab_size": 5}
    config = transformers.CLIPSegConfig(text_config=text, vision_config=VISION, projection_dim=24)
    transformers.CLIPSegModel(config).save_pretrained(tmp_path / "model")
    with pytest.raises(RecipeError, match=r"its tokenizer gives 10 for .* its text tower has 5 words"):
        load_any_model(str(tmp_path / "model"))


def test_features_before_the_projection(theirs):
    encoder = load(str(theirs[0]))
    if encoder.model.kind.startswith("siglip"):
        with pytest.raises(RecipeError, match=r"features: a siglip2.* has no projection of images"):
            encoder.image_features(tiny_images())
        return
    found = encoder.image_features(tiny_images())
    with torch.no_grad():
        projected = functional.normalize(encoder.model.model.visual_projection(found), dim=-1)
    assert found.shape == (len(tiny_images()), SMALL["hidden_size"])
    assert torch.allclose(projected, encoder.embed_images(tiny_images()), atol=1e-6)


EXACT = (
    {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
    {"size": {"height": 32, "width": 32}, "crop_size": {"height": 32, "width": 32}},
    {"size": SIZE, "do_center_crop": False},
    {"size": SIZE, "do_center_crop": False, "do_normalize": False},
)
OTHERWISE = (
    {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}},
    {"size": {"height": 40, "width": 40}, "crop_size": {"height": 32, "width": 32}},
    {"do_resize": False, "crop_size": {"height": 32, "width": 32}},
    {"size": SIZE, "do_center_crop": False, "rescale_factor": 1 / 127.5},
    {"size": SIZE, "do_center_crop": False, "do_rescale": False},
)


@torch.no_grad()
@pytest.mark.parametrize("settings", [*EXACT, *OTHERWISE])
def test_images_are_prepared_as_the_folder_says_whoever_builds_the_model(tmp_path, settings):
    clip_folder(tmp_path)
    transformers.CLIPImageProcessor(**settings).save_pretrained(tmp_path)
    images = [Image.effect_noise(size, 50).convert("RGB") for size in ((64, 48), (40, 80))]  # cut evenly: others round
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    model = transformers.CLIPModel.from_pretrained(tmp_path)
    seen = model.visual_projection(model.vision_model(processor(images, return_tensors="pt")["pixel_values"])[1])
    found = load_any_model(str(tmp_path))
    assert isinstance(found, BorrowedModel if settings in OTHERWISE else DualEncoder)
    encoder = found.encoder("cpu") if isinstance(found, BorrowedModel) else TowerEncoder(found)
    torch.testing.assert_close(encoder.embed_images(images), functional.normalize(seen, dim=1), atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (OTHERWISE[0], "resized to 40 pixels and cut to 32"),
        (OTHERWISE[2], "not resized"),
        (OTHERWISE[3], "not scaled from 0 to 1"),
        ({"size": {"shortest_edge": 32}, "do_center_crop": False}, "resized to a shortest edge and not cut"),
        ({"size": {"longest_edge": 32, "shortest_edge": 32}}, "resized to a longest edge of 32 pixels"),
        ({"size": {"height": 48, "width": 48}, "do_center_crop": False}, "prepared with 48 pixels, .* sees 32"),
        ({"size": {"height": 32, "width": 48}, "do_center_crop": False}, "prepared with 32 x 48 pixels, .* sees 32"),
    ],
)
def test_a_start_from_images_that_open_clip_prepares_otherwise_is_refused(tmp_path, settings, said):
    clip_folder(tmp_path)
    told = {"image_processor_type": "CLIPImageProcessor"} | settings
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    with pytest.raises(RecipeError, match=f"its images are {said}"):
        load_model(str(tmp_path))
