"""Folders and files of documents become shards that the stream reads; what is damaged is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.documents import obelics
from tests.shards import image_bytes
from vlp.curate.bench import measure
from vlp.curate.filter import filter_card
from vlp.curate.pack import pack
from vlp.curate.pack_set import SetOptions, pack_set
from vlp.curate.sources.document_records import DocumentRow
from vlp.curate.verify import verify_card
from vlp.data import SampleSet
from vlp.data.faults import BadSampleError
from vlp.data.shards.cards import load_card
from vlp.ground.types import RecipeError


def named(record):
    return {**record, "images": [name and name.removeprefix("https://example.org/") for name in record["images"]]}


@pytest.fixture
def folder(tmp_path):
    """Four documents: whole, lacking an image, with a damaged one, and with none."""
    records = [obelics("lead", 1, "one", 3, "two"), obelics(4, "four", 9, "nine"), obelics(5, "a"), obelics(8, "b")]
    source = tmp_path / "documents"
    source.mkdir()
    for number, record in enumerate(records):
        (source / f"{number}.json").write_text(json.dumps(named(record)))
    for number, kind in ((1, "png"), (3, "jpg"), (4, "webp")):
        (source / f"{number}.jpg").write_bytes(image_bytes(number, kind))
    (source / "5.jpg").write_bytes(image_bytes(5)[:-200])
    return source


def members_of(card):
    samples = SampleSet({"d": card})
    return [sorted(samples[number].members) for number in range(len(samples))]


def test_a_folder_is_packed_and_what_is_damaged_is_left_out_and_named(folder, tmp_path):
    packed = pack(folder, tmp_path / "mine", limits="bad=0.1", workers=1)
    card = load_card(str(packed.card))
    assert (card.documents, card.samples, "captions" in card.text) == ("json", 2, False)
    assert members_of(card) == [["1.png", "3.jpg", "json"], ["0.webp", "json"]]
    assert SampleSet({"d": card})[0].read("json") == (folder / "0.json").read_bytes()
    faults = [json.loads(line) for line in (tmp_path / "mine" / "quarantine.jsonl").read_text().splitlines()]
    assert [(fault["reason"], fault["id"]) for fault in faults] == [("corrupt_image", 2), ("missing_image", 3)]
    assert "none of the images that it names is in" in faults[1]["detail"]
    again = pack(folder, tmp_path / "mine", limits="bad=0.1", workers=1)
    assert again.kept == 2
    assert not verify_card(card, workers=1).findings
    assert measure(card, 16, 0.01, 0) > 0


def test_lines_are_packed_in_the_layout_of_mmc4(folder, tmp_path):
    info = [
        {"image_name": f"{n}.jpg", "matched_text_index": place, "matched_sim": 0.3} for n, place in ((3, 1), (1, 0))
    ]
    lines = [{"text_list": ["one", "two"], "image_info": info}, {"text_list": ["one"]}]
    source = folder / "lines.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{not\n")
    packed = pack(source, tmp_path / "mine", limits="bad=0.1", workers=1)
    assert members_of(load_card(str(packed.card))) == [["0.jpg", "1.png", "json"]]
    assert packed.faults.total == 2


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "/etc/secret.jpg", "a/../../secret.jpg", "https://example.org/1.jpg"]
)
def test_a_document_of_the_web_names_no_file_elsewhere(folder, name):
    (folder.parent / "secret.jpg").write_bytes(image_bytes(0))
    text = json.dumps({"texts": [None, "a"], "images": [name, None]}).encode()
    with pytest.raises(BadSampleError, match="none of the images"):
        DocumentRow(0, "d", captions={"json": text}, folder=folder).members({})


def test_verify_finds_an_image_and_a_text_that_are_gone(folder, tmp_path):
    card = load_card(str(pack(folder, tmp_path / "mine", limits="bad=0.1", workers=1).card))
    shard = tmp_path / "mine" / "000000.tar"
    data = shard.read_bytes()
    shard.write_bytes(
        data.replace(image_bytes(3)[60:90], bytes(30)).replace(b'"four"', b"null  ").replace(b'"nine"', b"null  ")
    )
    found = {finding.reason for finding in verify_card(card, workers=1).findings}
    assert found == {"wrong_checksum", "corrupt_image", "empty_caption"}


def test_verbs_for_pairs_refuse_documents(folder, tmp_path):
    card = load_card(str(pack(folder, tmp_path / "mine", limits="bad=0.1", workers=1).card))
    with pytest.raises(RecipeError, match=r"card 'mine': documents: .* this reads pairs"):
        filter_card(card, tmp_path / "kept.yaml", Path("recipes/filters/align.yaml"), workers=1)
    with pytest.raises(RecipeError, match="interleaved documents, which no evaluator reads"):
        pack_set(folder, tmp_path / "set", SetOptions())
