"""Data sets as people lay them out: tables beside images, lists in JSON, clones with splits."""

from __future__ import annotations

import json
import os
import unicodedata

import pytest

from tests.curate.test_pack import captions_of
from tests.curate.test_tables import BOATS, COLOURS
from tests.shards import image_bytes
from vlp.curate.pack import pack
from vlp.curate.split import split_card
from vlp.data import SampleSet
from vlp.data.shards.cards import load_card
from vlp.ground.types import RecipeError

COCO = {
    "images": [{"id": number, "file_name": f"{colour}.jpg"} for number, colour in enumerate(COLOURS)],
    "annotations": [{"image_id": number % 8, "caption": f"caption {number}"} for number in range(16)],
}
KARPATHY = {
    "images": [
        {"filepath": "pics", "filename": f"{colour}.jpg", "sentences": [{"raw": f"{colour} 0"}, {"raw": f"{colour} 1"}]}
        for colour in COLOURS
    ]
}


SPLITS = ("train", "train", "train", "train", "restval", "val", "test", "test")


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "set" / "pics").mkdir(parents=True)
    for number, colour in enumerate(COLOURS):
        (tmp_path / "set" / "pics" / f"{colour}.jpg").write_bytes(image_bytes(number))
    return tmp_path / "set"


def packed(source, **settings):
    return pack(source, source.parent / "mine", workers=1, **settings)


def texts_of(found):
    samples = SampleSet({"mine": load_card(str(found.card))})
    return [json.loads(samples[number].read("json"))["caption"] for number in range(len(samples))]


def refused(source, message, **settings):
    with pytest.raises(RecipeError, match=message):
        packed(source, **settings)


@pytest.mark.parametrize("name", ["captions.txt", "captions.csv", "pics/captions.tsv"])
def test_a_table_beside_images_is_named_and_can_be_packed(pictures, name):
    separator = "\t" if name.endswith("tsv") else ","
    rows = [separator.join((f"{colour}.jpg", f"{colour} {number}")) for colour in COLOURS for number in range(5)]
    (pictures / name).write_text("\n".join([f"image{separator}caption", *rows]))
    refused(pictures, rf"the captions stand in a table; pack .*{name} instead")
    found = packed(pictures / name)
    assert (found.samples, found.rows) == (8, 40)
    assert texts_of(found) == [[f"{colour} {number}" for number in range(5)] for colour in COLOURS]


def test_tables_of_splits_are_named(pictures):
    for split in ("train", "test"):
        (pictures / split).mkdir()
        (pictures / split / "metadata.jsonl").write_text('{"file_name": "a.jpg", "text": "x"}\n')
    refused(pictures, r"stand in tables; pack .*test/metadata\.jsonl or .*train/metadata\.jsonl instead")


def test_one_folder_of_all_images_is_no_class(pictures):
    refused(pictures, r"has no caption \(all lie in one folder, pics, which is no class\)")


def test_a_list_in_json_is_a_table(pictures):
    rows = [{"image": f"pics/{colour}.jpg", "caption": text} for colour, text in zip(COLOURS, BOATS, strict=True)]
    (pictures / "t.json").write_text(json.dumps([*rows, 5]))
    found = packed(pictures / "t.json", limits="bad=1")
    assert captions_of(found.card) == BOATS and found.faults.total == 1


def test_captions_of_coco_are_joined_to_their_images(pictures):
    (pictures / "captions_val.json").write_text(json.dumps(COCO))
    found = packed(pictures / "captions_val.json")
    assert (found.samples, found.rows) == (8, 16)
    assert texts_of(found) == [[f"caption {number}", f"caption {number + 8}"] for number in range(8)]


def test_sentences_of_karpathy_are_lists(pictures):
    (pictures / "dataset.json").write_text(json.dumps(KARPATHY))
    assert texts_of(packed(pictures / "dataset.json")) == [[f"{colour} 0", f"{colour} 1"] for colour in COLOURS]


