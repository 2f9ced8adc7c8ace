"""A bad sample never ends a run and never passes silently."""

from __future__ import annotations

import io
import json
import os
import pickle
import tempfile
import zlib
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image

from tests.forks import forked
from tests.shards import image_bytes, png_chunk, png_header, sample_members, write_shards, write_tar
from vlp.data import Card, Faults, SampleSet
from vlp.data.faults import Fault, Quarantine
from vlp.ground import files
from vlp.ground.types import RecipeError, VlpWarning

GOOD = dict(sample_members(0))
TEXT = b"a caption"


def png_text_bomb() -> bytes:
    """A PNG whose comment inflates to 70 MB."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    bomb = png_chunk(b"zTXt", b"bomb\0\0" + zlib.compress(bytes(70 << 20), 9))
    return file.getvalue()[:33] + bomb + file.getvalue()[33:]


BAD_SAMPLES = {
    "truncated jpeg": ([("x.jpg", image_bytes(1)[:300]), ("x.txt", TEXT)], "corrupt_image"),
    "html as jpeg": ([("x.jpg", b"<html>404</html>"), ("x.txt", TEXT)], "corrupt_image"),
    "empty image": ([("x.png", b""), ("x.txt", TEXT)], "corrupt_image"),
    "truncated webp": ([("x.webp", image_bytes(1, "webp")[:200]), ("x.txt", TEXT)], "corrupt_image"),
    "postscript": ([("x.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), ("x.txt", TEXT)], "corrupt_image"),
    "bomb": ([("x.png", png_header(20_000, 20_000)), ("x.txt", TEXT)], "oversized_image"),
    "over the pixel budget": ([("x.png", png_header(8193, 8192)), ("x.txt", TEXT)], "oversized_image"),
    "at the pixel budget": ([("x.png", png_header(8192, 8192)), ("x.txt", TEXT)], "corrupt_image"),  # it has no pixels
    "text chunk bomb": ([("x.png", png_text_bomb()), ("x.txt", TEXT)], "corrupt_image"),
    "no image": ([("x.txt", TEXT)], "missing_image"),
    "no known image": ([("x.pyd", b"cos\nsystem\n"), ("x.pickle", b"\x80\x04."), ("x.txt", TEXT)], "missing_image"),
    "no caption": ([("x.jpg", image_bytes(1))], "missing_caption"),
    "empty caption": ([("x.jpg", image_bytes(1)), ("x.txt", b"")], "empty_caption"),
    "blank caption": ([("x.jpg", image_bytes(1)), ("x.txt", b" \n\t ")], "empty_caption"),
    "latin-1 caption": ([("x.jpg", image_bytes(1)), ("x.txt", b"caf\xe9")], "bad_caption"),
    "endless caption": ([("x.jpg", image_bytes(1)), ("x.txt", b"x" * 100_001)], "bad_caption"),
    "doubled member": ([("x.jpg", image_bytes(1)), ("x.txt", TEXT), ("x.txt", b"other")], "duplicate_key"),
}


@pytest.mark.parametrize("name", BAD_SAMPLES)
def test_a_bad_sample_is_replaced_counted_and_listed(open_stream, tmp_path, name):
    members, reason = BAD_SAMPLES[name]
    card = write_shards(tmp_path / "tiny", 2, 6, replace={5: members})
    stream = open_stream(card, quarantine=tmp_path / "run" / "quarantine.jsonl")
    batches = list(islice(stream.batches(0), 6))
    ids = [number for batch in batches for number in batch.ids.tolist()]
    assert 5 not in ids and len(ids) == 24
    assert all(len(set(batch.ids.tolist())) == 4 for batch in batches)
    assert stream.faults.counts == {("tiny", reason): 2}  # once in each of two epochs
    assert stream.faults.delivered == 24
    (line,) = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert (line["source"], line["reason"], line["shard"], line["id"]) == ("tiny", reason, "00000.tar", 5)
    assert line["key"] == "x" and line["detail"]
    assert reason != "duplicate_key" or "two members '.txt'" in line["detail"]


class Trap:
    """A pickle that leaves a trace when it is loaded."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


