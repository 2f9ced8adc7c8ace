"""Tars as people have them: links, sparse members, parts in any order, bytes that are lost or zeroed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import shutil
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import pytest

from tests.shards import sample_members, write_tar
from vlp.data import Card, SampleSet
from vlp.data.faults import BadSampleError
from vlp.data.shards.index import build_index, open_index
from vlp.data.shards.open_files import OpenFiles
from vlp.data.shards.shard import Shard, open_shards
from vlp.data.shards.tar import BLOCK, RECORD, scan_tar

Contents = dict[str, bytes]


def open_tar(path: Path) -> Shard:
    (shard,) = open_shards(Card(name="x", shards=str(path)))
    return shard


def samples_of(shard: Shard) -> list[tuple[str, Contents]]:
    """Return key and members of each sample."""
    entries = [shard.members(place) for place in range(len(shard))]
    return [
        (shard.key(place), {name: shard.read(entry) for name, entry in found.items()})
        for place, found in enumerate(entries)
    ]


# ---------------------------------------- links
def write_links(path: Path, *links: tuple[str, bytes, str], format: int = tarfile.PAX_FORMAT) -> Path:
    """Write red.jpg, and links: (name, kind, target)."""
    with tarfile.open(path, "w", format=format) as tar:
        member = tarfile.TarInfo("a/red.jpg")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"red"))
        for name, kind, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    return path


HARD, SOFT = tarfile.LNKTYPE, tarfile.SYMTYPE
FAR = "x" * 120 + "/red.jpg"


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize(
    ("kind", "target"),
    [(HARD, "a/red.jpg"), (HARD, "./a/red.jpg"), (SOFT, "red.jpg"), (SOFT, "../a/./red.jpg"), (SOFT, "once.jpg")],
)
def test_a_link_stands_for_what_it_points_to(tmp_path, format, kind, target):
    more = [("a/once.jpg", SOFT, "red.jpg")] if target == "once.jpg" else []
    shard = open_tar(write_links(tmp_path / "x.tar", *more, ("a/blue.jpg", kind, target), format=format))
    assert dict(samples_of(shard))["a/blue"] == {"jpg": b"red"}


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_long_target_is_found(tmp_path, format):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=format) as tar:
        for name, kind in ((FAR, tarfile.REGTYPE), ("blue.jpg", HARD)):
            member = tarfile.TarInfo(name)
            member.type = kind
            if kind == HARD:
                member.linkname = FAR
            else:
                member.size = 3
            tar.addfile(member, io.BytesIO(b"far"))
    assert [found for _, found in samples_of(open_tar(path))] == [{"jpg": b"far"}] * 2


@pytest.mark.parametrize(
    ("kind", "target"), [(HARD, "gone.jpg"), (SOFT, "/etc/passwd"), (SOFT, "../../red.jpg"), (SOFT, "blue.jpg")]
)
def test_a_link_out_of_the_tar_or_to_itself_is_a_fault_of_its_sample(tmp_path, kind, target):
    shard = open_tar(write_links(tmp_path / "x.tar", ("a/blue.jpg", kind, target)))
    assert shard.read(shard.members(0)["jpg"]) == b"red"
    with pytest.raises(BadSampleError, match=r"'\.jpg' is a link to what is not in the tar"):
        shard.read(shard.members(1)["jpg"])


def test_sizes_of_links_and_folders_are_not_believed(tmp_path):
    """As POSIX has it, and tarfile: some writers put the size of the target there."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("a.jpg", tarfile.REGTYPE), ("folder", tarfile.DIRTYPE), ("b.jpg", HARD), ("c.jpg", SOFT)):
            member = tarfile.TarInfo(name)
            member.type, member.size = kind, 3
            member.linkname = "a.jpg" if kind in (HARD, SOFT) else ""
            tar.fileobj.write(member.tobuf())
            tar.fileobj.write(b"abc".ljust(BLOCK, b"\0") if kind == tarfile.REGTYPE else b"")
            tar.offset = tar.fileobj.tell()
    assert [found for _, found in samples_of(open_tar(path))] == [{"jpg": b"abc"}] * 3


