"""Verify finds what is wrong, once, and nothing else."""

from __future__ import annotations

import json
import os

import pytest

from tests.shards import image_bytes, sample_members, write_shards
from vlp.cli import main
from vlp.curate.verify import verify_card
from vlp.data.shards.cards import load_card
from vlp.ground.yaml import write_yaml


@pytest.fixture
def write_card(tmp_path):
    def write(replace=None, **settings):
        write_shards(tmp_path / "shards", 2, 4, replace=replace)
        path = tmp_path / "mine.yaml"
        path.write_text(write_yaml({"name": "mine", "shards": "shards/*.tar", **settings}))
        return str(path)

    return write


def reasons(card, **settings):
    return [finding.reason for finding in verify_card(load_card(card), workers=1, **settings).findings]


def test_a_sound_card_passes(write_card, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["data", "verify", write_card(samples=8), "--workers", "1"])
    assert leaving.value.code == 0
    assert "mine: 8 samples in 2 shards: counts, checksums, images and captions" in capsys.readouterr().out


def test_a_flipped_byte_is_found_by_its_checksum(photos, tmp_path, capsys):
    from vlp.curate.pack import pack

    card = str(pack(photos, tmp_path / "mine", limits="samples=4", workers=1).card)
    assert reasons(card) == []
    shard = tmp_path / "mine" / "000001.tar"
    status = shard.stat()
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "wrong_checksum" in reasons(card)
    with pytest.raises(SystemExit) as leaving:
        main(["data", "verify", card, "--workers", "1"])
    assert leaving.value.code == 1
    assert "1  wrong_checksum" in capsys.readouterr().out


def test_a_header_that_changed_under_an_old_index_is_found(write_card, tmp_path):
    card = write_card()
    assert reasons(card) == []
    shard = tmp_path / "shards" / "00001.tar"
    status = shard.stat()
    data = bytearray(shard.read_bytes())
    data[3] ^= 1
    shard.write_bytes(data)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert reasons(card) == ["shard_error"]


def test_every_kind_of_bad_sample_is_named(write_card):
    replace = {
        0: [("000000.txt", b"x")],
        1: [("000001.jpg", image_bytes(1)[:200]), ("000001.txt", b"x")],
        2: [("000002.jpg", image_bytes(2)), ("000002.cls", b"3")],
        3: [("000003.jpg", image_bytes(3)), ("000003.txt", b" ")],
        5: [*sample_members(5), ("000005.txt", b"again")],
    }
    expected = ["missing_image", "corrupt_image", "missing_caption", "empty_caption", "duplicate_key"]
    assert reasons(write_card(replace)) == expected


def test_all_captions_of_a_sample_are_read_and_one_may_be_missing(write_card):
    replace = {0: [("000000.jpg", image_bytes(0)), ("000000.json", b"{")], 1: sample_members(1)[:2]}
    captions = {"txt": 1.0, "json.caption": 1.0}
    assert reasons(write_card(replace, captions=captions)) == ["bad_caption"]


def test_every_caption_of_a_list_is_read(write_card):
    record = json.dumps({"caption": ["a boat", " "]}).encode()
    replace = {0: [("000000.jpg", image_bytes(0)), ("000000.json", record)]}
    assert reasons(write_card(replace, captions={"txt": 1.0, "json.caption": 1.0})) == ["empty_caption"]


def test_a_wrong_count_of_a_shard_is_found(write_card):
    assert reasons(write_card(counts={"shards/00000.tar": 5})) == ["wrong_count"]


def test_a_card_without_a_sample_is_found(tmp_path):
    write_shards(tmp_path / "shards", 1, 0)
    (tmp_path / "card.yaml").write_text("name: none\nshards: shards/*.tar\n")
    assert reasons(tmp_path / "card.yaml") == ["no_samples"]


def test_a_wrong_count_and_a_forgotten_checksum_are_found(write_card):
    assert reasons(write_card(samples=9)) == ["wrong_count"]
    found = reasons(write_card(sha256={"shards/00000.tar": "0" * 64}))
    assert found == ["wrong_checksum", "no_checksum"]


@pytest.mark.processes
def test_processes_agree(write_card):
    card = write_card({1: [("000001.txt", b"x")]})
    assert verify_card(load_card(card), workers=2) == verify_card(load_card(card), workers=1)
