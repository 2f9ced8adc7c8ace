"""Every form of source is found out, and every mistake in one is explained."""

from __future__ import annotations

import json

import pytest

from tests.curate.conftest import write_images
from tests.curate.pairs import captions_in, photo, write_pairs
from tests.curate.test_pack import captions_of
from tests.shards import image_bytes, write_tar
from vlp.curate.pack import pack
from vlp.curate.pack_set import SetOptions, pack_set
from vlp.curate.sources.columns import Columns
from vlp.curate.sources.open_source import open_source
from vlp.curate.split import split_card
from vlp.data.shards.cards import load_card
from vlp.evaluators.base import load_task
from vlp.evaluators.dataset import DataSource, open_set
from vlp.ground.types import RecipeError


def refused(path, message, columns=""):
    with pytest.raises(RecipeError, match=message):
        list(open_source(path, Columns.parse(columns)).units(10))


def test_what_cannot_be_packed_says_what_can(tmp_path):
    refused(tmp_path / "nothing", "no file or folder")
    (tmp_path / "notes.md").write_text("x")
    refused(tmp_path / "notes.md", r"expected a folder of images or a table \(\.csv, \.tsv, \.jsonl")
    refused(write_tar(tmp_path / "a.tar", []), "a shard already; write a card")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"no images \(jpg, jpeg, png, webp\)")
    write_tar(tmp_path / "shards" / "0.tar", [])
    refused(tmp_path / "shards", r"shards already .*card alone, shards\.yaml:\n  name: shards\n  shards: .*\*\.tar")


def test_images_without_captions_are_refused_with_a_way_out(tmp_path):
    write_images(tmp_path / "set", 2)
    refused(tmp_path / "set", r"photo 000\.jpg has no caption; put a photo 000\.txt or \.json beside each")
    (tmp_path / "set" / "metadata.csv").write_text("file_name,text\n")
    refused(tmp_path / "set", r"pack .*metadata\.csv instead")


def test_a_broken_first_record_is_named(tmp_path):
    (path,) = write_images(tmp_path / "set", 1)
    path.with_suffix(".json").write_text("{")
    refused(tmp_path / "set", r"photo 000\.json: not JSON")
    path.with_suffix(".json").write_text("[]")
    refused(tmp_path / "set", "expected a mapping such as")
    path.with_suffix(".json").write_text('{"words": "x"}')
    refused(tmp_path / "set", r"no column for the caption \(columns: words\); name it with --columns caption=NAME")


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("url,caption\n", "", "no rows"),
        ("url,caption\nhttps://a/b.jpg,x\n", "", "a column of addresses.*fetch the images first"),
        ("url,caption\nhttps://a/b.jpg,x\n", "image=url", r"line 2: 'https://a/b\.jpg' is an address"),
        ("figure,caption\na.jpg,x\n", "", r"no column for the image \(columns: figure, caption\)"),
        ("path,words\na.jpg,x\n", "", "no column for the caption"),
        ("path,caption\na.jpg,x\n", "caption=captoin", r"no such column .*did you mean 'caption'"),
        ("path,caption\na.jpg,x\n", "imgae=path", r"write image=NAME,caption=NAME; did you mean 'image'"),
        ("path,caption\na.jpg,x\n", "image", "write image=NAME"),
        (b"path,caption\na.jpg,\xff\n", "", r"no rows \(line 2: not UTF-8 .*\)"),
        (b"path,caption\xff\na.jpg,x\n", "", "line 1: not UTF-8 .*save the table as UTF-8"),
        (b"path,caption\ra.jpg,x\r", "", "line 1: new-line .*save the table with line ends of Unix or Windows"),
        ("path,caption,caption\na.jpg,x,y\n", "", "'caption' and 'caption' may both be .*a name of its own"),
        ("path,caption,caption\na.jpg,x,y\n", "caption=caption", "several columns are called so; rename all but one"),
        ("path,caption,Caption\na.jpg,x,y\n", "", "'caption' and 'Caption' may both .* with --columns caption=NAME$"),
    ],
)
def test_a_mistake_in_a_table_is_explained(tmp_path, text, columns, message):
    file = tmp_path / "table.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(file, message, columns)


@pytest.mark.parametrize(("columns", "text"), [("caption=Caption", "y"), ("caption=caption", "x")])
def test_of_two_columns_alike_one_can_be_named(tmp_path, columns, text):
    (path,) = write_images(tmp_path / "images", 1)
    (tmp_path / "table.csv").write_text(f"path,caption,Caption,other,other\n{path},x,y,1,2\n")
    assert captions_of(pack(tmp_path / "table.csv", tmp_path / "mine", columns=columns, workers=1).card) == [text]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"no rows \(line 1: not JSON"),
        ("[1]", r"no rows \(line 1: not a mapping\)"),
        ('{"image": 3, "caption": "x"}', "an image must be a path, not int"),
    ],
)
def test_a_mistake_in_json_lines_is_explained(tmp_path, text, message):
    (tmp_path / "table.jsonl").write_text(text)
    refused(tmp_path / "table.jsonl", message)