# ---------------------------------------- sparse members
@pytest.mark.skipif(shutil.which("tar") is None, reason="needs GNU tar")
@pytest.mark.parametrize("holes", [1, 30])
@pytest.mark.parametrize(
    "options",
    [["--format=gnu"], *(["--format=posix", f"--sparse-version={number}"] for number in ("0.0", "0.1", "1.0"))],
    ids=" ".join,
)
def test_a_sparse_member_is_a_fault_of_its_sample_and_of_no_other(tmp_path, options, holes):
    with (tmp_path / "a.jpg").open("wb") as file:
        for hole in range(1, holes + 1):
            file.seek(hole << 17)
            file.write(b"data")
    (tmp_path / "b.jpg").write_bytes(b"whole")
    command = ["tar", "--create", "--sparse", *options, "--file", "x.tar", "a.jpg", "b.jpg"]
    subprocess.run(command, cwd=tmp_path, check=True)
    if scan_tar(tmp_path / "x.tar").members[0].size:
        pytest.skip("this file system has no holes")
    shard = open_tar(tmp_path / "x.tar")
    assert [shard.key(place) for place in range(len(shard))] == ["a", "b"] and not shard.fault
    with pytest.raises(BadSampleError, match=r"'\.jpg' is a sparse member"):
        shard.read(shard.members(0)["jpg"])
    assert shard.read(shard.members(1)["jpg"]) == b"whole"
    path = tmp_path / "x.index"
    path.write_bytes(build_index(tmp_path / "x.tar", checksums=True))
    index = open_index(path, OpenFiles())
    sums = [entry.checksum for place in range(2) for entry in index.members(place)]
    assert sums == [None, zlib.crc32(b"whole")]


# ---------------------------------------- members that stand apart
def test_members_of_one_key_need_not_stand_together(tmp_path):
    keys = ("red", "green", "blue")
    members = [(f"{key}.{kind}", f"{key} {kind}".encode()) for kind in ("jpg", "txt") for key in keys]
    shard = open_tar(write_tar(tmp_path / "x.tar", members))
    assert samples_of(shard) == [(key, {kind: f"{key} {kind}".encode() for kind in ("jpg", "txt")}) for key in keys]


def test_a_key_that_comes_again_with_the_same_members_is_another_sample(tmp_path):
    once = [("0.jpg", b"a"), ("0.txt", b"b"), ("1.jpg", b"c"), ("1.txt", b"d")]
    again = [(name, content.upper()) for name, content in once]
    shard = open_tar(write_tar(tmp_path / "x.tar", once + again))
    assert [found for _, found in samples_of(shard)] == [
        {"jpg": a.encode(), "txt": b.encode()} for a, b in ("ab", "cd", "AB", "CD")
    ]


# ---------------------------------------- tars put together, and what looks like it
def two_tars(folder: Path) -> tuple[bytes, bytes]:
    parts = [write_tar(folder / f"{part}.tar", sample_members(part) + sample_members(part + 2)) for part in range(2)]
    return parts[0].read_bytes(), parts[1].read_bytes()


def test_tars_behind_one_another_are_read_to_the_end(tmp_path):
    first, second = two_tars(tmp_path)
    (tmp_path / "x.tar").write_bytes(first + second)
    shard = open_tar(tmp_path / "x.tar")
    assert [shard.key(place) for place in range(len(shard))] == ["000000", "000002", "000001", "000003"]
    assert not shard.fault
    with tarfile.open(tmp_path / "x.tar", ignore_zeros=True) as tar:
        names = tar.getnames()
    assert [member.name for member in scan_tar(tmp_path / "x.tar").members] == names


def layout(path: Path) -> tuple[bytes, list[int]]:
    """Return a tar and where its headers begin."""
    with tarfile.open(path) as tar:
        return path.read_bytes(), [member.offset for member in tar]


@pytest.mark.parametrize("length", [BLOCK, 2 * BLOCK, 4096, RECORD])
def test_zeroed_bytes_are_no_silent_end(tmp_path, length):
    """What file systems leave after a crash: a block, a page, or more."""
    path = write_tar(tmp_path / "x.tar", [member for number in range(8) for member in sample_members(number)])
    whole, headers = layout(path)
    for start in headers[3:-6:3]:
        path.write_bytes(whole[:start] + bytes(length) + whole[start + length :])
        shard = open_tar(path)
        assert f"zero bytes at byte {start}" in shard.fault and len(shard) < 8
        assert all(found["jpg"] in whole for _, found in samples_of(shard) if "jpg" in found)


def test_a_zeroed_rest_is_no_silent_end(tmp_path):
    path = write_tar(tmp_path / "x.tar", [member for number in range(40) for member in sample_members(number)])
    whole, headers = layout(path)
    start = headers[60]
    path.write_bytes(whole[:start].ljust(len(whole), b"\0"))
    shard = open_tar(path)
    assert len(shard) == 20 and f"zero bytes from byte {start} to the end" in shard.fault
    assert shard.lost == pytest.approx(20, abs=4)


