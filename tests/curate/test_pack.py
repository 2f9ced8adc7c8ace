"""What is packed is what the stream reads, in bytes that depend on the source alone, whatever happens on the way."""

from __future__ import annotations

import csv
import fcntl
import json
import multiprocessing
import os
import time
from itertools import islice

import pytest

from tests.curate.conftest import write_images
from tests.shards import LetterTokenizer, image_bytes
from vlp.curate.pack import pack
from vlp.curate.packing import Limits
from vlp.curate.sources.rows import read_file
from vlp.curate.verify import verify_card
from vlp.data import Captions, Crop, SampleSet, Stream, Views
from vlp.data.shards.cards import load_card
from vlp.ground.types import RecipeError
from vlp.ground.yaml import read_yaml

SMALL = "samples=4"


def captions_of(path):
    card = load_card(str(path))
    samples = SampleSet({card.name: card})
    return [Captions().first(samples[number]) for number in range(len(samples))]


def shards_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def test_a_folder_comes_back_through_the_stream(photos, tmp_path):
    packed = pack(photos, tmp_path / "mine", limits=SMALL, workers=1)
    assert (packed.samples, packed.shards, packed.faults.total) == (10, 3, 0)
    card = load_card(str(packed.card))
    samples = SampleSet({"mine": card})
    stream = Stream(samples, Views((Crop(8),), Captions()), LetterTokenizer(), batch_size=5, seed=0)
    batches = list(islice(stream.batches(0), 2))
    assert sorted(int(number) for batch in batches for number in batch.ids) == list(range(10))
    assert stream.faults.total == 0
    assert captions_of(packed.card) == [f"caption {number}" for number in range(10)]
    originals = sorted(path for path in photos.iterdir() if path.suffix != ".txt")
    for number, path in enumerate(originals):
        kind = path.suffix[1:].replace("jpeg", "jpg")
        assert samples[number].read(kind) == path.read_bytes()


def test_the_card_is_true_and_keeps_what_was_added(photos, tmp_path):
    path = pack(photos, tmp_path / "mine", limits=SMALL, workers=1).card
    card = read_yaml(path)
    assert (card["name"], card["samples"], card["captions"]) == ("mine", 10, {"txt": 1.0})
    assert len(card["sha256"]) == 3
    load_card(str(path)).verify()
    path.write_text("# taken in May\n" + path.read_text().replace("licence: ''", "licence: CC0-1.0"))
    (photos / "photo 000.txt").write_text("another caption")
    packed = pack(photos, tmp_path / "mine", limits=SMALL, workers=1)
    assert packed.kept == 6
    assert path.read_text().startswith("# taken in May\n") and load_card(str(path)).licence == "CC0-1.0"
    assert captions_of(path)[0] == "another caption"


@pytest.mark.processes
def test_one_and_two_processes_write_the_same_bytes(photos, tmp_path):
    for name, workers in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        pack(photos, tmp_path / name / "mine", limits=SMALL, workers=workers)
    one, two = shards_of(tmp_path / "one" / "mine"), shards_of(tmp_path / "two" / "mine")
    assert len(one) == 3 and one == two


def test_times_and_order_of_the_files_do_not_matter(photos, tmp_path):
    pack(photos, tmp_path / "a", workers=1)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in sorted(photos.iterdir(), reverse=True):
        (copy / path.name).write_bytes(path.read_bytes())
        os.utime(copy / path.name, (1, 1))
    pack(copy, tmp_path / "b", workers=1)
    assert shards_of(tmp_path / "a") == shards_of(tmp_path / "b")


def test_shards_that_grow_too_large_overflow(tmp_path):
    folder = tmp_path / "large"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(image_bytes(number, "png", 500, 400))
        (folder / f"{number}.txt").write_text("noise")
    packed = pack(folder, tmp_path / "mine", limits="megabytes=1", workers=1)
    assert sorted(shards_of(tmp_path / "mine")) == ["000000.tar", "000000_001.tar", "000000_002.tar"]
    assert captions_of(packed.card) == ["noise"] * 3