def test_hidden_files_are_no_images(photos, tmp_path):
    (photos / ".trash").mkdir()
    (photos / ".trash" / "old.jpg").write_bytes(b"")
    assert sum(len(unit.rows) for unit in open_source(photos, Columns()).units(4)) == 10


def test_without_pyarrow_parquet_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    refused(tmp_path / "a.parquet", r"pip install 'vlp\[data\]'")


def test_without_datasets_a_saved_one_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "data.arrow").write_bytes(b"")
    refused(tmp_path, "pip install datasets")


def test_a_saved_dataset_with_splits_names_them(tmp_path):
    (tmp_path / "dataset_dict.json").write_text("{}")
    (tmp_path / "train").mkdir()
    refused(tmp_path, r"several splits; pack one of them: .*/train")


@pytest.mark.parametrize("form", ["path", "bytes", "pair"])
def test_parquet_with_paths_and_with_pixels(tmp_path, form):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    paths = write_images(tmp_path / "images", 7)
    cells = {
        "path": [str(path.relative_to(tmp_path)) for path in paths],
        "bytes": [path.read_bytes() for path in paths],
        "pair": [{"bytes": path.read_bytes(), "path": path.name} for path in paths],
    }
    rows = pyarrow.table({"image": cells[form], "caption": [f"caption {number}" for number in range(7)]})
    parquet.write_table(rows, tmp_path / "a.parquet", row_group_size=3)
    packed = pack(tmp_path / "a.parquet", tmp_path / "mine", limits="samples=2", workers=1)
    assert (packed.samples, packed.shards) == (7, 4)
    assert captions_of(packed.card) == [f"caption {number}" for number in range(7)]


@pytest.mark.parametrize("form", ["path", "bytes", "pair", "mixed"])
def test_images_that_a_parquet_file_names_are_packed_again_once_they_change(tmp_path, form):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    paths = write_images(tmp_path / "images", 4)
    names = [str(path.relative_to(tmp_path)) for path in paths]
    data = [path.read_bytes() for path in paths]
    held = {"pair": data, "mixed": [None, *data[1:]]}.get(form, ())
    cells = [{"bytes": each, "path": name} for each, name in zip(held, names, strict=False)]
    rows = pyarrow.table({"image": {"path": names, "bytes": data}.get(form, cells), "caption": ["a", "b", "c", "d"]})
    parquet.write_table(rows, tmp_path / "a.parquet")
    pack(tmp_path / "a.parquet", tmp_path / "mine", limits="samples=2", workers=1)
    paths[0].write_bytes(image_bytes(99))
    again = pack(tmp_path / "a.parquet", tmp_path / "mine", limits="samples=2", workers=1)
    assert again.kept == (2 if form in ("path", "mixed") else 4)


def test_images_that_a_saved_dataset_names_are_packed_again_once_they_change(tmp_path):
    datasets = pytest.importorskip("datasets")
    paths = write_images(tmp_path / "images", 4)
    rows = {"image": [str(path) for path in paths], "caption": ["a", "b", "c", "d"]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "saved")
    pack(tmp_path / "saved", tmp_path / "mine", limits="samples=2", workers=1)
    paths[0].write_bytes(image_bytes(99))
    assert pack(tmp_path / "saved", tmp_path / "mine", limits="samples=2", workers=1).kept == 2


def test_a_table_without_rows_says_so(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = {"image": pyarrow.array([], pyarrow.binary()), "caption": pyarrow.array([], pyarrow.string())}
    parquet.write_table(pyarrow.table(rows), tmp_path / "a.parquet")
    with pytest.raises(RecipeError, match="the source has no rows"):
        pack(tmp_path / "a.parquet", tmp_path / "mine", workers=1)


def test_a_folder_of_parquet_files_is_one_source(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "parts").mkdir()
    for part in range(2):
        rows = {"image": [image_bytes(part), None], "text": [[f"a {part}", f"b {part}"], ["x"]]}
        parquet.write_table(pyarrow.table(rows), tmp_path / "parts" / f"{part}.parquet")
    packed = pack(tmp_path / "parts", tmp_path / "mine", workers=1)
    assert captions_of(packed.card) == ["a 0", "a 1"]
    assert packed.faults.counts == {("mine", "missing_image"): 2}


def test_a_broken_parquet_file_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    refused(tmp_path / "a.parquet", r"a\.parquet: not a whole parquet file")


def test_a_saved_dataset_with_images(tmp_path):
    datasets = pytest.importorskip("datasets")
    paths = write_images(tmp_path / "images", 5)
    rows = {"image": [str(path) for path in paths], "caption": [f"caption {number}" for number in range(5)]}
    datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).save_to_disk(tmp_path / "saved")
    packed = pack(tmp_path / "saved", tmp_path / "mine", limits="samples=2", workers=1)
    assert (packed.samples, packed.shards) == (5, 3)
    assert captions_of(packed.card) == [f"caption {number}" for number in range(5)]


