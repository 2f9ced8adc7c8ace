"""`vlp embed` writes what the model gives, once for each sample, whoever shares the work and whenever it stops."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from safetensors.torch import save_file

from tests.processes import run_processes
from tests.shards import image_bytes, write_shards, write_tar
from tests.towers.tiny import tiny_export, tiny_model
from vlp.data.pixels.decode import decode_image
from vlp.data.samples import SampleSet
from vlp.embeddings import embed as module
from vlp.embeddings.embed import embed, embed_card
from vlp.embeddings.parts import MANIFEST, read_embeddings
from vlp.ground.types import RecipeError
from vlp.towers.encoder import TowerEncoder


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(module, "SAMPLES_PER_PART", 6)


@pytest.fixture
def export(tmp_path):
    """A model in open_clip's folder format."""
    return str(tiny_export(tmp_path / "export"))


def write_card(folder, **settings):
    card = write_shards(folder / "shards", 2, 8, **settings)
    (folder / "tiny.yaml").write_text("name: tiny\nshards: shards/*.tar\n")
    return str(folder / "tiny.yaml"), card


def by_hand(card, model):
    samples = SampleSet({"tiny": card})
    found = [samples[number] for number in range(len(samples))]
    encoder = TowerEncoder(model)
    images = [encoder.embed_images([decode_image(sample.read_image(), 1 << 26)]) for sample in found]
    texts = [encoder.embed_texts([sample.read("txt").decode()]) for sample in found]
    return np.concatenate(images), np.concatenate(texts)


@pytest.mark.parametrize("file_format", ["parquet", "npy"])
def test_the_files_hold_the_embeddings_of_all_samples(tmp_path, export, file_format):
    data, card = write_card(tmp_path)
    assert embed(export, data, tmp_path / "out", file_format=file_format, kind="float32") == (16, 0)
    images, texts = by_hand(card, tiny_model())
    for side, expected in (("images", images), ("texts", texts)):
        ids, rows = read_embeddings(tmp_path / "out", side)
        assert ids.tolist() == list(range(16))
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, expected, atol=1e-5)  # batches of another size


@pytest.mark.parametrize("file_format", ["parquet", "npy"])
def test_keys_of_any_bytes_are_written(tmp_path, export, file_format):
    members = [("caf\udce9.jpg", image_bytes(0)), ("caf\udce9.txt", b"a cat")]  # as tar programs had it before UTF-8
    write_tar(tmp_path / "shards" / "0.tar", members)
    (tmp_path / "tiny.yaml").write_text("name: tiny\nshards: shards/*.tar\n")
    assert embed(export, str(tmp_path / "tiny.yaml"), tmp_path / "out", file_format=file_format) == (1, 0)
    if file_format == "parquet":
        assert parquet.read_table(tmp_path / "out" / "part-00000.parquet")["key"].to_pylist() == ["caf\\xe9"]


def test_half_precision_is_the_default(tmp_path, export):
    data, card = write_card(tmp_path)
    embed(export, data, tmp_path / "out")
    _, rows = read_embeddings(tmp_path / "out")
    assert rows.dtype == np.float16
    np.testing.assert_allclose(rows, by_hand(card, tiny_model())[0], atol=2e-3)


def test_a_start_goes_on_where_an_earlier_one_stopped(tmp_path, export, monkeypatch):
    data, _ = write_card(tmp_path)
    embed(export, data, tmp_path / "whole")
    embed(export, data, tmp_path / "out")
    parts = sorted((tmp_path / "out").glob("*.parquet"))
    assert [path.read_bytes() for path in parts] == [
        path.read_bytes() for path in sorted((tmp_path / "whole").glob("*.parquet"))
    ]
    before = parts[0].stat().st_mtime_ns
    (tmp_path / "out" / "part-00001.json").unlink()
    parts[2].unlink()
    (tmp_path / "out" / "part-00002.json").unlink()
    with pytest.raises(RecipeError, match="2 of 3 parts are missing"):
        read_embeddings(tmp_path / "out")
    assert embed(export, data, tmp_path / "out") == (16, 0)
    assert parts[0].stat().st_mtime_ns == before
    assert read_embeddings(tmp_path / "out")[0].tolist() == list(range(16))


