"""An export loads in every library it names, agrees with the trained model, or does not exist."""

import hashlib
import json
import re
import shutil

import open_clip
import pytest
import torch
import transformers

from tests.towers.tiny import CAPTIONS, SIGLIP_TEXT, TEXT, VIT, tiny_bert, tiny_images, tiny_model
from vlp.export import export_model
from vlp.ground.types import RecipeError
from vlp.towers.encoder import TowerEncoder
from vlp.towers.load import load_model

RESULT = {
    "task": "toys",
    "version": 2,
    "metrics": {"acc1": {"value": 0.51234, "low": 0.4, "high": 0.6, "count": 100}},
}
WORDS = {"name": "tiny", "recipe_text": "name: tiny", "results": [RESULT], "data_note": "Drawn by a test."}


def export(model, folder, **settings):
    return export_model(model, folder / "export", **{**WORDS, **settings})


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    model = tiny_model()
    return model, export(model, tmp_path_factory.mktemp("plain"))


@pytest.mark.claim
@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize("resize_mode", ["squash", "shortest"])
def test_every_library_agrees(tmp_path, quick_gelu, resize_mode):
    model = tiny_model(
        image={**VIT, "quick_gelu": quick_gelu, "patch_dropout": 0.5},
        text={**TEXT, "quick_gelu": quick_gelu, "norm_eps": 1e-6, "context_length": 20, "pool": "eos"},
        resize_mode=resize_mode,
        interpolation="bilinear",
    )
    report = export(model, tmp_path)
    assert report.formats == ("open_clip", "transformers")
    assert model.training
    for library in ("open_clip", "vlp", "transformers"):
        for modality in ("image", "text"):
            assert report.parity[library][modality]["max_abs"] < 1e-5
    listed = {deviation["probe"] for deviation in report.parity["transformers"]["deviations"]}
    assert report.parity["transformers"]["token_mismatches"] == 2
    assert any(probe.startswith("RGB ") for probe in listed) is (resize_mode == "shortest")


@pytest.mark.claim
def test_the_folder_gives_the_trained_model_bit_for_bit(plain):
    model, report = plain
    loaded = load_model(str(report.folder)).state_dict()
    assert loaded.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded[name], value)


def test_other_libraries_load_it_by_their_own_words(plain):
    model, report = plain
    ours = TowerEncoder(model)
    place = f"local-dir:{report.folder}"
    core, transform = open_clip.create_model_from_pretrained(place)
    core.eval()
    twin = transformers.AutoModel.from_pretrained(report.folder, dtype=torch.float32)
    processor = transformers.AutoProcessor.from_pretrained(report.folder, backend="pil")
    picture = tiny_images()[0]
    with torch.no_grad():
        image = core.encode_image(transform(picture)[None], normalize=True)
        text = core.encode_text(open_clip.get_tokenizer(place)(CAPTIONS), normalize=True)
        words = processor(text=CAPTIONS, images=picture, padding=True, truncation=True, return_tensors="pt")
        output = twin(**words)
    torch.testing.assert_close(image, ours.embed_images([picture]), atol=1e-5, rtol=0)
    torch.testing.assert_close(text, ours.embed_texts(CAPTIONS), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.image_embeds, image, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.text_embeds, text, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.logits_per_image, ours.scale * image @ text.T, atol=1e-4, rtol=0)


def test_parts_load_alone(plain):
    folder = plain[1].folder
    assert transformers.AutoTokenizer.from_pretrained(folder)("a cat").input_ids == [49406, 320, 2368, 49407]
    assert transformers.AutoImageProcessor.from_pretrained(folder, backend="pil").size.shortest_edge == 32


def test_nothing_is_left_to_a_default(plain):
    config = json.loads((plain[1].folder / "config.json").read_text())
    for tower in ("text_config", "vision_config"):
        assert config[tower]["hidden_act"] == "gelu"
        assert config[tower]["layer_norm_eps"] == 1e-5
    assert config["text_config"]["eos_token_id"] == 49407
    assert config["dtype"] == "float32"