@pytest.mark.parametrize("kind", ["texts", "names"])
def test_splits_of_a_saved_dataset_are_not_mixed_unasked(tmp_path, kind):
    datasets = pytest.importorskip("datasets")
    paths = write_images(tmp_path / "images", 3)
    splits = ["train", "test", "train"] if kind == "texts" else [0, 1, 0]
    rows = {"image": [str(path) for path in paths], "caption": ["a", "b", "c"], "split": splits}
    data = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    if kind == "names":
        data = data.cast_column("split", datasets.ClassLabel(names=["train", "test"]))
    data.save_to_disk(tmp_path / "saved")
    refused(tmp_path / "saved", r"rows of several splits: train \(2\), test \(1\); choose with --split NAME")
    assert captions_of(pack(tmp_path / "saved", tmp_path / "mine", split="train", workers=1).card) == ["a", "c"]


def test_rows_of_a_record_without_an_image_are_counted(tmp_path):
    lines = [{"image": "", "caption": "x"}, {"image": "a.jpg"}]
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RecipeError, match=r"not one row can be used"):
        pack(tmp_path / "table.jsonl", tmp_path / "mine", columns="caption=caption", workers=1)
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "mine" / "quarantine.jsonl").read_text().splitlines()]
    assert reasons == ["missing_image", "missing_caption"]


def test_a_part_of_a_card_is_packed_for_tests(tmp_path):
    pairs = [(photo(number), f"caption {number}") for number in range(12)]
    whole = write_pairs(tmp_path, pairs)
    split_card(load_card(whole), tmp_path / "parts", "train=0.5,val=0.5", workers=1)
    part = tmp_path / "parts" / "pairs-val.yaml"
    kept = captions_in(part)
    assert 0 < len(kept) < 12
    packed = pack_set(part, tmp_path / "mine", SetOptions(), limits="samples=2", workers=1)
    found = open_set(DataSource(root=str(tmp_path / "mine")))
    assert found.kind == load_task(str(packed.task)).evaluator == "retrieval"
    assert [texts for (texts,) in found.captions] == kept
    assert [sample.image_bytes() for sample in found.samples] == [image for image, text in pairs if text in kept]
    packed = pack(part, tmp_path / "again", limits="samples=2", workers=1)
    assert captions_of(packed.card) == kept
    refused(part, "leave out --columns", "caption=txt")


def test_another_caption_of_a_card_is_packed_anew(tmp_path):
    members = [("0.jpg", photo(0)), ("0.txt", b"short"), ("0.json", b'{"caption": "long"}')]
    write_tar(tmp_path / "set" / "0.tar", members)
    card = tmp_path / "set" / "set.yaml"
    for captions, text in (("txt", "short"), ("json.caption", "long")):
        card.write_text(f"name: set\nshards: '*.tar'\ncaptions: {{{captions}: 1.0}}\n")
        assert captions_in(pack(card, tmp_path / "mine", workers=1).card) == [text]


def test_a_card_keeps_its_shares_of_captions_and_lists_what_is_broken(tmp_path):
    record = json.dumps({"alt": "a long wording", "id": 7}).encode()
    members = [("0.jpg", photo(0)), ("0.txt", b"short"), ("0.json", record), ("1.txt", b"no image")]
    write_tar(tmp_path / "0.tar", members)
    card = tmp_path / "two.yaml"
    card.write_text("name: two\nshards: 0.tar\ncaptions: {txt: 3, json.alt: 1}\n")
    packed = pack(card, tmp_path / "mine", limits="bad=1", workers=1)
    assert load_card(str(packed.card)).captions == {"txt": 3.0, "json.alt": 1.0}
    faults = [json.loads(line) for line in (tmp_path / "mine" / "quarantine.jsonl").read_text().splitlines()]
    assert [fault["reason"] for fault in faults] == ["missing_image"] and packed.samples == 1
    card.write_text("name: two\nshards: 0.tar\ndocuments: json\n")
    refused(card, "its samples are documents")