def test_one_side_alone(tmp_path, export):
    data, _ = write_card(tmp_path)
    embed(export, data, tmp_path / "out", sides=("texts",))
    assert len(read_embeddings(tmp_path / "out", "texts")[0]) == 16
    with pytest.raises(RecipeError, match="no embeddings of images, only of texts"):
        read_embeddings(tmp_path / "out")


@pytest.mark.parametrize("side", ["images", "texts"])
def test_a_folder_of_another_model_is_refused(tmp_path, export, side):
    data, _ = write_card(tmp_path)
    embed(export, data, tmp_path / "out", sides=(side,))
    other = str(tiny_export(tmp_path / "other", 1.0))
    with pytest.raises(RecipeError, match="with another model: "):
        embed(other, data, tmp_path / "out", sides=(side,))
    with pytest.raises(RecipeError, match="with another type: float16, not float32"):
        embed(export, data, tmp_path / "out", sides=(side,), kind="float32")
    with pytest.raises(RecipeError, match=MANIFEST):
        read_embeddings(tmp_path)


def test_weights_that_changed_under_the_same_name_are_noticed(tmp_path, export):
    data, _ = write_card(tmp_path)
    embed(export, data, tmp_path / "out")
    weights = {name: value.contiguous() + 1 for name, value in tiny_model().core.state_dict().items()}
    save_file(weights, f"{export}/open_clip_model.safetensors")
    with pytest.raises(RecipeError, match="with another checksum"):
        embed(export, data, tmp_path / "out")


def test_weights_that_are_used_otherwise_are_noticed(tmp_path, export):
    data, _ = write_card(tmp_path)
    embed(export, data, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    path = Path(export) / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["quick_gelu"] = not config["model_cfg"].get("quick_gelu", False)
    path.write_text(json.dumps(config))
    with pytest.raises(RecipeError, match="with another configuration"):
        embed(export, data, tmp_path / "out")
    del manifest["configuration"]  # an older one says nothing of it
    (tmp_path / "out" / MANIFEST).write_text(json.dumps(manifest))
    assert embed(export, data, tmp_path / "out") == (16, 0)


def test_a_sample_that_cannot_be_read_is_left_out_and_listed(tmp_path, export):
    data, _ = write_card(tmp_path, replace={5: [("00005.jpg", b"no image"), ("00005.txt", b"a picture")]})
    assert embed(export, data, tmp_path / "out") == (15, 1)
    for side in ("images", "texts"):
        ids, rows = read_embeddings(tmp_path / "out", side)
        assert ids.tolist() == [number for number in range(16) if number != 5]
        assert len(rows) == 15
    (fault,) = [json.loads(line) for line in (tmp_path / "out" / "faults.jsonl").read_text().splitlines()]
    assert (fault["id"], fault["reason"]) == (5, "corrupt_image")


def _embed(rank, world_size, export, data, folder):
    pytest.MonkeyPatch().setattr(module, "SAMPLES_PER_PART", 6)
    return embed(export, data, folder)


@pytest.mark.processes
def test_two_processes_write_the_same_files(tmp_path, export):
    data, _ = write_card(tmp_path)
    embed(export, data, tmp_path / "one")
    found = run_processes(_embed, 2, export, data, tmp_path / "two")
    assert found == [(16, 0), (16, 0)]
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


@pytest.mark.parametrize(("broken", "side"), [("visual.", "image"), ("text_projection", "caption")])
def test_what_is_no_number_is_never_written(tmp_path, broken, side):
    """A search, a filter and mining would take it for an embedding, and the nearest one of all."""
    model = tiny_model()
    for name, value in model.core.state_dict().items():
        if broken in name and value.is_floating_point():
            value.fill_(np.nan)
    (_, card), folder = write_card(tmp_path), tmp_path / "out"
    with pytest.raises(RecipeError, match=rf"sample '.+': the model's embedding of the {side} is not finite"):
        embed_card(TowerEncoder(model), SampleSet({"tiny": card}), folder, {"model": "broken"})
    assert not list(folder.glob("part-*"))


def test_progress_is_told_within_a_part(tmp_path, monkeypatch):
    """A training that embeds its card would be ended where a part takes longer than a watchdog waits."""
    monkeypatch.setattr(module, "SAMPLES_PER_BEAT", 2)
    beats = []
    _, card = write_card(tmp_path)
    told = {"model": "tiny"}
    embed_card(
        TowerEncoder(tiny_model()), SampleSet({"tiny": card}), tmp_path / "out", told, beat=lambda: beats.append(1)
    )
    assert len(beats) == 8
