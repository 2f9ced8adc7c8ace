"""Indices and a summary are built once, ahead of the stream, which then scans nothing and opens no shard."""

from __future__ import annotations

import os
import shutil
import zlib

import pytest

from tests.flaky_server import serving
from tests.shards import write_shards
from vlp.curate.index_shards import index_card
from vlp.curate.verify import verify_card
from vlp.data import SampleSet
from vlp.data.shards import homes
from vlp.data.shards import index as index_module
from vlp.data.shards.cards import load_card
from vlp.data.shards.shard import open_shards
from vlp.data.shards.summary import summary_beside
from vlp.ground.cache_folder import cache_folder
from vlp.ground.types import RecipeError
from vlp.ground.yaml import write_yaml


@pytest.fixture
def card(tmp_path):
    folder = tmp_path / "set"
    write_shards(folder / "shards", 3, 2)
    path = folder / "mine.yaml"
    path.write_text(write_yaml({"name": "mine", "shards": "shards/*.tar"}))
    return path


def forbid(monkeypatch, module, name: str) -> None:
    monkeypatch.setattr(module, name, lambda path, *_: pytest.fail(f"{name}({path})"))


def read_all(path) -> list[bytes]:
    samples = SampleSet({"mine": load_card(str(path))})
    return [samples[number].read("txt") for number in range(len(samples))]


def test_the_stream_scans_nothing_and_opens_no_shard_at_its_start(card, monkeypatch):
    indices = index_card(load_card(str(card)), workers=1)
    assert indices.samples == 6
    assert "mine: 6 samples, " in str(indices) and "3 indices built, 0 were there" in str(indices)
    assert sorted(path.name for path in (card.parent / "shards").glob("*.index")) == [
        "00000.tar.index", "00001.tar.index", "00002.tar.index",
    ]  # fmt: skip
    forbid(monkeypatch, index_module, "scan_tar")
    shutil.rmtree(cache_folder(""))
    with monkeypatch.context() as at_start:
        forbid(at_start, homes, "open_index")
        samples = SampleSet({"mine": load_card(str(card))})
    assert len(samples) == 6 and samples[5].read("txt").startswith(b"caption 5")
    assert "0 indices built, 3 were there" in str(index_card(load_card(str(card)), workers=1))
    assert not cache_folder("shards").exists()


def test_without_a_summary_the_indices_beside_the_shards_serve(card, monkeypatch):
    index_card(load_card(str(card)), workers=1)
    summary_beside(load_card(str(card))).unlink()
    shutil.rmtree(cache_folder(""))
    forbid(monkeypatch, index_module, "scan_tar")
    assert len(read_all(card)) == 6


def test_the_summary_and_the_indices_move_with_the_set(card, tmp_path, monkeypatch):
    before = read_all(card)
    index_card(load_card(str(card)), workers=1)
    shutil.copytree(card.parent, tmp_path / "kept")  # keeps times
    anew = {"copy_function": shutil.copyfile, "dirs_exist_ok": True}
    shutil.copytree(card.parent, tmp_path / "moved", ignore=shutil.ignore_patterns("*.index"), **anew)
    shutil.copytree(card.parent, tmp_path / "moved", ignore=shutil.ignore_patterns("*.tar"), **anew)
    forbid(monkeypatch, index_module, "scan_tar")
    assert read_all(tmp_path / "kept" / "mine.yaml") == before
    assert read_all(tmp_path / "moved" / "mine.yaml") == before


def test_a_shard_that_changed_is_indexed_again(card):
    index_card(load_card(str(card)), workers=1)
    write_shards(card.parent / "shards", 1, 5)
    assert len(read_all(card)) == 9  # also before it is
    indices = index_card(load_card(str(card)), workers=1)
    assert indices.samples == 9 and [shard.fresh for shard in indices.shards] == [False, True, True]


def test_a_shard_of_the_same_size_is_not_taken_for_the_old_one(card):
    index_card(load_card(str(card)), workers=1)
    path = card.parent / "shards" / "00000.tar"
    old, other = path.read_bytes(), path.read_bytes().replace(b"caption 0, tag", b"another one 00")
    assert old != other and len(old) == len(other)
    path.write_bytes(other)
    assert read_all(card)[0].startswith(b"another one 00")
    assert [shard.fresh for shard in index_card(load_card(str(card)), workers=1).shards] == [False, True, True]


def test_a_broken_index_is_built_again_and_a_broken_shard_named(card):
    index_card(load_card(str(card)), workers=1)
    for path in (card.parent / "shards").glob("*.index"):
        path.write_bytes(b"")
    (card.parent / "shards" / "00002.tar").write_bytes(b"no tar")
    indices = index_card(load_card(str(card)), workers=1)
    assert indices.samples == 4 and not any(shard.fresh for shard in indices.shards)
    assert "00002.tar: not a tar file" in str(indices)


def test_every_member_has_a_checksum_of_its_own(card):
    index_card(load_card(str(card)), workers=1)
    for shard in open_shards(load_card(str(card))):
        for place in range(len(shard)):
            for entry in shard.entries(place):
                assert zlib.crc32(shard.read(entry)) == entry.checksum


def test_verify_names_the_member_in_which_a_byte_has_flipped(card):
    index_card(load_card(str(card)), workers=1)
    path = card.parent / "shards" / "00001.tar"
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[data.index(b"caption 3")] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    (finding,) = verify_card(load_card(str(card)), workers=1).findings
    assert (finding.reason, finding.shard, finding.key) == ("wrong_checksum", "00001.tar", "000003")
    assert "'.txt' is not what it was" in finding.detail


def test_a_folder_that_cannot_be_written_leaves_the_index_to_the_cache(card, monkeypatch):
    block(card)
    indices = index_card(load_card(str(card)), workers=1)
    assert indices.shards[0].index.parent == cache_folder("shards")
    assert indices.summary.parent == cache_folder("summaries")
    forbid(monkeypatch, index_module, "scan_tar")
    assert len(read_all(card)) == 6


def test_nowhere_to_write_is_an_error(card, tmp_path, monkeypatch):
    block(card)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(RecipeError, match="set XDG_CACHE_HOME"):
        index_card(load_card(str(card)), workers=1)


def block(card) -> None:
    """Stop files from being written beside shards and card, also for root."""
    for number in range(3):
        (card.parent / "shards" / f"{number:05d}.tar.index").mkdir()
    summary_beside(load_card(str(card))).mkdir()


def test_a_remote_card_is_indexed_once_and_then_travels(card):
    with serving() as server:
        for path in (card.parent / "shards").glob("*.tar"):
            server.files[f"/{path.name}"] = path.read_bytes()
        text = write_yaml({"name": "mine", "shards": f"{server.address}/{{00000..00002}}.tar", "tries": 1})
        card.write_text(text)
        indices = index_card(load_card(str(card)), workers=1)
        assert indices.samples == 6 and all(len(shard.known.sha256) == 64 for shard in indices.shards)
        shutil.rmtree(cache_folder(""))  # as on another machine
        server.requests.clear()
        samples = SampleSet({"mine": load_card(str(card))})
        assert len(samples) == 6
        assert sorted(server.requests) == [(f"/0000{number}.tar", "bytes=0-0") for number in range(3)]  # versions alone
        server.requests.clear()
        assert samples[4].read("txt").startswith(b"caption 4")
        assert server.requests == [("/00002.tar", "")]


@pytest.mark.processes
def test_two_processes_build_the_same(card):
    indices = index_card(load_card(str(card)), workers=2)
    assert indices.samples == 6 and not any(shard.fresh for shard in indices.shards)
