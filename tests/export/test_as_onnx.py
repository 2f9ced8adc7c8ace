"""What no library has a place for is exported as a pair of ONNX files, which agree or do not exist."""

from __future__ import annotations

import sys

import pytest
import torch

from tests.export.test_export import export
from tests.towers.tiny import CAPTIONS, TEXT, tiny_images, tiny_model
from vlp.cli import main
from vlp.ground.types import RecipeError
from vlp.run.subject import find_subject
from vlp.towers.encoder import TowerEncoder
from vlp.towers.merged_prompts import merge_prompts
from vlp.towers.onnx_pair import OnnxPair

pytest.importorskip("onnxruntime", reason="pip install 'vlp[onnx]' to test pairs of ONNX files")
pytest.importorskip("onnxscript", reason="torch.onnx needs onnxscript")


def prompted_model(**settings):
    model = tiny_model(tune={"type": "prompts", **settings})
    merge_prompts(model)
    return model


def test_tokens_beside_patches_are_kept(tmp_path):
    model = prompted_model()
    report = export(model, tmp_path)
    assert report.formats == ("onnx",)
    assert set(report.left_out) == {"open_clip", "transformers"}
    assert "no tower has learned tokens beside its patches" in str(report)
    assert "vlp eval PATH" in (report.folder / "README.md").read_text()
    theirs, ours = find_subject(str(report.folder)).encoder("cpu"), TowerEncoder(model.eval())
    images = [image.convert("RGB") for image in tiny_images()]
    torch.testing.assert_close(theirs.embed_images(images), ours.embed_images(images), atol=1e-5, rtol=0)
    torch.testing.assert_close(theirs.embed_texts(CAPTIONS), ours.embed_texts(CAPTIONS), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "towers",
    [{}, {"image": {"type": "timm", "name": "resnet10t", "image_size": 32}, "text": TEXT | {"causal": False}}],
    ids=["transformers", "convolutions, and captions read in both directions"],
)
def test_towers_take_any_number_of_rows(tmp_path, towers):
    pair = OnnxPair(export(tiny_model(**towers), tmp_path, formats=("onnx",)).folder)
    assert pair.image.batch_size is None and pair.text.batch_size is None


def test_captions_of_learned_tokens_are_for_every_library(tmp_path):
    report = export(prompted_model(image=0), tmp_path)
    assert report.formats == ("open_clip", "transformers")
    for library in ("open_clip", "vlp", "transformers"):
        assert report.parity[library]["text"]["max_abs"] < 1e-5


def test_the_command_writes_a_pair_on_request(tmp_path, capsys):
    start = export(tiny_model(), tmp_path).folder
    main(["export", str(start), "--to", str(tmp_path / "pair"), "--formats", "onnx"])
    assert "loads and agrees in onnx" in capsys.readouterr().out
    assert {file.name for file in (tmp_path / "pair").glob("*.onnx")} == {"image.onnx", "text.onnx"}
    assert not (tmp_path / "pair" / "open_clip_config.json").exists()
    with pytest.raises(SystemExit):
        main(["export", str(start), "--to", str(tmp_path / "other"), "--adapters", "--formats", "onnx"])
    assert "--adapters writes for peft alone" in capsys.readouterr().err


def test_what_a_pair_cannot_hold_is_said(tmp_path, monkeypatch):
    model = tiny_model(
        text={**TEXT, "causal": False, "pool": "first", "context_length": 20}, tune={"type": "prompts", "image": 0}
    )
    with pytest.raises(RecipeError, match=r"no chosen library .*open_clip: its tokenizer puts no learned tokens into"):
        export(model, tmp_path)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(RecipeError, match=r"ONNX files need onnxscript: pip install 'vlp\[onnx\]'"):
        export(prompted_model(), tmp_path)
    assert list(tmp_path.iterdir()) == []
