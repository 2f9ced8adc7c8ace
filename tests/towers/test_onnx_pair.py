"""Two ONNX files give the embeddings of the model that they were exported from, and what cannot be read is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.evaluators.sets import write_classes
from tests.shards import write_shards
from tests.towers.tiny import CAPTIONS, tiny_bert, tiny_export, tiny_images, tiny_model
from vlp.embeddings.embed import embed
from vlp.embeddings.model_agreement import agree
from vlp.embeddings.parts import read_embeddings
from vlp.evaluate import evaluate_model, load
from vlp.ground.bits import checksum
from vlp.ground.types import RecipeError
from vlp.run.subject import find_subject
from vlp.towers.dual import DualEncoder
from vlp.towers.encoder import TowerEncoder
from vlp.towers.onnx_pair import OnnxPair

pytest.importorskip("onnxruntime", reason="pip install 'vlp[onnx]' to test pairs of ONNX files")
pytest.importorskip("onnxscript", reason="torch.onnx needs onnxscript")


class Part(nn.Module):
    """One method of a model as a model."""

    def __init__(self, core: nn.Module, method: str):
        super().__init__()
        self.core, self.method = core, method

    def forward(self, rows):
        return getattr(self.core, self.method)(rows)


def export(model: DualEncoder, folder: Path, *, batch: int | None = None, **changes) -> Path:
    """Write a pair.

    Args:
        batch: Rows that the towers take; any number when absent.
        changes: Keys of `onnx_pair.json`.
    """
    folder.mkdir(parents=True)
    size, length = model.image_size, model.context_length
    rows = {"image": torch.randn(batch or 2, 3, size, size), "text": torch.ones(batch or 2, length, dtype=torch.long)}
    for name, example in rows.items():
        shapes = None if batch else ({0: torch.export.Dim("batch", min=1, max=4096)},)
        part = Part(model.core, f"encode_{name}").eval()
        program = torch.onnx.export(part, (example,), dynamo=True, dynamic_shapes=shapes, verbose=False)
        program.save(str(folder / f"{name}.onnx"))
    told = {"preprocess_cfg": model.preprocess_cfg, "context_length": length, "scale": model.scale.item()}
    (folder / "onnx_pair.json").write_text(json.dumps(told | changes))
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return export(tiny_model(), tmp_path_factory.mktemp("pairs") / "any")


@pytest.fixture
def copied(pair, tmp_path):
    return Path(shutil.copytree(pair, tmp_path / "pair"))


def rewrite(folder: Path, **changes) -> Path:
    file = folder / "onnx_pair.json"
    file.write_text(json.dumps({key: value for key, value in (json.loads(file.read_text()) | changes).items()}))
    return folder


def check_equal(encoder, model: DualEncoder) -> None:
    theirs = TowerEncoder(model.eval())
    images = [image.convert("RGB") for image in tiny_images()]
    for size in (1, 2, len(images)):
        assert torch.allclose(encoder.embed_images(images[:size]), theirs.embed_images(images[:size]), atol=1e-5)
    assert torch.allclose(encoder.embed_texts(CAPTIONS), theirs.embed_texts(CAPTIONS), atol=1e-5)
    assert encoder.scale == pytest.approx(theirs.scale)
    assert encoder.embed_texts([]).shape == (0, 16)


def test_embeddings_are_those_of_the_model(pair):
    subject = find_subject(str(pair))
    assert isinstance(subject.model, OnnxPair)
    subject.check_tokenizer()
    assert subject.model.embed_dim == 16
    check_equal(subject.encoder("cpu"), tiny_model())
    check_equal(subject.encoder("cpu", batch_size=2), tiny_model())


def test_towers_of_a_fixed_batch_are_filled(tmp_path):
    check_equal(load(str(export(tiny_model(), tmp_path / "three", batch=3))), tiny_model())


def test_a_tokenizer_lies_in_the_folder(pair, tmp_path):
    tokenizer = tiny_bert(tmp_path / "bert")
    folder = Path(shutil.copytree(pair, tmp_path / "pair"))
    shutil.copytree(tokenizer, folder / "words")
    encoder = load(str(rewrite(folder, tokenizer="words")))
    ids, mask = encoder._tokens(["a cat"])
    assert ids[0, :4].tolist() == [2, 4, 5, 3] and ids[0, 4:].eq(0).all()
    assert mask.sum() == 4 and ids.shape == mask.shape == (1, 77)


def test_it_is_evaluated_and_embeds_like_the_export(pair, tmp_path, capsys):
    write_classes(tmp_path / "classes")
    task = tmp_path / "classes.yaml"
    task.write_text(
        f"version: 1\nevaluator: zero_shot\nmain_metric: acc1\ndata: {{root: {tmp_path / 'classes'}, samples: 5}}\n"
    )
    models = {"onnx": pair, "export": tiny_export(tmp_path / "export")}
    for name, model in models.items():
        assert evaluate_model(str(model), [str(task)], tmp_path / name) == 0
    ours, theirs = (json.loads((tmp_path / name / "classes.json").read_text()) for name in models)
    assert ours["metrics"] == theirs["metrics"]
    assert ours["details"]["predictions"] == theirs["details"]["predictions"]
    assert ours["preprocess"] == theirs["preprocess"]
    assert ours["model_checksum"] != theirs["model_checksum"]
    capsys.readouterr()
    write_shards(tmp_path / "shards", 1, 6)
    (tmp_path / "tiny.yaml").write_text("name: tiny\nshards: shards/*.tar\n")
    for name, model in models.items():
        embed(str(model), str(tmp_path / "tiny.yaml"), tmp_path / f"{name}-rows", file_format="npy", kind="float32")
    for side in ("images", "texts"):
        (ids, rows), (others, expected) = (read_embeddings(tmp_path / f"{name}-rows", side) for name in models)
        assert ids.tolist() == others.tolist() == list(range(6))
        np.testing.assert_allclose(rows, expected, atol=1e-5)


def test_it_agrees_with_the_export_in_all_but_weights_which_it_does_not_name(pair, tmp_path):
    export_folder = str(tiny_export(tmp_path / "export"))
    with pytest.raises(RecipeError, match="no weights of equal names and shapes"):
        agree(str(pair), export_folder)
    found = {metric.name: metric.value for metric in agree(str(pair), export_folder, "embedded-photos").metrics}
    assert found["moved_images"] < 1e-6 and found["cka_texts"] == pytest.approx(1)
    assert "weight_drift" not in found


def test_the_checksum_depends_on_every_file(copied):
    subject = find_subject(str(copied))
    found = [int(checksum(subject.tensors()))]
    assert found[0] == int(checksum(find_subject(str(copied)).tensors()))
    tower = bytearray((copied / "text.onnx").read_bytes())
    tower[len(tower) // 2] ^= 1
    for name, content in (("text.onnx", bytes(tower)), ("onnx_pair.json", b"{}"), ("text.onnx.data", b"weights")):
        (copied / name).write_bytes(content)
        found.append(int(checksum(subject.tensors())))
    assert len(set(found)) == 4


class Masked(nn.Module):
    """Means of embeddings of the tokens that count, and those of all tokens."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(49408, 16)

    def forward(self, input_ids, attention_mask):
        rows = self.words(input_ids)
        return (rows * attention_mask[..., None]).sum(dim=1) / attention_mask.sum(dim=1, keepdim=True), rows.mean(dim=1)