def test_splits_of_a_table_are_not_mixed_unasked(pictures):
    images = [{**image, "split": split} for image, split in zip(KARPATHY["images"], SPLITS, strict=True)]
    (pictures / "dataset.json").write_text(json.dumps({"images": images}))
    message = r"rows of several splits: train \(4\), restval \(1\), val \(1\), test \(2\); choose with --split"
    refused(pictures / "dataset.json", message)
    refused(pictures / "dataset.json", r"no split 'dev' \(known: train", split="dev")
    assert packed(pictures / "dataset.json", split="train+restval").samples == 5


def test_splits_of_a_parquet_file_are_not_mixed_unasked(tmp_path):
    write_parquet(
        tmp_path / "t.parquet", [row(number, caption="x", split=split) for number, split in enumerate(SPLITS)]
    )
    refused(tmp_path / "t.parquet", r"rows of several splits: train \(4\)")
    assert packed(tmp_path / "t.parquet", split="test").samples == 2
    write_parquet(
        tmp_path / "t.parquet", [row(number, caption="x", split="left") for number in range(3)]
    )  # names no split
    assert pack(tmp_path / "t.parquet", tmp_path / "all", workers=1).samples == 3


@pytest.mark.parametrize("names", [("train", "val"), ("train2017", "val2017"), ("Training", "Test")])
@pytest.mark.parametrize("has_classes", [False, True])
def test_folders_of_splits_are_not_mixed_unasked(tmp_path, names, has_classes):
    for name in names:
        for label in ("cat", "dog") if has_classes else ("",):
            (tmp_path / "set" / name / label).mkdir(parents=True)
            (tmp_path / "set" / name / label / "a.jpg").write_bytes(image_bytes(0))
    refused(tmp_path / "set", rf"images of several splits; pack one of them instead: .*{min(names)}, .*{max(names)}")


@pytest.mark.parametrize("inner", ["images", "data/images", "cat"])
def test_folders_of_splits_are_found_at_any_depth(tmp_path, inner):
    for name in ("train2017", "val2017"):
        (tmp_path / "set" / inner / name).mkdir(parents=True)
        (tmp_path / "set" / inner / name / "a.jpg").write_bytes(image_bytes(0))
    refused(tmp_path / "set", rf"pack one of them instead: .*/{inner}/train2017, .*/{inner}/val2017")


def test_a_class_that_is_called_as_a_split_is_a_class(tmp_path):
    for name in ("test/train", "test/bus"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "a.jpg").write_bytes(image_bytes(0))
    assert captions_of(packed(tmp_path / "set").card) == ["bus", "train"]


def test_what_macos_puts_beside_files_is_no_source(pictures):
    rows = [row(number, text=f"t {number}") for number in range(2)]
    write_parquet(pictures.parent / "parts" / "a.parquet", rows)
    (pictures.parent / "parts" / "._a.parquet").write_bytes(b"\x00\x05\x16\x07Mac OS X")
    assert packed(pictures.parent / "parts").samples == 2
    for name in ("captions.csv", "._captions.csv"):
        (pictures / name).write_text("path,caption\n")
    refused(pictures, r"the captions stand in a table; pack .*/captions\.csv instead")


def test_documents_of_several_splits_are_not_mixed_unasked(tmp_path):
    for name in ("train", "test"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "0.jpg").write_bytes(image_bytes(0))
        document = {"texts": [None, "a boat"], "images": ["0.jpg", None]}
        (tmp_path / "set" / name / "0.json").write_text(json.dumps(document))
    refused(tmp_path / "set", "documents of several splits; pack one of them instead: .*/test, .*/train")
    assert packed(tmp_path / "set" / "train").samples == 1


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        (("001.Black_footed_Albatross", "200.Common_Yellowthroat"), ["Black footed Albatross", "Common Yellowthroat"]),
        (("n02085620-Chihuahua", "n02085782-Japanese_spaniel"), ["Chihuahua", "Japanese spaniel"]),
        (("10_my dog", "2_a cat"), ["my dog", "a cat"]),
        (("2012_Audi", "1999_Fiat"), ["1999 Fiat", "2012 Audi"]),
        (("737-200", "747-400"), ["737-200", "747-400"]),
        (("1_boat", "ship"), ["1 boat", "ship"]),
    ],
)
def test_numbers_in_front_of_all_classes_are_no_part_of_their_names(tmp_path, folders, classes):
    for folder in folders:
        (tmp_path / "set" / folder).mkdir(parents=True)
        (tmp_path / "set" / folder / "a.jpg").write_bytes(image_bytes(0))
    assert captions_of(packed(tmp_path / "set").card) == classes


