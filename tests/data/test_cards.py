"""Every card that ships is true, and every mistake in a card is explained."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.shards import write_shards, write_tar
from vlp.data import Captions, Card, SampleSet
from vlp.data.faults import BadSampleError
from vlp.ground.files import sha256_of
from vlp.ground.types import RecipeError
from vlp.ground.yaml import read_yaml

DATA = Path(__file__).parents[2] / "data"
CARDS = sorted(path for path in DATA.rglob("*.yaml"))


def test_there_are_cards():
    assert any(path.stem == "embedded" for path in CARDS)


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_shipped_card_is_true(path):
    card = Card.from_mapping(read_yaml(path), path)
    assert card.name == path.stem
    assert card.licence and card.home
    card.verify()
    samples = SampleSet({card.name: card})
    assert len(samples) == card.samples
    assert not samples.shard_faults()
    assert len(card.sha256) == len(card.paths())


@pytest.mark.parametrize(("name", "part", "count"), [
    ("embedded", "train/", "train_samples"), ("embedded-photos", "photos/", "photo_samples"),
])  # fmt: skip
def test_a_shipped_card_agrees_with_the_manifest(name, part, count):
    manifest = json.loads((DATA / "embedded" / "manifest.json").read_text())
    card = Card.from_mapping(read_yaml(DATA / f"{name}.yaml"), DATA / f"{name}.yaml")
    listed = {f"embedded/{file['file']}": file["sha256"] for file in manifest["files"] if part in file["file"]}
    assert card.samples == manifest[count]
    assert card.sha256 == listed


def test_every_photograph_has_a_credit():
    credits = json.loads((DATA / "embedded" / "photos-train-credits.json").read_text())
    card = Card.from_mapping(read_yaml(DATA / "embedded-photos.yaml"), DATA / "embedded-photos.yaml")
    samples = SampleSet({card.name: card})
    keys = {samples.fault(k, "corrupt_image", "").key for k in range(len(samples))}
    assert {credit["key"] for credit in credits} == keys
    assert all(credit["author"] and credit["license"] for credit in credits)


def test_a_repeated_set_counts_several_times_under_ids_of_its_own(tmp_path):
    write_shards(tmp_path / "shards", 2, 3)
    card = Card(name="x", shards="shards/*.tar", folder=tmp_path)
    samples = SampleSet({"x": card, "y": card}, {"y": 2})
    assert len(samples) == 18
    assert samples[6].read("txt") == samples[12].read("txt") == samples[0].read("txt")
    assert [samples[k].source for k in (0, 6, 12)] == ["x", "y", "y"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"smaples": 5}, r"cards/x\.yaml: smaples: unknown key; did you mean 'samples'"),
        ({"shards": None}, "shards"),
        ({"samples": 0}, "samples"),
        ({"captions": {}}, "captions"),
        ({"captions": {"txt": 0}}, r"captions\.txt"),
        ({"sha256": ["abc"]}, "sha256"),
    ],
)
def test_a_mistake_names_the_file_the_key_and_a_way_out(settings, message):
    with pytest.raises(RecipeError, match=message):
        Card.from_mapping({"name": "x", "shards": "*.tar", **settings}, Path("cards/x.yaml"))


def test_shards_are_found_relative_to_the_card(tmp_path):
    write_shards(tmp_path / "shards", 3, 2)
    card = Card.from_mapping({"name": "x", "shards": "shards/*.tar"}, tmp_path / "x.yaml")
    assert [path.name for path in card.paths()] == ["00000.tar", "00001.tar", "00002.tar"]


def test_patterns_may_be_lists_absolute_and_hold_variables(tmp_path, monkeypatch):
    write_shards(tmp_path / "shards", 3, 2)
    monkeypatch.setenv("SHARDS", str(tmp_path / "shards"))
    card = Card(name="x", shards=("$SHARDS/0000[01].tar", f"{tmp_path}/shards/00002.tar"))
    assert len(card.paths()) == 3


def test_missing_shards_are_named_at_the_start(tmp_path):
    write_shards(tmp_path / "shards", 3, 2)
    card = Card(name="x", shards="shards/{00000..00004}.tar", folder=tmp_path)
    with pytest.raises(RecipeError, match=r"cannot read 2 of 5 shards: .*00003\.tar, .*00004\.tar; fetch them"):
        card.paths()


def test_a_checksum_of_a_shard_that_is_gone_names_it(tmp_path):
    write_shards(tmp_path, 1, 2)
    card = Card(name="x", shards="*.tar", folder=tmp_path, sha256={"00007.tar": "0" * 64})
    with pytest.raises(RecipeError, match=r"00007\.tar"):
        card.paths()


def test_a_pattern_that_matches_nothing_is_an_error(tmp_path):
    with pytest.raises(RecipeError, match=r"no file matches .*\*\.tar"):
        Card(name="x", shards="*.tar", folder=tmp_path).paths()


def test_a_wrong_count_is_an_error(tmp_path):
    card = write_shards(tmp_path, 2, 3).model_copy(update={"samples": 7})
    with pytest.raises(RecipeError, match=r"samples: 7 promised, 6 found in 2 shards"):
        SampleSet({"x": card})


def test_a_broken_shard_explains_a_wrong_count(tmp_path):
    card = write_shards(tmp_path, 2, 3).model_copy(update={"samples": 6})
    (tmp_path / "00001.tar").write_bytes(b"")
    assert len(SampleSet({"x": card})) == 3


def test_nothing_at_all_is_an_error_with_reasons(tmp_path):
    card = write_shards(tmp_path, 1, 3)
    (tmp_path / "00000.tar").write_bytes(b"")
    with pytest.raises(RecipeError, match=r"not one sample in 1 shards \(.*00000\.tar: empty file\)"):
        SampleSet({"x": card})


def test_another_content_has_another_checksum_and_fingerprint(tmp_path):
    card = write_shards(tmp_path, 1, 3).model_copy(update={"sha256": {"00000.tar": "0" * 64}})
    with pytest.raises(RecipeError, match=r"00000\.tar differs"):
        card.verify()
    assert card.fingerprint != card.model_copy(update={"sha256": {"00000.tar": "1" * 64}}).fingerprint


def test_where_texts_and_images_are_is_part_of_the_fingerprint(tmp_path):
    card = write_shards(tmp_path, 1, 3)
    changes = ({}, {"captions": {"json.a": 1.0}}, {"captions": {"json.b": 1.0}}, {"images": ("a.png",)})
    assert len({card.model_copy(update=change).fingerprint for change in changes}) == 4
    assert card.fingerprint == card.model_copy(update={"captions": {"txt": 1.0}, "licence": "free"}).fingerprint


def test_shards_of_one_name_in_two_folders_are_two_in_the_fingerprint(tmp_path):
    for folder in ("a", "b"):
        write_shards(tmp_path / folder, 1, 3)
    cards = [Card(name="x", shards=shards, folder=tmp_path) for shards in ("a/*.tar", "b/*.tar", "?/*.tar")]
    assert len(cards[2].paths()) == 2
    assert cards[2].fingerprint not in {card.fingerprint for card in cards[:2]}


def test_a_shard_that_is_found_through_a_link_is_there_once(tmp_path):
    card = write_shards(tmp_path / "set", 2, 3)
    (tmp_path / "link").symlink_to(tmp_path / "set")
    sums = {path.name: sha256_of(path) for path in card.paths()}
    linked = card.model_copy(update={"shards": f"{tmp_path}/link/*.tar", "sha256": sums})
    assert linked.locations() == card.locations()
    assert all(map(linked.sha256_of, linked.locations()))
    assert len(SampleSet({"x": linked})) == 6


# ---------------------------------------- shards as people name them
def test_hidden_files_are_no_shards_unless_they_are_asked_for(tmp_path):
    card = write_shards(tmp_path / ".set", 2, 2)
    (tmp_path / ".set" / "._00000.tar").write_bytes(b"\x00\x05\x16\x07Mac OS X")
    (tmp_path / ".set" / ".old").mkdir()
    (tmp_path / ".set" / ".old" / "00002.tar").write_bytes(b"")
    for pattern in ("*.tar", "**/*.tar", "[0-9]*.tar"):
        found = card.model_copy(update={"shards": pattern}).paths()
        assert [path.name for path in found] == ["00000.tar", "00001.tar"]
    assert [path.name for path in card.model_copy(update={"shards": ".old/*.tar"}).paths()] == ["00002.tar"]
    assert [path.name for path in card.model_copy(update={"shards": ".*.tar"}).paths()] == ["._00000.tar"]


def test_shards_may_be_joined_as_webdataset_joins_them(tmp_path):
    write_shards(tmp_path, 3, 2)
    card = Card(name="x", shards="0000{0..1}.tar::00002.tar", folder=tmp_path)
    assert [path.name for path in card.paths()] == ["00000.tar", "00001.tar", "00002.tar"]


def test_a_folder_as_shards_is_told_what_to_write(tmp_path):
    write_shards(tmp_path / "set", 1, 2)
    with pytest.raises(RecipeError, match=r"set is no tar: write .*/set/\*\.tar"):
        Card(name="x", shards="set", folder=tmp_path).locations()


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.tar")
    with pytest.raises(RecipeError, match=r"x\.tar is no tar: it is neither a file nor a folder"):
        Card(name="x", shards="*.tar", folder=tmp_path).locations()


@pytest.mark.parametrize(
    "pattern",
    [
        "{000000000..999999999}.tar",
        "{0..9999}{0..9999}.tar",
        "{a,b}" * 30,
        "{0..99}/{{0..99},{a,b}{0..99}}/{0..999}",
        "{5..-99999999}",
        "{0..9999999999999999999999999}",
    ],
)
def test_braces_that_stand_for_too_many_names_are_refused_at_once(tmp_path, pattern):
    with pytest.raises(RecipeError, match="stands for more than 1000000 names"):
        Card(name="x", shards=pattern, folder=tmp_path).locations()


def test_unbalanced_braces_are_explained(tmp_path):
    with pytest.raises(RecipeError, match=r"card 'x': "):
        Card(name="x", shards="{0..3.tar", folder=tmp_path).locations()


# ---------------------------------------- members as people name them
def open_set(folder, members, **settings):
    write_tar(folder / "x.tar", members)
    return SampleSet({"x": Card(name="x", shards="x.tar", folder=folder, **settings)})


def test_a_card_names_the_image_as_it_names_captions(tmp_path):
    members = [
        ("red.image.png", b"png"),
        ("red.caption.txt", b"a red boat"),
        ("blue.img", b"img"),
        ("blue.cap", b"blue"),
    ]
    samples = open_set(tmp_path, members, images=["image.png", ".IMG"], captions={"caption.txt": 1, "cap": 1})
    assert [samples[number].read_image() for number in range(2)] == [b"png", b"img"]
    assert [Captions().first(samples[number]) for number in range(2)] == ["a red boat", "blue"]


def test_one_of_several_images_is_chosen(tmp_path):
    members = [("red.left.jpg", b"left"), ("red.right.jpg", b"right"), ("red.txt", b"red")]
    assert open_set(tmp_path, members, images=["right.jpg"])[0].read_image() == b"right"


@pytest.mark.parametrize(
    ("members", "said"),
    [
        (
            ("red.v1.jpg", "red.txt"),
            "the first dot of a name ends the key); where that is the image, write `images: [v1.jpg]`",
        ),
        (("green 2.0 final.jpg", "green 2.txt"), "write `images: [0 final.jpg]`"),
        (("red.img", "red.txt"), "write `images: [img]` into the card"),
        (("red.txt",), "none of jpg, jpeg, png, webp among txt"),
    ],
)
def test_a_missing_image_is_missed_with_its_cause(tmp_path, members, said):
    samples = open_set(tmp_path, [(name, b"x") for name in members])
    with pytest.raises(BadSampleError) as caught:
        samples[0].read_image()
    assert caught.value.reason == "missing_image" and said in caught.value.detail


@pytest.mark.parametrize("key", ["json", "meta.json"])
def test_a_whole_document_is_no_place_of_captions(tmp_path, key):
    path = tmp_path / "x.yaml"
    with pytest.raises(RecipeError, match=rf"'{key}' is a whole document: name a key in it, such as {key}.caption"):
        Card.from_mapping({"name": "x", "shards": "x.tar", "captions": {key: 1.0}}, path)