@pytest.mark.parametrize("extension", ["pyd", "pkl", "pickle", "pth", "pt", "npy", "npz", "cbor", "py"])
def test_nothing_in_a_tar_is_ever_loaded_or_run(open_stream, tmp_path, extension):
    trap = pickle.dumps(Trap(tmp_path / "trace"))
    if extension == "py":
        trap = f"open({str(tmp_path / 'trace')!r}, 'w')".encode()
    beside = [*sample_members(1), (f"000001.{extension}", trap)]
    instead = [(f"000002.{extension}", trap), ("000002.txt", TEXT)]
    card = write_shards(tmp_path / "tiny", 2, 4, replace={1: beside, 2: instead})
    (tmp_path / "tiny" / "00000.tar.index").write_bytes(trap)
    (tmp_path / "tiny" / "tiny.shards.json").write_bytes(trap)
    stream = open_stream(card)
    ids = [number for batch in islice(stream.batches(0), 4) for number in batch.ids.tolist()]
    assert set(ids) == {0, 1, 3, 4, 5, 6, 7}
    assert set(stream.faults.counts) == {("tiny", "missing_image")}
    assert not (tmp_path / "trace").exists()


def test_substitutes_do_not_depend_on_the_layout(open_stream, tmp_path):
    card = write_shards(tmp_path / "tiny", 2, 6, replace={k: [(f"{k}.txt", TEXT)] for k in (1, 4, 9)})
    ids = [batch.ids.tolist() for batch in islice(open_stream(card).batches(0), 5)]
    ranks = [list(islice(open_stream(card, rank=rank, world_size=2, workers=1).batches(0), 5)) for rank in (0, 1)]
    assert ids == [a.ids.tolist() + b.ids.tolist() for a, b in zip(*ranks, strict=True)]


def test_faults_of_workers_reach_the_main_process(open_stream, tmp_path):
    card = write_shards(tmp_path / "tiny", 1, 8, replace={2: [("x.txt", TEXT)]})
    stream = open_stream(card, workers=2)
    list(islice(stream.batches(0), 4))
    assert stream.faults.counts == {("tiny", "missing_image"): 2}


def test_an_image_and_its_caption_in_two_shards_are_not_joined(open_stream, tmp_path):
    write_tar(tmp_path / "0.tar", [*sample_members(0), *sample_members(1), ("x.jpg", image_bytes(9))])
    write_tar(tmp_path / "1.tar", [("x.txt", TEXT), *sample_members(2), *sample_members(3)])
    stream = open_stream(Card(name="split", shards="*.tar", folder=tmp_path), batch_size=2)
    list(islice(stream.batches(0), 3))
    assert set(stream.faults.counts) == {("split", "missing_caption"), ("split", "missing_image")}


def test_a_set_of_nothing_but_junk_is_an_error(open_stream, tmp_path):
    card = write_shards(
        tmp_path / "junk", 1, 20, replace={k: [(f"{k}.jpg", b"?"), (f"{k}.txt", b"")] for k in range(20)}
    )
    with pytest.raises(RecipeError, match=r"100 samples in a row are bad(.|\n)*junk  empty_caption"):
        next(open_stream(card).batches(0))


def test_a_shard_of_junk_among_good_ones_is_survived(open_stream, tmp_path):
    card = write_shards(tmp_path / "half", 2, 20, replace={k: [(f"{k}.txt", TEXT)] for k in range(20)})
    stream = open_stream(card)
    ids = [number for batch in islice(stream.batches(0), 10) for number in batch.ids.tolist()]
    assert min(ids) >= 20
    with pytest.raises(RecipeError, match="missing_image"):
        stream.check_budget()


def test_a_truncated_shard_gives_the_samples_before_the_cut(open_stream, tmp_path):
    card = write_shards(tmp_path / "cut", 2, 6, formats=("png",))
    whole = (tmp_path / "cut" / "00000.tar").read_bytes()
    (tmp_path / "cut" / "00000.tar").write_bytes(whole[: whole.index(b"000004.txt")])
    samples = SampleSet({"cut": card})
    assert len(samples) == 4 + 1 + 6  # the fifth sample has lost its caption
    (tmp_path / "cut" / "00000.tar").write_bytes(whole[: whole.index(b"000004.txt") + 515])
    samples = SampleSet({"cut": card})
    assert len(samples) == 4 + 6  # the end of the file lies inside the fifth sample
    stream = open_stream(card, batch_size=5)
    assert stream.faults.counts == {("cut", "shard_error"): 2}  # the other shard holds six
    ids = [number for batch in islice(stream.batches(0), 2) for number in batch.ids.tolist()]
    assert sorted(ids) == list(range(10))