def wait_until_free(folder):
    """Wait until the processes of a killed pack have noticed."""
    with (folder / ".pack" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


@pytest.mark.processes
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_pack_goes_on_where_it_stopped(photos, tmp_path, workers, monkeypatch):
    whole = pack(photos, tmp_path / "whole", limits="samples=2", workers=1)
    to = tmp_path / "mine"
    # The fourth image never comes, so the process hangs in the middle of its second shard.
    fourth = sorted(path for path in photos.iterdir() if path.suffix != ".txt")[3]

    def wait_for_ever(path, reason):
        return time.sleep(1000) if path == fourth else read_file(path, reason)

    monkeypatch.setattr("vlp.curate.sources.rows.read_file", wait_for_ever)
    arguments = {"limits": "samples=2", "workers": workers}
    process = multiprocessing.get_context("fork").Process(target=pack, args=(photos, to), kwargs=arguments)
    process.start()
    deadline = time.monotonic() + 120
    while not (to / "000001.tar.partial").exists():
        assert time.monotonic() < deadline and process.is_alive()
        time.sleep(0.05)
    process.kill()
    process.join()
    wait_until_free(to)
    first = (to / "000000.tar").stat().st_mtime_ns
    monkeypatch.undo()
    packed = pack(photos, to, limits="samples=2", workers=1)
    assert packed.kept >= 2 and packed.samples == 10
    assert (to / "000000.tar").stat().st_mtime_ns == first
    assert not list(to.glob("*.partial"))
    assert shards_of(to) == shards_of(tmp_path / "whole")
    assert whole.samples == 10


def test_a_shard_that_is_gone_or_cut_is_written_again(photos, tmp_path):
    pack(photos, tmp_path / "mine", limits=SMALL, workers=1)
    before = shards_of(tmp_path / "mine")
    (tmp_path / "mine" / "000000.tar").unlink()
    (tmp_path / "mine" / "000001.tar").write_bytes(b"cut")
    assert pack(photos, tmp_path / "mine", limits=SMALL, workers=1).kept == 2
    assert shards_of(tmp_path / "mine") == before


def test_shards_of_a_source_that_shrank_are_removed(photos, tmp_path):
    pack(photos, tmp_path / "mine", limits=SMALL, workers=1)
    for path in sorted(photos.iterdir())[8:]:
        path.unlink()
    packed = pack(photos, tmp_path / "mine", limits=SMALL, workers=1)
    assert packed.samples == 4 and list(shards_of(tmp_path / "mine")) == ["000000.tar"]
    assert not verify_card(load_card(str(packed.card)), workers=1).findings


def break_some(photos):
    """Break images and captions; return how often each reason is to be found."""
    images = sorted(path for path in photos.iterdir() if path.suffix != ".txt")
    images[0].write_bytes(images[0].read_bytes()[:200])
    images[1].write_bytes(b"<html>not found</html>")
    images[2].with_suffix(".txt").write_text(" \n")
    images[3].with_suffix(".txt").write_bytes(b"\xff\xfe\xfd")
    images[4].with_suffix(".txt").unlink()
    (photos / "animation.gif").write_bytes(b"GIF89a")
    (photos / "animation.txt").write_text("a GIF")
    return {"corrupt_image": 3, "empty_caption": 1, "bad_caption": 1, "missing_caption": 1}


def test_bad_rows_are_left_out_counted_and_listed(photos, tmp_path):
    expected = break_some(photos)
    packed = pack(photos, tmp_path / "mine", workers=1)
    assert {reason: count for (_, reason), count in packed.faults.counts.items()} == expected
    assert packed.samples == 5
    lines = [json.loads(line) for line in (tmp_path / "mine" / "quarantine.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert any("animation.gif" in line["detail"] for line in lines)
    assert "3  mine  corrupt_image" in str(packed)
    assert not verify_card(load_card(str(packed.card)), workers=1).findings


def test_too_many_bad_rows_stop_the_pack_with_a_table(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("path,caption\n" + "".join(f"{number}.jpg,x\n" for number in range(30)))
    with pytest.raises(RecipeError, match=r"11 of 11 rows .*bad=0.01(?s:.*)11  mine  missing_image"):
        pack(file, tmp_path / "mine", limits="samples=1", workers=1)
    assert len((tmp_path / "mine" / "quarantine.jsonl").read_text().splitlines()) == 11
    with pytest.raises(RecipeError, match=r"not one row can be used"):
        pack(file, tmp_path / "mine", limits="samples=1,bad=1", workers=1)


def test_classes_are_the_names_of_subfolders(tmp_path):
    write_images(tmp_path / "set" / "great_tit", 2)
    write_images(tmp_path / "set" / "robin", 1)
    packed = pack(tmp_path / "set", tmp_path / "mine", workers=1)
    assert captions_of(packed.card) == ["great tit", "great tit", "robin"]


def test_json_files_are_kept_and_their_caption_found(tmp_path):
    for number, path in enumerate(write_images(tmp_path / "set", 3)):
        path.with_suffix(".json").write_text(json.dumps({"id": number, "title": f"title {number}"}))
    packed = pack(tmp_path / "set", tmp_path / "mine", workers=1)
    assert read_yaml(packed.card)["captions"] == {"json.title": 1.0}
    assert captions_of(packed.card) == ["title 0", "title 1", "title 2"]


def test_json_lines_find_their_columns(table, tmp_path):
    packed = pack(table, tmp_path / "mine", workers=1)
    assert captions_of(packed.card) == [f"caption {number}" for number in range(10)]


def test_lists_of_captions_become_json(table, tmp_path):
    name = json.loads(table.read_text().splitlines()[0])["file_name"]
    table.write_text(json.dumps({"image": name, "captions": ["one", "two"]}))
    packed = pack(table, tmp_path / "mine", workers=1)
    card = load_card(str(packed.card))
    assert card.captions == {"json.caption": 1.0}
    assert json.loads(SampleSet({"x": card})[0].read("json")) == {"caption": ["one", "two"]}


def test_a_table_of_text_with_other_columns(tmp_path):
    paths = write_images(tmp_path / "images", 3)
    with (tmp_path / "table.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["where", "said"])
        writer.writerows(
            [str(path.relative_to(tmp_path)), f'two\nlines, and "{number}"'] for number, path in enumerate(paths)
        )
    packed = pack(tmp_path / "table.csv", tmp_path / "mine", columns="image=where,caption=said", workers=1)
    assert captions_of(packed.card) == [f'two lines, and "{number}"' for number in range(3)]


def test_a_second_pack_into_a_folder_in_use_is_refused(photos, tmp_path):
    pack(photos, tmp_path / "mine", workers=1)
    with (tmp_path / "mine" / ".pack" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RecipeError, match="another pack is writing"):
            pack(photos, tmp_path / "mine", workers=1)


def test_other_settings_need_another_folder(photos, tmp_path):
    pack(photos, tmp_path / "mine", workers=1)
    with pytest.raises(RecipeError, match=r"other settings:\n  samples: 10000 -> 4"):
        pack(photos, tmp_path / "mine", limits=SMALL, workers=1)


def test_a_setting_that_is_left_out_is_another_one(tmp_path):
    (tmp_path / "cat.jpg").write_bytes(image_bytes(0))
    table = tmp_path / "t.csv"
    table.write_text("path,caption\ncat.jpg,a cat\n")
    pack(table, tmp_path / "mine", workers=1, encoding="latin-1")
    with pytest.raises(RecipeError, match=r"other settings:\n  encoding: latin-1 -> \n"):
        pack(table, tmp_path / "mine", workers=1)


def test_a_folder_of_something_else_is_left_alone(photos, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(RecipeError, match="not empty, and not written by `vlp data pack`"):
        pack(photos, tmp_path / "mine", workers=1)
    with pytest.raises(RecipeError, match="a file; name a folder"):
        pack(photos, tmp_path / "mine" / "notes.txt", workers=1)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ("sample=4", r"unknown limit \(known: samples, megabytes, bad\); did you mean 'samples'"),
        ("samples=many", "'many' is no number"),
        ("samples=0", "at least 1"),
        ("bad=2", "a share from 0 to 1"),
    ],
)
def test_a_mistake_in_the_limits_is_explained(limits, message):
    with pytest.raises(RecipeError, match=message):
        Limits().changed(limits)


def test_no_workers_is_a_mistake(photos, tmp_path):
    with pytest.raises(RecipeError, match="--workers -1"):
        pack(photos, tmp_path / "mine", workers=-1)