def test_a_tower_that_asks_for_a_mask_gets_one_and_its_output_is_chosen(copied):
    torch.manual_seed(0)
    tower = Masked().eval()
    example = (torch.ones(2, 77, dtype=torch.long), torch.ones(2, 77, dtype=torch.long))
    shapes = ({0: torch.export.Dim("batch", min=1, max=4096)},) * 2
    program = torch.onnx.export(
        tower, example, dynamo=True, dynamic_shapes=shapes, output_names=["mean", "all"], verbose=False
    )
    program.save(str(copied / "text.onnx"))
    with pytest.raises(RecipeError, match="which of its outputs are the features\\? name one of mean, all"):
        find_subject(str(copied))
    encoder = load(str(rewrite(copied, text_output="mean")))
    ids, _ = tiny_model().tokenizer(["a cat"])
    slow = nn.functional.normalize(tower.words(ids[0]).mean(dim=0), dim=0)
    assert torch.allclose(encoder.embed_texts(["a cat", "two dogs that run"])[0], slow, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image": "visual.onnx"}, r"visual\.onnx: no such file"),
        ({"contextlength": 77}, "contextlength.*context_length"),
        ({"preprocess_cfg": {"sise": 32}}, "preprocess_cfg: .*sise"),
        ({"text_output": "embeds"}, r"text\.onnx: which of its outputs are the features\? name one of"),
        ({"scale": -1}, "scale"),
        ({"image": "onnx_pair.json"}, r"onnx_pair\.json: onnxruntime cannot load it"),
    ],
)
def test_what_is_wrong_is_named(copied, changes, says):
    with pytest.raises(RecipeError, match=says):
        find_subject(str(rewrite(copied, **changes)))


def test_towers_that_are_swapped_are_refused(copied):
    encoder = load(str(rewrite(copied, image="text.onnx", text="image.onnx")))
    with pytest.raises(RecipeError, match=r"text\.onnx: onnxruntime: .*rank"):
        encoder.embed_images(tiny_images()[:1])


def test_broken_json_is_named(copied):
    (copied / "onnx_pair.json").write_text("{")
    with pytest.raises(RecipeError, match=r"onnx_pair\.json: "):
        find_subject(str(copied))
    (copied / "onnx_pair.json").write_text("[]")
    with pytest.raises(RecipeError, match="expected a JSON object"):
        find_subject(str(copied))