@pytest.mark.parametrize("content", [b"", b"<html>502 Bad Gateway</html>", b"\xff" * 4096])
def test_a_file_that_is_no_tar_is_counted_and_passed_over(open_stream, tmp_path, content):
    card = write_shards(tmp_path / "tiny", 2, 6)
    (tmp_path / "tiny" / "00001.tar").write_bytes(content)
    stream = open_stream(card, quarantine=tmp_path / "quarantine.jsonl")
    assert stream.num_samples == 6
    assert stream.faults.counts == {("tiny", "shard_error"): 6}  # as many as the other shard holds
    assert not (tmp_path / "quarantine.jsonl").exists()  # the run may yet be refused
    next(stream.batches(0))
    assert stream.faults.counts == {("tiny", "shard_error"): 6}
    assert json.loads((tmp_path / "quarantine.jsonl").read_text())["shard"] == "00001.tar"


def test_garbage_in_the_middle_ends_a_shard_there(tmp_path):
    card = write_shards(tmp_path / "tiny", 1, 6)
    path = tmp_path / "tiny" / "00000.tar"
    data = bytearray(path.read_bytes())
    start = data.index(b"000003.webp")
    data[start : start + 512] = b"\xaa" * 512
    path.write_bytes(data)
    samples = SampleSet({"tiny": card})
    assert len(samples) == 3
    assert samples.shard_faults()[0].detail == f"broken header at byte {start}"


def test_only_the_first_process_counts_broken_shards(open_stream, tmp_path):
    card = write_shards(tmp_path / "tiny", 2, 6)
    (tmp_path / "tiny" / "00001.tar").write_bytes(b"")
    streams = [open_stream(card, rank=rank, world_size=2) for rank in (0, 1)]
    assert Faults.together(stream.faults for stream in streams).counts == {("tiny", "shard_error"): 6}


def test_a_shard_that_shrinks_while_it_is_read_is_counted(open_stream, tmp_path):
    card = write_shards(tmp_path / "tiny", 2, 6)
    stream = open_stream(card)
    (tmp_path / "tiny" / "00000.tar").write_bytes(b"")
    ids = [number for batch in islice(stream.batches(0), 3) for number in batch.ids.tolist()]
    assert min(ids) >= 6
    assert stream.faults.counts[("tiny", "shard_error")] >= 6


def test_a_shard_that_vanishes_while_it_is_read_is_counted_and_listed(open_stream, tmp_path):
    card = write_shards(tmp_path / "tiny", 2, 6)
    stream = open_stream(card, quarantine=tmp_path / "quarantine.jsonl")
    (tmp_path / "tiny" / "00001.tar").unlink()
    ids = [number for batch in islice(stream.batches(0), 6) for number in batch.ids.tolist()]
    assert max(ids) < 6
    assert set(stream.faults.counts) == {("tiny", "shard_error")}
    lines = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert sorted(line["id"] for line in lines) == [6, 7, 8, 9, 10, 11]
    assert {(line["shard"], line["key"]) for line in lines} == {("00001.tar", "")}
    assert all("No such file" in line["detail"] for line in lines)


def test_a_shard_rewritten_while_it_is_read_is_not_read_on(open_stream, tmp_path):
    card = write_shards(tmp_path / "tiny", 2, 6)
    stream = open_stream(card)
    write_tar(tmp_path / "tiny" / "00000.tar", [member for k in (5, 4, 3, 2, 1, 0) for member in sample_members(k)])
    ids = [number for batch in islice(stream.batches(0), 3) for number in batch.ids.tolist()]
    assert min(ids) >= 6


def test_a_shard_that_may_not_be_read_is_named_at_the_start(tmp_path):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        card = write_shards(folder, 3, 2)
        (folder / "00001.tar").chmod(0)

        def refuse():
            if os.geteuid() == 0:  # who may read everything
                os.setuid(65534)
            with pytest.raises(RecipeError, match=r"cannot read 1 of 3 shards: .*00001\.tar; fetch"):
                card.locations()

        assert forked(refuse)


def test_each_process_lists_its_own_faults(open_stream, tmp_path):
    card = write_shards(tmp_path / "tiny", 1, 8, replace={2: [("x.txt", TEXT)]})
    for rank in (0, 1):
        stream = open_stream(card, rank=rank, world_size=2, quarantine=tmp_path / "quarantine.jsonl")
        list(islice(stream.batches(0), 4))
    lines = [line for path in tmp_path.glob("quarantine*.jsonl") for line in path.read_text().splitlines()]
    assert {path.name for path in tmp_path.glob("quarantine*")} <= {"quarantine.jsonl", "quarantine_1.jsonl"}
    assert {json.loads(line)["id"] for line in lines} == {2}