def test_images_lie_beside_the_annotations_of_coco(pictures):
    (pictures / "annotations").mkdir()
    (pictures / "annotations" / "captions_val2017.json").write_text(json.dumps(COCO))
    refused(pictures, r"or pack a table \(perhaps .*annotations/captions_val2017\.json\)")
    assert packed(pictures / "annotations" / "captions_val2017.json").rows == 16


def test_a_list_in_a_cell_is_several_captions(pictures):
    rows = [f'"[""{colour} boat"", ""a boat""]",{colour}.jpg' for colour in COLOURS]
    (pictures / "t.csv").write_text("\n".join(["raw,Image Path", *rows]))
    assert texts_of(packed(pictures / "t.csv")) == [[f"{colour} boat", "a boat"] for colour in COLOURS]


def test_numbers_of_captions_are_no_part_of_a_name(pictures):
    rows = [f"{colour}.jpg#{number}\t{colour} {number}" for colour in COLOURS for number in range(2)]
    (pictures / "token.txt").write_text("\n".join(rows))
    refused(pictures / "token.txt", r"names no columns \(red\.jpg#0, red 0\): put one such as path<TAB>caption above")
    (pictures / "token.txt").write_text("\n".join(["image\tcaption", *rows]))
    assert texts_of(packed(pictures / "token.txt")) == [[f"{colour} 0", f"{colour} 1"] for colour in COLOURS]


def test_names_are_found_as_other_systems_spell_them(pictures):
    apart = unicodedata.normalize("NFD", "é.jpg")
    (pictures / "pics" / apart).write_bytes(image_bytes(0))
    (pictures / "pics" / "LARGE.JPG").write_bytes(image_bytes(1))
    names = ["pics\\\u00e9.jpg", "pics/LARGE.jpg", "pics/red.JPG"]
    (pictures / "t.csv").write_text("\n".join(["path,caption", *(f"{name},x" for name in names)]))
    assert packed(pictures / "t.csv").samples == 3


def test_what_is_compressed_is_to_be_unpacked(pictures):
    (pictures / "t.csv.gz").write_bytes(b"\x1f\x8b")
    refused(pictures / "t.csv.gz", "compressed as a whole: unpack it first")


@pytest.mark.parametrize("text", ["5", "{}", '{"images": 3}', "{broken", "[" * 100_000, '{"images": [1]}'])
def test_other_json_is_no_table(pictures, text):
    (pictures / "t.json").write_text(text)
    refused(pictures / "t.json", r"t\.json: (expected a list|not JSON|no rows)")


def test_links_that_lead_back_and_pipes_are_survived(pictures):
    (pictures / "pics" / "back").symlink_to(pictures)
    (pictures / "itself").symlink_to(pictures / "itself")
    os.mkfifo(pictures / "pics" / "pipe.jpg")
    for colour, text in zip((*COLOURS, "pipe"), (*BOATS, "x"), strict=True):
        (pictures / "pics" / f"{colour}.txt").write_text(text)
    found = packed(pictures, limits="bad=1")
    assert sorted(captions_of(found.card)) == sorted(BOATS)
    assert found.faults.counts == {("mine", "missing_image"): 1}


def test_another_split_does_not_write_over_the_cards_of_the_first(pictures, tmp_path):
    rows = [f"pics/{colour}.jpg,{text}" for colour, text in zip(COLOURS, BOATS, strict=True)]
    (pictures / "t.csv").write_text("\n".join(["path,caption", *rows]))
    card = str(packed(pictures / "t.csv").card)
    settings = {"to": tmp_path / "parts", "workers": 1}
    first = split_card(load_card(card), shares="a=0.5,b=0.5", **settings)
    assert split_card(load_card(card), shares="a=0.5,b=0.5", **settings) == first
    with pytest.raises(RecipeError, match=r"exists, made by 'split mine by key: a of a=0\.5,b=0\.5, seed 0', not"):
        split_card(load_card(card), shares="a=0.5,b=0.5", seed=1, **settings)