@pytest.mark.parametrize("name", ["vision_model.encoder.layers.1.self_attn.v_proj.weight", "text_projection.weight"])
def test_one_wrong_weight_refuses_the_export(tmp_path, monkeypatch, name):
    import vlp.export.as_clip as converter

    convert = converter.convert

    def corrupted(state):
        found = convert(state)
        found[name].view(-1)[3] += 0.5
        return found

    monkeypatch.setattr(converter, "convert", corrupted)
    with pytest.raises(RecipeError, match="transformers gives other"):
        export(tiny_model(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_wrong_activation_refuses_the_export(tmp_path, monkeypatch):
    import vlp.export.as_clip as converter

    plain_config = converter.clip_config
    wrong = {"hidden_act": "quick_gelu"}

    def swapped(model):
        config = plain_config(model)
        return {**config, "vision_config": {**config["vision_config"], **wrong}}

    monkeypatch.setattr(converter, "clip_config", swapped)
    with pytest.raises(RecipeError, match="image embeddings"):
        export(tiny_model(), tmp_path)


def test_a_convolutional_tower_is_named_and_goes_to_open_clip_alone(tmp_path):
    model = tiny_model(image={"type": "timm", "name": "test_resnet", "image_size": 64})
    report = export(model, tmp_path)
    assert report.formats == ("open_clip",)
    assert "test_resnet" in report.left_out["transformers"]
    assert "test_resnet" in (report.folder / "README.md").read_text()
    assert not (report.folder / "config.json").exists()
    assert load_model(str(report.folder)).image_size == 64


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"image": {**VIT, "pool": "avg"}}, "pool_type"),
        ({"image": {**VIT, "image_size": (32, 48)}}, "square"),
        ({"text": {**TEXT, "proj_bias": True}}, "proj_bias"),
        ({"text": SIGLIP_TEXT}, "causal"),
        ({"resize_mode": "longest"}, "longest"),
    ],
)
def test_what_transformers_cannot_express_is_named(tmp_path, settings, reason):
    report = export(tiny_model(**settings), tmp_path)
    assert report.formats == ("open_clip",)
    assert reason in report.left_out["transformers"]


def test_a_transformers_text_tower_travels_with_the_folder(tmp_path):
    bert = tiny_bert(tmp_path / "bert")
    model = tiny_model(text={"type": "transformers", "name": bert, "context_length": 24})
    report = export(model, tmp_path)
    (tmp_path / "bert").rename(tmp_path / "gone")
    core, _ = open_clip.create_model_from_pretrained(f"local-dir:{report.folder}")
    core.eval()
    ours = TowerEncoder(model).embed_texts(CAPTIONS)
    with torch.no_grad():
        tokenizer = open_clip.get_tokenizer(f"local-dir:{report.folder}")
        torch.testing.assert_close(core.encode_text(tokenizer(CAPTIONS), normalize=True), ours, atol=1e-5, rtol=0)
    moved = report.folder.rename(tmp_path / "moved")
    assert torch.equal(TowerEncoder(load_model(str(moved))).embed_texts(CAPTIONS), ours)


def test_an_export_with_a_transformers_text_tower_can_be_moved(tmp_path):
    """By the words of its card for open_clip, and for this project without any."""
    text = {"type": "transformers", "name": tiny_bert(tmp_path / "bert"), "context_length": 24}
    model = tiny_model(text=text)
    folder = export(model, tmp_path).folder
    shutil.rmtree(tmp_path / "bert")
    moved = folder.rename(tmp_path / "elsewhere")
    card = (moved / "README.md").read_text()
    (code,) = re.findall(r"```python\n(import json.*?)```", card, flags=re.DOTALL)
    found: dict = {}
    exec(code.replace("PATH", str(moved)), found)
    texts = ["a cat", "two dogs"]
    expected = TowerEncoder(model).embed_texts(texts)
    with torch.inference_mode():
        theirs = found["model"].encode_text(found["tokenizer"](texts), normalize=True)
    assert (theirs - expected).abs().max() < 1e-6
    assert torch.equal(TowerEncoder(load_model(str(moved))).embed_texts(texts), expected)


def test_the_bias_survives_and_the_card_tells_transformers_users(tmp_path):
    report = export(tiny_model(init_bias=-7.5), tmp_path)
    assert load_model(str(report.folder)).bias.item() == -7.5
    assert "-7.5" in (report.folder / "README.md").read_text()


def test_the_card_says_what_a_reader_needs(plain):
    card = (plain[1].folder / "README.md").read_text()
    for part in ("library_name: open_clip", "pipeline_tag:", "Drawn by a test.", "name: tiny", "[0.4000, 0.6000]"):
        assert part in card
    assert "create_model_from_pretrained" in card
    assert "AutoProcessor" in card
    assert json.loads((plain[1].folder / "eval" / "toys.json").read_text()) == RESULT


def test_checksums_are_those_of_the_files(plain):
    folder = plain[1].folder
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    assert len(lines) == sum(path.is_file() for path in folder.rglob("*")) - 1
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_an_existing_folder_is_not_overwritten(tmp_path):
    (tmp_path / "export").mkdir()
    with pytest.raises(RecipeError, match="exists already"):
        export(tiny_model(), tmp_path)


def test_formats_are_checked(tmp_path):
    with pytest.raises(RecipeError, match="unknown formats"):
        export(tiny_model(), tmp_path, formats=("tflite",))
    with pytest.raises(RecipeError, match="can express this model"):
        export(tiny_model(resize_mode="longest"), tmp_path, formats=("transformers",))
