"""Any tar that common tools write is read; the index is kept, and doubted when the file changes."""

from __future__ import annotations

import io
import os
import shutil
import tarfile

import pytest

from tests.shards import sample_members, write_shards, write_tar
from vlp.data import Card
from vlp.data.faults import BadSampleError
from vlp.data.shards.cache import cache_folder, cache_path
from vlp.data.shards.index import build_index, open_index
from vlp.data.shards.open_files import OpenFiles
from vlp.data.shards.shard import open_shards
from vlp.data.shards.summary import summary_in_cache
from vlp.data.shards.tar import scan_tar

LONG = "folder/" + "x" * 150


def open_shard(path):
    (shard,) = open_shards(Card(name="x", shards=str(path)))
    return shard


def contents(shard):
    return [{name: shard.read(entry) for name, entry in shard.members(place).items()} for place in range(len(shard))]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_lie_where_tarfile_says(tmp_path, format):
    path = tmp_path / "x.tar"
    names = ["a.jpg", "folder/b.txt", "c.JPG", "folder/" + "y" * 80 + "/z.txt"]
    if format != tarfile.USTAR_FORMAT:
        names += [LONG + ".txt", "uml\u00e4ut.txt"]
    with tarfile.open(path, "w", format=format) as tar:
        tar.add(tmp_path, arcname="folder", recursive=False)
        for size, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = 300 * size
            member.mtime = 1.5  # makes pax write a record for every member
            tar.addfile(member, io.BytesIO(bytes([size]) * member.size))
    with tarfile.open(path) as tar:
        expected = [(member.name, member.offset_data, member.size) for member in tar if member.isfile()]
    scan = scan_tar(path)
    assert [(member.name, member.offset, member.size) for member in scan.members] == expected
    assert not scan.fault


def test_samples_are_members_with_one_key(tmp_path):
    names = ["a/1.jpg", "a/1.txt", "b/1.jpg", "b/1.seg.txt", "b/1.txt", "noextension", "./2.JPG", "a/1.txt"]
    shard = open_shard(write_tar(tmp_path / "x.tar", [(name, name.encode()) for name in names]))
    assert [shard.key(place) for place in range(len(shard))] == ["a/1", "b/1", "./2", "a/1"]
    assert [list(sample) for sample in contents(shard)] == [["jpg", "txt"], ["jpg", "seg.txt", "txt"], ["jpg"], ["txt"]]
    assert contents(shard)[1]["seg.txt"] == b"b/1.seg.txt"


def test_a_second_start_reads_the_index_and_not_the_tar(tmp_path, monkeypatch):
    write_shards(tmp_path, 1, 4)
    first = open_shard(tmp_path / "00000.tar")
    monkeypatch.setattr("vlp.data.shards.index.scan_tar", None)
    again = open_shard(tmp_path / "00000.tar")
    assert contents(first) == contents(again)
    assert [again.key(place) for place in range(4)] == [f"{k:06d}" for k in range(4)]


def test_a_changed_tar_is_scanned_again(tmp_path):
    write_shards(tmp_path, 1, 4)
    path = tmp_path / "00000.tar"
    assert len(open_shard(path)) == 4
    write_shards(tmp_path, 1, 5)
    assert len(open_shard(path)) == 5
    os.utime(path, ns=(0, 0))
    assert len(open_shard(path)) == 5


def test_a_damaged_index_is_made_again(tmp_path):
    write_shards(tmp_path, 1, 4)
    path = tmp_path / "00000.tar"
    expected = contents(open_shard(path))
    whole = cache_path(path, ".index").read_bytes()
    damages = [b"", b"PK\x03\x04 no index", whole[:200], whole[:-9], b"x" * len(whole)]
    damages += [whole.replace(b'"samples": 4', b'"samples": 9'), whole.replace(b'"version": 2', b'"version": 0')]
    for damage in damages:
        assert damage != whole
        shutil.rmtree(cache_folder("summaries"))
        cache_path(path, ".index").write_bytes(damage)
        assert contents(open_shard(path)) == expected
        assert cache_path(path, ".index").read_bytes() == whole


