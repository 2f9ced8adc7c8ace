"""Remote shards: every trouble of a line is survived and counted, or named; copies are shared and bounded."""

from __future__ import annotations

import contextlib
import email.utils
import gzip
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest

from tests.flaky_server import FlakyServer, serving
from tests.forks import forked
from tests.shards import LetterTokenizer, sample_members, write_shards, write_tar
from vlp.data import Captions, Card, Crop, SampleSet, Stream, Views
from vlp.data.arrange import arrange
from vlp.data.faults import BadSampleError
from vlp.data.shards import copies, download, homes, prefetch, remote
from vlp.data.shards import shard as shard_module
from vlp.data.shards.cache import cache_folder
from vlp.data.shards.copies import use_copy
from vlp.data.shards.download import Expected, RemoteStats
from vlp.data.shards.download import download as fetch
from vlp.data.shards.index import Index, open_index
from vlp.data.shards.open_files import OpenFiles
from vlp.data.shards.prefetch import Needed, Prefetcher
from vlp.data.shards.room import check_cache
from vlp.data.shards.shard import open_shards
from vlp.ground.types import RecipeError

SHARD = "/tiny/00000.tar"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(download, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(download, "PROGRESS_BYTES", 1 << 30)


@pytest.fixture
def server():
    with serving() as running:
        yield running


def put(server: FlakyServer, folder: Path, num_shards: int = 1, samples_per_shard: int = 4, **settings) -> Card:
    """Put shards on the server and return a card that names them by their addresses."""
    write_shards(folder / "tiny", num_shards, samples_per_shard)
    for path in (folder / "tiny").glob("*.tar"):
        server.files[f"/tiny/{path.name}"] = path.read_bytes()
    address = f"{server.address}/tiny/{{00000..{num_shards - 1:05d}}}.tar"
    return Card(**{"name": "tiny", "shards": address, "folder": folder, "timeout": 0.2, "tries": 3, **settings})


def texts(shard) -> list[bytes]:
    return [shard.read(shard.members(place)["txt"]) for place in range(len(shard))]


def quarantined(folder: Path) -> list[int]:
    return sorted(json.loads(line)["id"] for line in (folder / "quarantine.jsonl").read_text().splitlines())


def copied() -> list[Path]:
    return sorted(cache_folder("copies").glob("*.tar"))


def test_a_remote_shard_gives_the_same_samples_as_the_file(server, tmp_path):
    (shard,) = open_shards(put(server, tmp_path))
    (local,) = open_shards(Card(name="local", shards=f"{tmp_path}/tiny/*.tar"))
    assert texts(shard) == texts(local) and len(shard) == 4
    assert shard.open()[0].read_bytes() == server.files[SHARD]
    assert shard.stats.counts == {}


# What goes wrong with the requests for the body, after one for the version; then the counters, and whether the last
# request went on in the middle.
TROUBLES = {
    "unavailable": (["503", "503"], {"busy": 2}, False),
    "too many requests": (["429"], {"busy": 1}, False),
    "reset": (["reset"], {"connection": 1}, True),
    "short": (["short"], {"short": 1}, True),
    "short twice": (["short", "short"], {"short": 2}, True),
    "stall": (["stall"], {"stalled": 1}, True),
    "slow": (["slow"], {}, False),
    "page": (["page"], {"no_tar": 1}, False),
    "ranges ignored": (["short", "whole"], {"short": 1}, True),
    "no version told": (["untagged"], {}, False),
    "no length told": (["short lengthless"], {"short": 1, "changed": 1}, True),
    "no range told": (["short", "rangeless"], {"short": 1, "connection": 1}, True),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_a_trouble_is_survived_and_counted(server, tmp_path, name):
    troubles, counts, goes_on = TROUBLES[name]
    card = put(server, tmp_path)
    server.troubles[SHARD] = ["", *troubles]
    (shard,) = open_shards(card)
    assert shard.open()[0].read_bytes() == server.files[SHARD]
    assert shard.stats.counts == counts
    ranges = server.ranges(SHARD)
    assert ranges[0] == "bytes=0-0" and ranges[1] == ""
    half = len(server.files[SHARD]) // 2
    assert (ranges[2:3] == [f"bytes={half}-"]) == goes_on
    assert not list(cache_folder("copies").glob("*.partial"))


def test_bytes_of_a_version_that_was_not_told_are_not_gone_on_with(server, tmp_path):
    card = put(server, tmp_path)
    server.troubles[SHARD] = ["untagged", "short untagged", "untagged"]
    (shard,) = open_shards(card)
    assert shard.stats.counts == {"short": 1}
    assert server.ranges(SHARD) == ["bytes=0-0", "", ""]


def test_a_file_that_is_replaced_meanwhile_is_never_glued_together(server, tmp_path):
    """The size stays, so that nothing but the version tells."""
    card = put(server, tmp_path)
    server.troubles[SHARD] = ["", "short", "replaced"]
    with pytest.raises(RecipeError, match=r"cannot read 1 of 1 shards: .*has \d+ bytes and version"):
        open_shards(card)
    assert not copied()


@pytest.mark.parametrize(
    ("trouble", "counts"),
    [
        ("replaced", {"short": 1}),
        ("replaced reckless", {"short": 1, "changed": 1}),
        ("416", {"short": 1, "changed": 1}),  # it has become shorter than what is here already
    ],
)
def test_a_file_that_is_replaced_between_two_tries_is_read_from_the_start_again(server, tmp_path, trouble, counts):
    card = put(server, tmp_path)
    server.troubles[SHARD] = ["short", trouble]
    stats = RemoteStats("tiny")
    fetch(card.remote(server.address + SHARD), tmp_path / "copy", Expected(), tries=3, stats=stats)
    assert (tmp_path / "copy").read_bytes() == server.files[SHARD]
    assert stats.counts == counts


def test_a_wrong_checksum_is_fetched_again_and_then_refused(server, tmp_path):
    card = put(server, tmp_path, sha256={"tiny/00000.tar": "0" * 64})
    with pytest.raises(RecipeError, match="its sha256 is not 000"):
        open_shards(card)
    assert server.ranges(SHARD) == ["bytes=0-0", "", "", ""]
    assert not copied()


def test_a_missing_and_a_forbidden_shard_are_named_at_once(server, tmp_path):
    card = put(server, tmp_path, 3)
    del server.files["/tiny/00001.tar"]
    server.troubles["/tiny/00002.tar"] = ["403"] * 9
    with pytest.raises(RecipeError, match=r"cannot read 2 of 3 shards: .*00001\.tar: HTTP 404.*00002\.tar: HTTP 403"):
        open_shards(card)
    assert len(server.ranges("/tiny/00001.tar")) == len(server.ranges("/tiny/00002.tar")) == 1


def test_a_server_that_is_gone_is_given_up(tmp_path):
    with serving() as server:
        card = put(server, tmp_path)
    with pytest.raises(RecipeError, match=r"cannot read 1 of 1 shards: .*refused"):
        open_shards(card)


def test_a_second_start_asks_for_versions_alone(server, tmp_path):
    card = put(server, tmp_path, 3)
    open_shards(card)
    server.requests.clear()
    assert [texts(shard) for shard in open_shards(card)]
    assert [asked for _, asked in server.requests] == ["bytes=0-0"] * 3


def test_a_second_start_goes_on_with_its_copies_where_the_server_is_away(server, tmp_path):
    card = put(server, tmp_path, 2)
    expected = [texts(shard) for shard in open_shards(card)]
    server.troubles[SHARD] = ["503"] * 6
    gone = server.files.pop("/tiny/00001.tar")
    assert [texts(shard) for shard in open_shards(card)] == expected
    for path in copied():
        path.unlink()
    with pytest.raises(RecipeError, match=r"cannot read 1 of 2 shards: .*00001\.tar: HTTP 404"):
        open_shards(card)
    server.files["/tiny/00001.tar"] = gone
    assert [texts(shard) for shard in open_shards(card)] == expected


CUT = ["whole lengthless untagged", "short whole lengthless untagged"]  # for the version, then for the body


@pytest.mark.parametrize("troubles", [["sick"] * 2, CUT], ids=["sick", "cut"])
def test_what_a_sick_server_says_is_not_remembered(server, tmp_path, troubles):
    card = put(server, tmp_path, 2, 8, timeout=2.0)  # a machine may have other work
    server.troubles[SHARD] = troubles
    counts = [len(SampleSet({"tiny": card})) for _ in range(3)]
    assert 8 <= counts[0] < 16 and counts[1:] == [16, 16]
    assert not server.troubles[SHARD]


def test_a_shard_that_is_replaced_between_two_starts_is_read_anew(server, tmp_path):
    card = put(server, tmp_path, 2)
    old, other = (texts(shard) for shard in open_shards(card))
    server.files[SHARD] = server.files["/tiny/00001.tar"]
    assert [texts(shard) for shard in open_shards(card)] == [other, other] != [old, other]


@pytest.mark.parametrize("before", [{}, {"counts": {SHARD[1:]: 4}}])
def test_a_shard_whose_checksum_is_another_one_is_read_anew(server, tmp_path, before):
    texts(open_shards(put(server, tmp_path, **before))[0])
    content = bytearray(server.files[SHARD])
    card = put(server, tmp_path, 1, 3, sha256={SHARD[1:]: hashlib.sha256(content).hexdigest()})
    changed = server.files[SHARD]
    server.files[SHARD] = bytes(content)
    assert len(texts(open_shards(card)[0])) == 4  # fetched again, for nobody has checked the copy
    server.files[SHARD] = changed
    card = put(server, tmp_path, 1, 3, sha256={SHARD[1:]: hashlib.sha256(changed).hexdigest()})
    assert len(texts(open_shards(card)[0])) == 3
    card = put(server, tmp_path, 1, 3, sha256={SHARD[1:]: "0" * 64})
    with pytest.raises(RecipeError, match="its sha256 is not 000"):
        open_shards(card)


def test_a_drip_is_no_transfer(server, tmp_path):
    card = put(server, tmp_path)
    server.troubles[SHARD] = ["", "drip", "drip"]
    (shard,) = open_shards(card)
    assert len(texts(shard)) == 4
    assert shard.stats.counts == {"stalled": 2}


@pytest.mark.parametrize("told", ["\u00b2", "-1", "1e9", "soon", "Fri, 31 Dec 1999 23:59:59 GMT", "9" * 400, "nan", ""])
def test_an_odd_time_to_be_left_alone_is_no_trouble_of_its_own(server, tmp_path, told):
    card = put(server, tmp_path)
    server.troubles[SHARD] = ["", f"503 {told}"]
    (shard,) = open_shards(card)
    assert len(texts(shard)) == 4 and shard.stats.counts == {"busy": 1}


def test_a_date_to_be_left_alone_until_is_kept():
    told = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    assert remote.seconds_told(told) == pytest.approx(40, abs=2)
    assert remote.seconds_told("7") == 7


def test_a_process_that_waits_for_a_shard_does_not_hang(server, tmp_path, open_stream):
    """The first shard takes a second, and a process that is silent for half of one is killed."""
    card = put(server, tmp_path, counts={"00000.tar": 4}, timeout=5.0)
    server.troubles[SHARD] = ["", *["slow"] * 3]
    server.pause = 0.15
    stream = open_stream(card, workers=2, batch_size=4, worker_timeout=0.5)
    assert sorted(next(stream.batches(0)).ids.tolist()) == [0, 1, 2, 3]
    assert not stream.faults.counts and stream.restarts == 0


def test_counts_in_the_card_spare_the_fetching(server, tmp_path):
    card = put(server, tmp_path, 2, counts={"00000.tar": 4, "tiny/00001.tar": 4})
    shards = open_shards(card)
    assert list(map(len, shards)) == [4, 4] and not copied()
    assert len(texts(shards[1])) == 4 and len(copied()) == 1


def test_a_wrong_count_is_a_fault_and_never_another_sample(server, tmp_path):
    (shard,) = open_shards(put(server, tmp_path, counts={"00000.tar": 5}))
    with pytest.raises(BadSampleError, match=r"has 4 samples, 5 when it was counted"):
        shard.members(0)


def test_an_index_beside_the_shard_spares_the_fetching(server, tmp_path):
    from vlp.curate.index_shards import index_shard

    card = put(server, tmp_path)
    (local,) = open_shards(Card(name="local", shards=f"{tmp_path}/tiny/*.tar"))
    server.files[f"{SHARD}.index"] = index_shard(local).index.read_bytes()
    (shard,) = open_shards(card)
    assert len(shard) == 4 and not server.ranges(SHARD)
    assert texts(shard) == texts(local)
    assert len(shard.known.sha256) == 64  # also checked after the fetching


def test_a_shard_replaced_after_the_start_is_a_fault(server, tmp_path, open_stream):
    card = put(server, tmp_path, 2, counts={"00000.tar": 4, "00001.tar": 4})
    stream = open_stream(card, quarantine=tmp_path / "quarantine.jsonl")
    server.files[SHARD] = server.files["/tiny/00001.tar"] + b"\0" * 512
    ids = [number for batch in islice(stream.batches(0), 2) for number in batch.ids.tolist()]
    assert min(ids) >= 4
    assert set(stream.faults.counts) == {("tiny", "shard_error")}
    assert quarantined(tmp_path) == [0, 1, 2, 3]
    assert set(stream.samples.parts[0].shard.stats.counts) == {"changed"}


def test_a_shard_that_vanishes_at_run_time_costs_its_tries_once(server, tmp_path, open_stream):
    card = put(server, tmp_path, 2, counts={"00000.tar": 4, "00001.tar": 4})
    stream = open_stream(card, quarantine=tmp_path / "quarantine.jsonl")
    server.troubles[SHARD] = ["503"] * 100
    ids = [number for batch in islice(stream.batches(0), 4) for number in batch.ids.tolist()]
    assert min(ids) >= 4
    assert set(stream.faults.counts) == {("tiny", "shard_error")}
    assert quarantined(tmp_path) == [0, 1, 2, 3]
    assert set(stream.samples.parts[0].shard.stats.counts) == {"busy"}
    assert len(server.ranges(SHARD)) <= 1 + 3 + 3  # those of the prefetcher, and those of whoever reads


def test_a_shard_comes_back_after_a_while(server, tmp_path, monkeypatch):
    monkeypatch.setattr(homes, "GIVEN_UP_SECONDS", 0.0)
    card = put(server, tmp_path, counts={"00000.tar": 4})
    (shard,) = open_shards(card)
    server.troubles[SHARD] = ["503"] * 3
    with pytest.raises(BadSampleError, match="HTTP 503"):
        shard.members(0)
    assert len(texts(shard)) == 4


def test_an_interrupted_fetch_is_gone_on_with_by_the_next_process(server, tmp_path):
    card = put(server, tmp_path, tries=1)
    server.troubles[SHARD] = ["", "reset"]
    with pytest.raises(RecipeError):
        open_shards(card)
    (shard,) = open_shards(card)
    assert server.ranges(SHARD)[-1] == f"bytes={len(server.files[SHARD]) // 2}-"
    assert shard.open()[0].read_bytes() == server.files[SHARD]


def test_progress_earns_further_tries(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PROGRESS_BYTES", 512)
    card = put(server, tmp_path)
    server.troubles[SHARD] = ["", *["reset"] * 5]
    (shard,) = open_shards(card)
    assert shard.stats.counts == {"connection": 5}


def test_a_server_that_forgets_ranges_and_breaks_is_not_asked_for_ever(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PROGRESS_BYTES", 512)
    card = put(server, tmp_path)
    server.troubles[SHARD] = ["", *["short whole"] * 99]
    with pytest.raises(RecipeError, match=r"\d+ of \d+ bytes"):
        open_shards(card)
    assert len(server.ranges(SHARD)) == 1 + 3


def test_a_packed_remote_shard_is_unpacked(server, tmp_path):
    card = put(server, tmp_path)
    server.files["/tiny/00000.tar.gz"] = gzip.compress(server.files[SHARD])
    (shard,) = open_shards(card.model_copy(update={"shards": f"{server.address}/tiny/00000.tar.gz"}))
    assert shard.open()[0].read_bytes() == server.files[SHARD]
    assert not list(cache_folder("copies").glob("*.gz"))


def test_a_remote_tar_that_is_cut_off_gives_what_stands_before_the_cut(server, tmp_path):
    card = put(server, tmp_path)
    server.files[SHARD] = server.files[SHARD][: server.files[SHARD].index(b"000003.txt")]
    samples = SampleSet({"tiny": card})
    assert len(samples) == 4 and [fault.reason for fault in samples.shard_faults()] == ["shard_error"]


def test_a_command_runs_only_where_the_card_allows_it(tmp_path):
    write_shards(tmp_path / "tiny", 1, 4)
    command = f"pipe:touch {tmp_path}/ran; cat {tmp_path}/tiny/00000.tar"
    with pytest.raises(RecipeError, match=r"runs a command on this machine; say `allow_pipe: true`"):
        open_shards(Card(name="x", shards=command))
    assert not (tmp_path / "ran").exists()
    (shard,) = open_shards(Card(name="x", shards=command, allow_pipe=True))
    assert len(texts(shard)) == 4 and (tmp_path / "ran").exists()


def test_a_command_that_fails_or_hangs_is_given_up_with_all_that_it_started(tmp_path):
    card = Card(name="x", shards="pipe:echo half of it; exit 3", allow_pipe=True, tries=2, timeout=0.1)
    with pytest.raises(RecipeError, match="ended with status 3"):
        open_shards(card)
    with pytest.raises(RecipeError, match=r"no byte for 0\.1 s"):
        open_shards(card.model_copy(update={"shards": f"pipe:echo half; sleep 60 & echo $! > {tmp_path}/pid; wait"}))
    assert not copied()
    wait_for(lambda: not is_running(int((tmp_path / "pid").read_text())))


def test_an_unknown_protocol_is_explained():
    with pytest.raises(RecipeError, match="Protocol not known: teleport"):
        open_shards(Card(name="x", shards="teleport://somewhere/0.tar"))


def test_a_back_end_that_is_not_installed_is_named():
    if importlib.util.find_spec("adlfs"):
        pytest.skip("adlfs is installed")
    with pytest.raises(RecipeError, match=r"Install adlfs .*pip install 'vlp\[remote\]' does for s3 and gs"):
        open_shards(Card(name="x", shards="abfs://box/0.tar"))


def test_any_file_system_that_fsspec_knows_serves(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    write_shards(tmp_path / "tiny", 2, 4)
    for path in (tmp_path / "tiny").glob("*.tar"):
        memory.pipe_file(f"/{tmp_path.name}/{path.name}", path.read_bytes())
    shards = open_shards(Card(name="x", shards=f"memory://{tmp_path.name}/*.tar"))
    assert [shard.name for shard in shards] == ["00000.tar", "00001.tar"]
    assert [len(texts(shard)) for shard in shards] == [4, 4]
    with pytest.raises(RecipeError, match="not found"):
        open_shards(Card(name="x", shards=f"memory://{tmp_path.name}/00009.tar"))
    with pytest.raises(RecipeError, match="no file matches"):
        open_shards(Card(name="x", shards=f"memory://{tmp_path.name}/*.tgz"))


def test_an_object_read_in_blocks_is_whole(tmp_path, monkeypatch):
    import fsspec

    monkeypatch.setattr("vlp.data.shards.remote.BLOCK", 1000)
    path = write_tar(tmp_path / "x.tar", sample_members(0))
    fsspec.filesystem("memory").pipe_file(f"/{tmp_path.name}/x.tar", path.read_bytes())
    (shard,) = open_shards(Card(name="x", shards=f"memory://{tmp_path.name}/x.tar"))
    assert shard.open()[0].read_bytes() == path.read_bytes()


def test_a_file_address_is_a_path(tmp_path):
    write_shards(tmp_path / "tiny", 2, 3)
    shards = open_shards(Card(name="x", shards=f"file://{tmp_path}/tiny/*.tar"))
    assert [len(shard) for shard in shards] == [3, 3] and not copied()


def test_of_many_threads_one_makes_the_copy(tmp_path):
    write_shards(tmp_path / "tiny", 1, 2)
    content = (tmp_path / "tiny" / "00000.tar").read_bytes()
    made = []

    def fill(target: Path) -> str:
        made.append(target)
        time.sleep(0.02)
        target.write_bytes(content)
        return ""

    target = copies.copy_path("ab" * 16)
    threads = [threading.Thread(target=use_copy, args=(target, target.exists, fill, None)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and target.read_bytes() == content


def test_a_copy_does_not_leave_between_its_arrival_and_its_opening(server, tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "ARRIVED_SECONDS", 0.0)
    card = put(server, tmp_path, 2)
    card = card.model_copy(update={"cache_gb": 1.5 * max(map(len, server.files.values())) / 1e9})
    first, second = open_shards(card)
    others = []

    def open_slowly(path: Path, files: OpenFiles) -> Index | None:
        index = open_index(path, files)
        others.append(threading.Thread(target=second.fetch))
        others[-1].start()
        others[-1].join(0.3)  # another process has all this time to take the room
        return index

    monkeypatch.setattr(homes, "open_index", open_slowly)
    assert texts(first)
    for other in others:
        other.join()
    assert len(copied()) == 1


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def test_the_copy_used_longest_ago_leaves_first_and_comes_back(server, tmp_path):
    card = put(server, tmp_path, 3, counts={f"{k:05d}.tar": 4 for k in range(3)})
    size = max(map(len, server.files.values()))
    card = card.model_copy(update={"cache_gb": 2.5 * size / 1e9})
    first, second, third = open_shards(card)
    whole = [texts(shard) for shard in (first, second)]
    age(first.open()[0], 500)
    age(second.open()[0], 900)
    texts(third)
    assert [shard.open()[0].exists() for shard in (first, second, third)] == [True, False, True]
    second._files.close_deleted()
    assert [texts(shard) for shard in (first, second)] == whole
    assert len(server.ranges("/tiny/00001.tar")) == 1 + 2


def test_what_is_wanted_now_takes_the_room_of_what_was_used_longest_ago_even_if_in_use(server, tmp_path):
    card = put(server, tmp_path, 2, counts={"00000.tar": 4, "00001.tar": 4}, cache_gb=1e-9)
    first, second = open_shards(card)
    assert len(texts(first)) == len(texts(second)) == 4
    assert copied() == [second.open()[0]]


def test_what_is_wanted_soon_takes_no_room_of_what_is_in_use(server, tmp_path):
    card = put(server, tmp_path, 3, counts={f"{k:05d}.tar": 4 for k in range(3)})
    size = max(map(len, server.files.values()))
    first, second, third = open_shards(card.model_copy(update={"cache_gb": 2.5 * size / 1e9}))
    texts(first), texts(second)
    num_requests = len(server.requests)
    assert not third.fetch(soon=True)
    assert len(server.requests) == num_requests
    first.release()
    assert third.fetch(soon=True)
    assert copied() == sorted([second.open()[0], third.open()[0]])


def test_what_was_fetched_and_not_read_yet_makes_no_room_for_what_comes_later(server, tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "IN_USE_SECONDS", 0.3)
    monkeypatch.setattr(shard_module, "TOUCHED_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(prefetch, "LOOK_AGAIN_SECONDS", 0.05)
    card = put(server, tmp_path, 4, counts={f"{k:05d}.tar": 4 for k in range(4)})
    limit = 2.5 * max(map(len, server.files.values()))
    shards = open_shards(card.model_copy(update={"cache_gb": limit / 1e9}))
    needs = (Needed(4 * number, 4 * number + 4, shard) for number, shard in enumerate(shards))
    with Prefetcher(needs, position=0, ahead=4, connections=2) as prefetcher:
        wait_for(lambda: len(copied()) == 2)
        first_two = copied()
        time.sleep(1.0)
        assert copied() == first_two
        prefetcher.advance(4)
        wait_for(lambda: copied() not in ([], first_two) and len(copied()) == 2)
        assert first_two[1] in copied() or first_two[0] in copied()


def test_a_copy_from_the_future_can_leave(server, tmp_path):
    card = put(server, tmp_path, 2, counts={"00000.tar": 4, "00001.tar": 4}, cache_gb=1e-9)
    first, second = open_shards(card)
    age(first.open()[0], -90_000)
    assert len(texts(second)) == 4
    assert copied() == [second.open()[0]]


@pytest.mark.parametrize("dies", [False, True])
def test_what_is_being_made_counts_as_long_as_its_process_lives(server, tmp_path, dies):
    card = put(server, tmp_path, 1, counts={"00000.tar": 4})
    (shard,) = open_shards(card.model_copy(update={"cache_gb": 2.5 * len(server.files[SHARD]) / 1e9}))
    copies.copy_path("ab").parent.mkdir(parents=True)
    script = f"""
import os, sys, time
from pathlib import Path
from vlp.data.shards import copies

def fill(target):
    print("reserved", flush=True)
    os._exit(1) if {dies} else sys.stdin.read()
    raise OSError

target = copies.copy_path("{"ab" * 16}")
copies.use_copy(target, target.exists, fill, 1e9, {2 * len(server.files[SHARD])})
"""
    other = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert other.stdout.readline() == b"reserved\n"
        if dies:
            other.wait()
        assert shard.fetch(soon=True) == dies
    finally:
        other.communicate()
    assert shard.fetch(soon=True)


@pytest.fixture
def fullest():
    """Watch the cache; yields the sums of bytes seen in it."""
    seen, is_over = [0], threading.Event()

    def watch():
        while not is_over.is_set():
            # Nothing leaves while the sum is taken.
            with contextlib.suppress(FileNotFoundError), copies.locked("room"):
                seen.append(sum(path.stat().st_size for path in cache_folder("copies").iterdir()))
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    yield seen
    is_over.set()
    thread.join()


@pytest.mark.parametrize("counts", [{}, {f"{k:05d}.tar": 4 for k in range(12)}])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_cache_never_holds_more_than_it_may(server, tmp_path, fullest, workers, counts):
    """Neither while shards are counted at the first start, nor while a stream reads and fetches ahead."""
    card = put(server, tmp_path, 12, counts=counts)
    limit = 3.5 * max(map(len, server.files.values()))
    samples = SampleSet({"tiny": card.model_copy(update={"cache_gb": limit / 1e9})})
    order = arrange(samples, seed=0, batch_size=4, shuffle_shards=1)
    views = Views((Crop(8),), Captions())
    stream = Stream(samples, views, LetterTokenizer(), batch_size=4, seed=0, order=order, workers=workers)
    with contextlib.closing(stream.batches(0)) as batches:
        for batch in islice(batches, 24):
            assert len(batch) == 4
    assert not stream.faults.total
    assert limit / 4 < max(fullest) <= limit


def test_a_window_larger_than_the_cache_is_refused_with_a_number_that_fits(server, tmp_path):
    card = put(server, tmp_path, 4)
    shards = open_shards(card)
    small = card.model_copy(update={"cache_gb": 2.5 * max(map(len, server.files.values())) / 1e9})
    check_cache([card], [shards], None)
    check_cache([small], [shards], 2)
    check_cache([small], [shards[:2], shards[2:]], 1)
    for window in (None, 3):
        with pytest.raises(RecipeError, match=r"set data\.shuffle_shards=1, or raise the card's cache_gb"):
            check_cache([small], [shards], window)
    with pytest.raises(RecipeError, match=r"reads 2 shards of each source at a time"):
        check_cache([card, small], [shards[:2], shards[2:]], 2)


def test_half_of_the_cache_is_left_for_the_next_window(server, tmp_path):
    card = put(server, tmp_path, 5)
    roomy = card.model_copy(update={"cache_gb": 4.01 * max(map(len, server.files.values())) / 1e9})
    with pytest.raises(RecipeError, match=r"set data\.shuffle_shards=2,"):
        check_cache([roomy], [open_shards(card)], None)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_from_afar_even_while_copies_come_and_go(
    server, tmp_path, open_stream, monkeypatch, workers
):
    monkeypatch.setattr(copies, "ARRIVED_SECONDS", 0.0)
    card = put(server, tmp_path, 4, cache_gb=1.5 * 30_000 / 1e9)
    server.troubles["/tiny/00002.tar"] = ["503", "reset"]
    local = Card(name="tiny", shards=f"{tmp_path}/tiny/*.tar", folder=tmp_path)
    near, afar = open_stream(local), open_stream(card, workers=workers)
    for expected, batch in islice(zip(near.batches(0), afar.batches(0), strict=False), 8):
        assert batch.ids.tolist() == expected.ids.tolist()
        assert batch.images.equal(expected.images) and batch.tokens.equal(expected.tokens)
    assert not afar.faults.total
    assert sum(afar.faults.retries.values()) == 2 and {source for source, _ in afar.faults.retries} == {"tiny"}
    assert len(server.requests) > 3 * 4  # copies were made again


def test_the_prefetcher_fetches_what_comes_next_and_no_more(server, tmp_path):
    card = put(server, tmp_path, 6, counts={f"{k:05d}.tar": 4 for k in range(6)})
    shards = open_shards(card)
    needs = (Needed(4 * number, 4 * number + 4, shard) for number, shard in enumerate(shards))
    with Prefetcher(needs, position=0, ahead=2, connections=2) as prefetcher:
        wait_for(lambda: len(copied()) == 3)
        assert len({path for path, _ in server.requests if path.endswith(".tar")}) == 6  # asked for their versions
        prefetcher.advance(8)
        wait_for(lambda: len(copied()) == 5)
        prefetcher.advance(20)
        prefetcher.wait()
    assert len(copied()) == 6
    num_requests = len(server.requests)
    assert all(len(texts(shard)) == 4 for shard in shards)
    assert len(server.requests) == num_requests


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_fetches_the_next_windows_while_it_reads_one(server, tmp_path, workers):
    card = put(server, tmp_path, 10, counts={f"{k:05d}.tar": 4 for k in range(10)})
    samples = SampleSet({"tiny": card})
    order = arrange(samples, seed=0, batch_size=4, shuffle_shards=2)
    views = Views((Crop(8),), Captions())
    stream = Stream(samples, views, LetterTokenizer(), batch_size=4, seed=0, order=order, workers=workers)
    with contextlib.closing(stream.batches(0)) as batches:
        next(batches)
        wait_for(lambda: len(copied()) == 6)
        for _ in range(3):  # into the second window, and two more batches are decoded ahead: not the fourth window yet
            next(batches)
        wait_for(lambda: len(copied()) == 8)


def test_a_cache_that_is_too_small_for_a_window_is_refused_at_the_start(server, tmp_path):
    samples = SampleSet({"tiny": put(server, tmp_path, 6, cache_gb=1e-6)})
    with pytest.raises(RecipeError, match=r"raise the card's cache_gb"):
        arrange(samples, seed=0, batch_size=4)


def test_a_prefetcher_survives_what_cannot_be_fetched(server, tmp_path):
    card = put(server, tmp_path, 2, counts={"00000.tar": 4, "00001.tar": 4})
    shards = open_shards(card)
    server.troubles[SHARD] = ["503"] * 3
    with Prefetcher((Needed(0, 8, shard) for shard in shards), position=0) as prefetcher:
        prefetcher.wait()
    assert shards[0].stats.counts == {"busy": 3}
    assert all(len(texts(shard)) == 4 for shard in shards)  # the reader has tries of its own


def is_running(process: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_troubles_in_forked_processes_are_counted_together(server, tmp_path):
    card = put(server, tmp_path, counts={"00000.tar": 4})
    (shard,) = open_shards(card)
    server.troubles[SHARD] = ["503", "503"]
    assert forked(lambda: len(texts(shard)) == 4)
    assert shard.stats.counts == {"busy": 2}