# ---------------------------------------- parquet
def write_parquet(path, rows, metadata=None):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.Table.from_pylist(rows).replace_schema_metadata(metadata), path)


def row(number, **more):
    return {"image": {"bytes": image_bytes(number), "path": None}, **more}


@pytest.mark.parametrize("place", ["", "data"])
def test_splits_of_a_clone_are_never_mixed(tmp_path, place):
    folder = tmp_path / "clone"
    for name, numbers in (
        ("train-00000-of-00002", (0, 1)),
        ("train-00001-of-00002", (2,)),
        ("test-00000-of-00001", (3,)),
    ):
        write_parquet(folder / place / f"{name}.parquet", [row(number, text=f"text {number}") for number in numbers])
    refused(folder, r"several splits: test \(1\), train \(2\); choose one with --split NAME")
    refused(folder, r"no such split \(known: test, train\)", split="tarin")
    assert captions_of(packed(folder, split="train").card) == ["text 0", "text 1", "text 2"]


@pytest.mark.parametrize(
    "name",
    [
        "data/{}-00000-of-00001-6f0b6ecb4eb7ffc2",
        "default/{}/0000",
        "default/partial-{}/0000",
        "{}",
        "{}_0",
        "{}-0001",
        "{}/part-0",
        "split={}/0",
    ],
)
def test_splits_are_told_by_whatever_names_files_and_folders_of_them_have(tmp_path, name):
    folder = tmp_path / "clone"
    for split, numbers in (("train", (0, 1)), ("validation", (2,))):
        write_parquet(folder / f"{name.format(split)}.parquet", [row(number, text=f"t {number}") for number in numbers])
    refused(folder, r"several splits: train \(1\), validation \(1\); choose one with --split NAME")
    assert captions_of(packed(folder, split="train").card) == ["t 0", "t 1"]


@pytest.mark.parametrize("name", ["a", "train", "part-0-of-x", "0000"])
def test_files_that_name_no_two_splits_are_one_source(tmp_path, name):
    for number in (0, 1):
        write_parquet(tmp_path / "set" / f"{name}-{number}.parquet", [row(number, text=f"t {number}")])
    assert captions_of(packed(tmp_path / "set").card) == ["t 0", "t 1"]


def class_label(column, *names):
    features = {column: {"names": list(names), "_type": "ClassLabel"}}
    return {"huggingface": json.dumps({"info": {"features": features}})}


def test_splits_that_have_numbers_are_not_mixed_unasked(tmp_path):
    rows = [row(number, text=f"t {number}", split=number % 2) for number in range(3)]
    write_parquet(tmp_path / "t.parquet", rows, class_label("split", "train", "test"))
    refused(tmp_path / "t.parquet", r"rows of several splits: train \(2\), test \(1\)")
    assert captions_of(packed(tmp_path / "t.parquet", split="train").card) == ["t 0", "t 2"]


def test_parquet_files_that_are_no_parts_of_one_set_are_refused(tmp_path):
    write_parquet(tmp_path / "set" / "a.parquet", [row(0, text="x", label=0)], class_label("label", "cat", "dog"))
    write_parquet(tmp_path / "set" / "b.parquet", [row(1, title="y", label=0)], class_label("label", "dog", "cat"))
    refused(tmp_path / "set", r"b\.parquet: no column text, which .*a\.parquet has: pack files apart")
    message = r"b\.parquet: other names of classes than in .*a\.parquet: pack the two apart"
    refused(tmp_path / "set", message, columns="caption=label")


def test_a_split_of_what_has_none_is_refused(pictures):
    (pictures / "t.csv").write_text("path,caption\npics/red.jpg,red boat\n")
    refused(pictures / "t.csv", "--split train: .* has no splits", split="train")
    refused(pictures, "--split train: .* has no splits", split="train")