def test_two_ways_to_a_tar_have_one_index(tmp_path):
    write_shards(tmp_path / "real", 1, 4)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert len(open_shard(tmp_path / "real" / "00000.tar")) == 4
    indices = sorted(cache_folder("shards").glob("*.index"))
    assert len(open_shard(tmp_path / "link" / "00000.tar")) == 4
    assert sorted(cache_folder("shards").glob("*.index")) == indices


@pytest.mark.parametrize("checksums", [False, True])
def test_no_flipped_bit_of_an_index_is_believed(tmp_path, checksums):
    content = build_index(write_tar(tmp_path / "x.tar", sample_members(0) + sample_members(1)), checksums=checksums)
    path = tmp_path / "x.index"
    path.write_bytes(content)
    assert open_index(path, OpenFiles()) is not None
    for bit in range(8 * len(content)):
        broken = bytearray(content)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        assert open_index(path, OpenFiles()) is None


def test_a_byte_that_changed_since_a_member_was_indexed_is_a_fault(tmp_path):
    path = write_tar(tmp_path / "x.tar", sample_members(0) + sample_members(1))
    path.with_name("x.tar.index").write_bytes(build_index(path, checksums=True))
    status, data = path.stat(), bytearray(path.read_bytes())
    data[data.index(b"caption 1")] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a failing disk leaves it
    shard = open_shard(path)
    shard.read(shard.members(0)["txt"])
    with pytest.raises(BadSampleError, match=r"'\.txt' is not what it was when vlp data index read it") as caught:
        shard.read(shard.members(1)["txt"])
    assert caught.value.reason == "wrong_checksum"


def test_a_damaged_summary_is_made_again(tmp_path):
    write_shards(tmp_path, 1, 4)
    card = Card(name="x", shards=str(tmp_path / "00000.tar"))
    open_shards(card)
    whole = summary_in_cache(card).read_bytes()
    for damage in (b"", b"{}", b"[]", whole[:50], whole.replace(b'"samples": 4', b'"samples": []')):
        assert damage != whole
        summary_in_cache(card).write_bytes(damage)
        assert len(open_shards(card)[0]) == 4
        assert summary_in_cache(card).read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    write_shards(tmp_path, 1, 4)
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(open_shard(tmp_path / "00000.tar")) == 4


def test_no_half_written_files_stay_in_the_cache(tmp_path):
    write_shards(tmp_path, 1, 4, suffix="tar.gz")
    shard = open_shard(tmp_path / "00000.tar.gz")
    assert sorted(path.suffix for path in shard.open()[0].parent.iterdir()) == [".index", ".tar"]


@pytest.mark.parametrize("keep", [0.6, 0.9])
def test_a_truncated_tar_gz_gives_what_can_be_unpacked(tmp_path, keep):
    write_shards(tmp_path, 1, 20, suffix="tar.gz")
    path = tmp_path / "00000.tar.gz"
    whole = contents(open_shard(path))
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    shard = open_shard(path)
    assert 0 < len(shard) < 20 and contents(shard) == whole[: len(shard)]
    assert "broken compressed stream" in shard.fault
    assert "broken compressed stream" in open_shard(path).fault  # also from the cache


def test_a_tar_without_its_end_mark_is_suspicious(tmp_path):
    path = write_tar(tmp_path / "x.tar", sample_members(0))
    path.write_bytes(path.read_bytes().rstrip(b"\0") + b"\0" * (512 - len(path.read_bytes().rstrip(b"\0")) % 512))
    assert len(open_shard(path)) == 1
    assert "no end-of-archive mark" in open_shard(path).fault


def test_doubled_members_are_refused(tmp_path):
    shard = open_shard(write_tar(tmp_path / "x.tar", [("a.txt", b"1"), ("a.TXT", b"2")]))
    with pytest.raises(BadSampleError, match="two members"):
        shard.members(0)


def test_few_files_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr("vlp.data.shards.open_files.MOST_OPEN", 2)
    files = OpenFiles()
    for number in range(5):
        (tmp_path / str(number)).write_text(f"file {number}")
    for number in (0, 1, 2, 3, 4, 0):
        assert files.read(tmp_path / str(number), 5, 1) == str(number).encode()
    assert [path.name for path in files._descriptors] == ["4", "0"]
