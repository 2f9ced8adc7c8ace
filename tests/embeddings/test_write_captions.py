"""Captions of files, folders and data sets: in order, kept in parts, gone on with, equal on two processes."""

from __future__ import annotations

import json
import os

import pytest
from PIL import Image

from tests.processes import run_processes
from tests.shards import image_bytes, write_shards, write_tar
from tests.towers.tiny import COCA, tiny_bert, tiny_export, tiny_model
from vlp.cli import main
from vlp.embeddings import write_captions as module
from vlp.embeddings.write_captions import write_captions
from vlp.export.as_open_clip import write_open_clip
from vlp.ground.types import RecipeError

COLORS = ("red", "green", "blue", "white", "black")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a CoCa of thirteen words."""
    folder = tmp_path_factory.mktemp("coca")
    text = {**COCA["text"], "tokenizer": tiny_bert(tmp_path_factory.mktemp("bert")), "vocab_size": 13}
    write_open_clip(tiny_model(**{**COCA, "text": text}), folder)
    return str(folder)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for place, color in enumerate(COLORS):
        Image.new("RGB", (40, 30), color).save(folder / ("more" if place % 2 else "") / f"{color}.png")
    (folder / "notes.txt").write_text("no picture")
    (folder / "._red.png").write_bytes(b"what macOS keeps beside it on other disks")
    return folder


def written(model, *images, folder=None, **settings):
    return list(write_captions(model, [str(image) for image in images], folder, {"max_words": 4, **settings}))


def test_pictures_of_a_folder_come_by_name_and_files_as_given(model, pictures):
    names = [line["image"] for line in written(model, pictures)]
    assert names == sorted(names) and len(names) == len(COLORS)
    assert all("caption" in line for line in written(model, pictures))
    two = pictures / "red.png", pictures / "blue.png"
    assert [line["image"] for line in written(model, *two, two[0])] == [str(path) for path in two]


def test_what_is_no_picture_is_told_and_stops_nothing(model, pictures):
    (pictures / "a.png").write_bytes(b"no picture either")
    first, *others = written(model, pictures)
    assert first["fault"].startswith("corrupt_image") and "caption" not in first
    assert all("caption" in line for line in others)


def test_names_of_any_bytes_are_kept_and_what_is_wrong_is_told_in_the_same_words_each_time(model, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in (b"a\xe2\x80\xa8b.png", b"c\xc2\x85d.png", b"e\xff.png"):  # other ends of lines, and no UTF-8
        Image.new("RGB", (4, 3)).save(folder / os.fsdecode(name), "PNG")
    (folder / "f.bmp").write_bytes(b"BM")
    (folder / "g.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    lines = written(model, folder, folder=tmp_path / "out")
    assert lines == written(model, folder)
    assert [line["image"].removeprefix(f"{folder}/") for line in lines[:3]] == [
        "a\u2028b.png",
        "c\x85d.png",
        "e\\xff.png",
    ]
    assert [line["fault"] for line in lines[3:]] == [
        "corrupt_image: neither JPEG, PNG nor WebP", "corrupt_image: damaged PNG"
    ]  # fmt: skip


def test_a_sample_whose_members_contradict_each_other_is_told_and_stops_nothing(model, tmp_path):
    images = [image_bytes(number) for number in range(3)]
    write_tar(tmp_path / "0.tar", [("a.jpg", images[0]), ("a.jpg", images[1]), ("b.jpg", images[2])])
    (tmp_path / "card.yaml").write_text("name: card\nshards: '*.tar'\n")
    first, second = written(model, tmp_path / "card.yaml")
    assert first == {"image": "a", "fault": "duplicate_key: two members '.jpg' in one sample"}
    assert second["image"] == "b" and "caption" in second


def test_a_picture_that_was_replaced_is_noticed(model, pictures, tmp_path):
    first = written(model, pictures, folder=tmp_path / "out")
    assert written(model, pictures, folder=tmp_path / "out") == first
    Image.new("RGB", (80, 30), "green").save(pictures / "red.png")
    with pytest.raises(RecipeError, match="was written with another files"):
        written(model, pictures, folder=tmp_path / "out")


def test_what_is_there_is_not_written_again(model, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PICTURES_PER_PART", 2)
    whole = written(model, pictures, folder=tmp_path / "out", temperature=2.0)
    files = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert files["captions.jsonl"] == "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in whole)
    (tmp_path / "out" / "part-00001.jsonl").unlink()
    (tmp_path / "out" / "captions.jsonl").unlink()
    assert written(model, pictures, folder=tmp_path / "out", temperature=2.0) == whole
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == files


def test_a_folder_with_other_captions_is_refused(model, pictures, tmp_path):
    written(model, pictures / "red.png", folder=tmp_path / "out")
    with pytest.raises(RecipeError, match="another writing"):
        written(model, pictures / "red.png", folder=tmp_path / "out", num_beams=2)
    with pytest.raises(RecipeError, match="another files"):
        written(model, pictures / "more" / "green.png", folder=tmp_path / "out")


def _on_two(rank, world_size, model, shards, folder):
    pytest.MonkeyPatch().setattr(module, "PICTURES_PER_PART", 4)
    (card,) = shards
    return written(model, card, folder=folder, temperature=2.0)


@pytest.mark.processes
def test_two_processes_write_what_one_writes(model, tmp_path):
    write_shards(tmp_path / "shards", num_shards=2, samples_per_shard=7)
    card = tmp_path / "card.yaml"
    card.write_text(f"name: mine\nshards: {tmp_path}/shards/*.tar\n")
    one = run_processes(_on_two, 1, model, [str(card)], tmp_path / "one")[0]
    two = run_processes(_on_two, 2, model, [str(card)], tmp_path / "two")
    assert two[0] == two[1] == one and len(one) == 14


def test_the_command_prints_or_keeps(model, pictures, tmp_path, capsys):
    for words in ([], ["--to", str(tmp_path / "out")]):
        with pytest.raises(SystemExit) as ended:
            main(["caption", model, str(pictures), "--how", "num_beams=2", "max_words=3", *words])
        assert ended.value.code == 0
    printed = capsys.readouterr().out.splitlines()
    kept = [json.loads(line) for line in (tmp_path / "out" / "captions.jsonl").read_text().splitlines()]
    assert printed[:-1] == [f"{line['image']}\t{line['caption']}" for line in kept]
    assert printed[-1] == f"5 captions in {tmp_path / 'out' / 'captions.jsonl'}"


@pytest.mark.parametrize(
    ("images", "settings", "complaint"),
    [
        (["missing.png", "other.png"], {}, "no such file"),
        (["."], {}, "no image there"),
        (["missing"], {}, "missing"),
        ([__file__], {"top_p": 0.5}, "temperature"),
    ],
)
def test_what_cannot_be_is_refused(model, tmp_path, monkeypatch, images, settings, complaint):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=complaint):
        written(model, *images, **settings)


def test_a_model_without_decoder_is_refused(tmp_path, pictures):
    with pytest.raises(RecipeError, match="no decoder"):
        written(str(tiny_export(tmp_path / "clip")), pictures)