def test_the_budget_counts_all_processes_and_names_source_and_reason(open_stream, tmp_path):
    stream = open_stream(write_shards(tmp_path / "tiny", 1, 4), bad_sample_budget=0.02)
    parts = [Faults(delivered=980), Faults(delivered=1000)]
    parts[0].counts[("web", "corrupt_image")] = 20
    stream.check_budget(parts)  # 1 %
    parts[1].counts[("clips", "empty_caption")] = 40
    with pytest.raises(RecipeError, match=r"60 of 2040(.|\n)*bad_sample_budget=0\.02(.|\n)*40  clips  empty_caption"):
        stream.check_budget(parts)


def test_a_few_faults_among_the_first_samples_do_not_stop_a_run():
    faults = Faults(delivered=64)
    faults.counts[("web", "corrupt_image")] = 10
    faults.check(0.01)
    with pytest.raises(RecipeError, match="10 of 74"):
        faults.check(0.0)


def test_counts_survive_a_checkpoint():
    before, after = Faults(delivered=7), Faults()
    before.counts[("web", "corrupt_image")] = 3
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert after == before and after.total == 3


FAULTS = [Fault("tiny", "corrupt_image", "00000.tar", f"{number:06d}", number, "why") for number in range(6)]


def listed(path: Path) -> list[int]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def test_a_sample_is_listed_once_over_starts_and_processes(tmp_path):
    path = tmp_path / "run" / "quarantine.jsonl"
    Quarantine(path, 0).add(FAULTS[:2])
    Quarantine(path, 0).add(FAULTS[:3])
    other, first = Quarantine(path, 1), Quarantine(path, 0)
    other.add(FAULTS[2:4])
    first.add(FAULTS[:5])
    other.add(FAULTS)
    assert listed(path) == [0, 1, 2, 4]
    assert listed(path.with_name("quarantine_1.jsonl")) == [3, 5]


@pytest.mark.parametrize("line", [b'{"source": "ti', b"\xff\xfe", b"[1]", b'{"id": 1}', b'{"id": "1", "source": 2}'])
def test_torn_and_foreign_lines_of_a_quarantine_are_dropped(tmp_path, line):
    path = tmp_path / "quarantine.jsonl"
    Quarantine(path, 0).add(FAULTS[:1])
    path.write_bytes(line + b"\n" + path.read_bytes() + line)
    with pytest.warns(VlpWarning, match="dropped 2 torn or foreign lines"):
        Quarantine(path, 0).add(FAULTS[:2])
    assert listed(path) == [0, 1]


def test_a_quarantine_that_cannot_be_written_is_told_once_and_written_later(tmp_path):
    path = tmp_path / "run" / "quarantine.jsonl"
    own = Quarantine(path, 0)
    own.add(FAULTS[:1])
    path.unlink()
    path.parent.rmdir()
    with pytest.warns(VlpWarning) as said:
        own.add(FAULTS[1:2])
        own.add(FAULTS[2:3])
    assert len(said) == 1
    path.parent.mkdir()
    with pytest.warns(VlpWarning, match="no line is lost"):
        own.add(FAULTS[3:4])
    assert listed(path) == [1, 2, 3]


def test_a_fault_that_could_not_be_listed_is_listed_by_the_next_batch(tmp_path, monkeypatch):
    """Though nothing else goes wrong in it: a disk that was full for a moment loses no line."""
    path = tmp_path / "run" / "quarantine.jsonl"
    own, is_full, whole = Quarantine(path, 0), [True], files._append

    def refuse(*arguments):
        if is_full:
            raise OSError(28, "No space left on device")
        whole(*arguments)

    monkeypatch.setattr(files, "_append", refuse)
    with pytest.warns(VlpWarning, match="cannot be written"):
        own.add(FAULTS[:1])
    is_full.clear()
    with pytest.warns(VlpWarning, match="no line is lost"):
        own.add([])
    assert listed(path) == [0]


def test_a_list_that_cannot_be_opened_is_opened_by_the_next_batch(tmp_path):
    path = tmp_path / "run" / "quarantine.jsonl"
    path.parent.write_text("a file")
    own = Quarantine(path, 0)
    with pytest.warns(VlpWarning, match="cannot be read"):
        own.add(FAULTS[:1])
    path.parent.unlink()
    own.add([])
    assert listed(path) == [0]