def test_numbers_of_classes_get_their_names(tmp_path):
    told = {"info": {"features": {"label": {"names": ["cat", "dog", "boat"], "_type": "ClassLabel"}}}}
    rows = [row(number, label=label) for number, label in enumerate((2, 0, 1))]
    write_parquet(tmp_path / "t.parquet", rows, {"huggingface": json.dumps(told)})
    assert captions_of(packed(tmp_path / "t.parquet", columns="caption=label").card) == ["boat", "cat", "dog"]


def test_numbers_without_names_are_no_captions(tmp_path):
    write_parquet(tmp_path / "t.parquet", [row(number, label=number) for number in range(3)])
    refused(tmp_path / "t.parquet", r"(?s)not one row can be used.*3  mine  bad_caption", columns="caption=label")


def test_an_address_among_pixels_costs_its_own_row(tmp_path):
    rows = [row(0, text="a"), {"image": {"bytes": None, "path": "https://a/b.jpg"}, "text": "b"}, row(2, text="c")]
    write_parquet(tmp_path / "t.parquet", rows)
    found = packed(tmp_path / "t.parquet")
    assert captions_of(found.card) == ["a", "c"] and found.faults.counts == {("mine", "missing_image"): 1}


def picture(folder, name, number=0):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image_bytes(number))
    return path


@pytest.mark.parametrize("junk", ["__MACOSX/cat/._0.jpg", "__MACOSX/0.jpg", "cat/@eaDir/0.jpg", "#recycle/cat/0.jpg"])
def test_copies_that_a_system_makes_are_no_images(tmp_path, junk):
    for name in ("cat/0.jpg", "dog/0.jpg", junk):
        picture(tmp_path / "set", name)
    assert captions_of(pack(tmp_path / "set", tmp_path / "mine", workers=1).card) == ["cat", "dog"]


@pytest.mark.parametrize(
    "names",
    [("images/0.jpg", "masks/0.jpg"), ("JPEGImages/0.jpg", "Depth/0.jpg"), ("cat/images/0.jpg", "dog/images/1.jpg")],
)
def test_folders_called_by_what_is_in_them_are_no_classes(tmp_path, names):
    for name in names:
        picture(tmp_path / "set", name)
    refused(tmp_path / "set", r"is called '(images|JPEGImages)', which is no class: pack the folder whose subfolders")


def test_suffixes_of_captions_may_be_capitals(tmp_path):
    picture(tmp_path / "set", "0.JPG").with_suffix(".TXT").write_text("a boat")
    assert captions_of(pack(tmp_path / "set", tmp_path / "mine", workers=1).card) == ["a boat"]


NOTHINGS = ("nan", "NaN", "None", "null", "N/A", " nan ")


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_what_programs_write_where_there_is_no_caption_is_none(pictures, tmp_path, form):
    texts = [*NOTHINGS, "none of them", "a nan in a kitchen"]
    rows = [{"path": f"pics/{colour}.jpg", "caption": text} for colour, text in zip(COLOURS, texts, strict=True)]
    table = pictures / f"t.{form}"
    if form == "csv":
        table.write_text("path,caption\n" + "".join(f'{row["path"]},"{row["caption"]}"\n' for row in rows))
    elif form == "jsonl":
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        write_parquet(table, rows)
    found = pack(table, tmp_path / "mine", limits="bad=1", workers=1)
    assert captions_of(found.card) == ["none of them", "a nan in a kitchen"]
    assert found.faults.counts == {("mine", "missing_caption"): 6}
    assert (
        "'NaN' is how programs write that there is no caption" in (tmp_path / "mine" / "quarantine.jsonl").read_text()
    )


def test_a_class_may_be_called_none_and_captions_beside_nothing_stay(pictures, tmp_path):
    table = pictures / "t.csv"
    table.write_text("path,label\npics/red.jpg,none\npics/blue.jpg,cat\n")
    found = pack(table, tmp_path / "classes", columns="caption=label", workers=1)
    assert captions_of(found.card) == ["none", "cat"]
    table.write_text("path,caption\npics/red.jpg,nan\npics/red.jpg,a boat\npics/blue.jpg , b\n")
    card = load_card(str(pack(table, tmp_path / "mine", workers=1).card))
    samples = SampleSet({"mine": card})
    assert json.loads(samples[0].read("json")) == {"caption": ["a boat"]} and samples[1].read("txt") == b" b"