def test_a_cut_and_one_zero_block_is_no_silent_end(tmp_path):
    path = write_tar(tmp_path / "x.tar", [member for number in range(8) for member in sample_members(number)])
    whole, headers = layout(path)
    path.write_bytes(whole[: headers[12]] + bytes(BLOCK))
    shard = open_tar(path)
    assert len(shard) == 4 and f"half an end-of-archive mark at byte {headers[12]}" in shard.fault


@pytest.mark.parametrize("records", [0, 1])
def test_every_usual_end_is_sound(tmp_path, records):
    path = write_tar(tmp_path / "x.tar", sample_members(0))
    whole = path.read_bytes().rstrip(b"\0")
    whole += bytes(-len(whole) % BLOCK)
    path.write_bytes(whole + bytes(2 * BLOCK) + bytes(records * RECORD))
    assert not open_tar(path).fault


# ---------------------------------------- what is compressed, and what is no tar at all
PACKERS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("kind", [*PACKERS, "zstd"])
@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])  # whatever the name says
def test_any_usual_compression_is_unpacked(tmp_path, kind, name):
    plain = write_tar(tmp_path / "plain.tar", sample_members(0) + sample_members(1))
    pack = PACKERS[kind] if kind in PACKERS else pytest.importorskip("zstandard").compress
    (tmp_path / name).write_bytes(pack(plain.read_bytes()))
    for _ in range(2):  # the second start knows
        shard = open_tar(tmp_path / name)
        assert not shard.fault and shard.is_packed
        assert samples_of(shard) == samples_of(open_tar(plain))


@pytest.mark.parametrize("kind", PACKERS)
def test_a_cut_stream_gives_what_can_be_unpacked(tmp_path, kind):
    members = [member for number in range(60) for member in sample_members(number, "png")]
    plain = write_tar(tmp_path / "plain.tar", members)
    content = PACKERS[kind](plain.read_bytes())
    (tmp_path / "x.tar").write_bytes(content[: len(content) // 2])
    shard = open_tar(tmp_path / "x.tar")
    assert shard.fault.startswith("broken compressed stream")
    assert samples_of(shard) == samples_of(open_tar(plain))[: len(shard)]


def test_zstd_without_its_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "x.tar").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert open_tar(tmp_path / "x.tar").fault == "packed with zstd: pip install zstandard, or unpack it"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\3\4" + bytes(600), "a zip archive: unpack it, then vlp data pack FOLDER"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a pointer of Git LFS: run git lfs pull"),
        (b"<!DOCTYPE html>", "a web page"),
        (b'{"error": "busy"}', "JSON"),
        (b"PAR1" + bytes(600), "a parquet file: vlp data pack FILE"),
    ],
)
def test_what_is_no_tar_is_called_what_it_is(tmp_path, content, said):
    (tmp_path / "x.tar").write_bytes(content)
    assert open_tar(tmp_path / "x.tar").fault.startswith(f"not a tar file but {said}")


# ---------------------------------------- what a broken shard costs
def test_a_broken_shard_counts_with_all_samples_that_it_lost(tmp_path):
    for number in range(4):
        members = [member for place in range(10) for member in sample_members(10 * number + place, "png")]
        write_tar(tmp_path / f"{number}.tar", members)
    whole, headers = layout(tmp_path / "1.tar")
    (tmp_path / "1.tar").write_bytes(whole[: headers[9] + 100])
    (tmp_path / "3.tar").write_bytes(b"<html>")
    card = Card(name="set", shards="*.tar", folder=tmp_path)
    lost = {fault.shard: fault.samples for fault in SampleSet({"set": card}).shard_faults()}
    assert lost == {"1.tar": 7, "3.tar": 10}  # the sound ones hold ten
    told = card.model_copy(update={"samples": 57})
    lost = {fault.shard: fault.samples for fault in SampleSet({"set": told}).shard_faults()}
    assert sum(lost.values()) == 57 - 23


# ---------------------------------------- anything else
def test_no_flipped_bit_of_a_tar_moves_a_caption(tmp_path):
    """What is read is what was written, or a fault, or lies in the bytes of the picture or text itself."""
    members = [member for number in range(3) for member in sample_members(number, "png")]
    path = write_tar(tmp_path / "x.tar", members)
    whole, headers = layout(path)
    names = dict(members)
    dice = random.Random(0)
    for header in headers:
        for bit in dice.sample(range(8 * BLOCK), 60):
            broken = bytearray(whole)
            broken[header + bit // 8] ^= 1 << bit % 8
            path.write_bytes(broken)
            shard = open_tar(path)
            found = [(f"{key}.{kind}", data) for key, some in samples_of(shard) for kind, data in some.items()]
            assert all(names[name] == data for name, data in found)
            assert shard.fault or len(found) == len(members)
