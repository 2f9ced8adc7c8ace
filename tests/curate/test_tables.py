"""Tables as people have them: one broken line costs one row, and every row is packed or listed."""

from __future__ import annotations

import json
import random

import pytest

from tests.curate.test_pack import captions_of
from tests.shards import image_bytes
from vlp.curate.pack import pack
from vlp.curate.sources.delimited import read_delimited, separator_of
from vlp.data import SampleSet
from vlp.data.shards.cards import load_card
from vlp.ground.types import RecipeError

COLOURS = ("red", "green", "blue", "gray", "black", "white", "pink", "cyan")


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pics").mkdir()
    for number, colour in enumerate(COLOURS):
        (tmp_path / "pics" / f"{colour}.jpg").write_bytes(image_bytes(number))
    return tmp_path


def packed(folder, name, text, *, columns="", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return pack(path, folder / "mine", columns=columns, limits="bad=1", workers=1)


def listed(folder):
    path = folder / "mine" / "quarantine.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(separator, end="\n", quote=""):
    rows = [f"pics/{colour}.jpg{separator}{quote}{colour} boat{quote}" for colour in COLOURS]
    return end.join([f"filepath{separator}title", *rows, ""])


BOATS = [f"{colour} boat" for colour in COLOURS]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_usual_separators_line_ends_and_encodings_are_found_out(pictures, separator, end, encoding):
    found = packed(pictures, "t.csv", table(separator, end, quote='"'), encoding=encoding)
    assert captions_of(found.card) == BOATS and not found.faults.total


def test_a_tsv_has_no_quotes(pictures):
    text = table("\t").replace("green boat", '"green boat, 12 feet').replace("blue boat", '"Quiet" blue')
    found = packed(pictures, "t.tsv", text)
    assert captions_of(found.card) == ["red boat", '"green boat, 12 feet', '"Quiet" blue', *BOATS[3:]]


def test_paths_of_windows_are_found(pictures):
    found = packed(pictures, "t.csv", table(",", "\r\n").replace("pics/", "pics\\"))
    assert captions_of(found.card) == BOATS


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ('pics/green.jpg,"green boat', "a quote that does not close"),
        ('pics/green.jpg,"green" boat', "expected after"),
        ("pics/green.jpg,green, boat", "3 fields under 2 names; put fields with a separator in them into quotes"),
        ("pics/green.jpg", "1 fields under 2 names"),
        (b"pics/green.jpg,green\xff boat", "not UTF-8"),
    ],
)
def test_a_broken_line_costs_its_own_row(pictures, broken, said):
    text = table(",").encode()
    line = broken if isinstance(broken, bytes) else broken.encode()
    found = packed(pictures, "t.csv", text.replace(b"pics/green.jpg,green boat", line))
    assert captions_of(found.card) == [BOATS[0], *BOATS[2:]]
    (fault,) = listed(pictures)
    assert fault["reason"] == "bad_row" and "line 3: " in fault["detail"] and said in fault["detail"]
    assert found.rows + found.faults.total == 8
    assert "7 samples of 7 rows" in str(found) and "1 rows left out" in str(found)


def test_quotes_may_hold_anything(pictures):
    text = table(",").replace("green boat", '"green, ""big""\nboat"')
    assert captions_of(packed(pictures, "t.csv", text).card)[1] == 'green, "big" boat'


def test_every_row_is_packed_or_listed_whatever_is_flipped(pictures):
    """Rows of one line each: as many as the file has lines, less the header."""
    dice, whole = random.Random(0), table(",", quote='"').encode()
    path = pictures / "t.csv"
    for _ in range(300):
        broken = bytearray(whole)
        place = dice.choice([k for k in range(20, len(broken)) if broken[k] != 10])
        broken[place] = dice.choice(b'",;x\xff')
        path.write_bytes(broken)
        lines = list(read_delimited(path, separator_of(path)))
        assert len(lines) == broken.count(b"\n")
        read = {line.number: line.fields for line in lines if not line.fault}
        for number, text in enumerate(whole.split(b"\n")[:-1], 1):
            if number != broken.count(b"\n", 0, place) + 1:  # none but the broken line is another
                assert read[number] == tuple(text.decode().replace('"', "").split(","))


def test_rows_of_one_image_are_one_sample(pictures):
    rows = [f"pics/{colour}.jpg| {number}| {colour} boat {number} ." for number in (0, 1) for colour in COLOURS]
    found = packed(pictures, "results.csv", "image_name| comment_number| comment\n" + "\n".join(rows[::-1]) + "\n")
    assert (found.samples, found.rows) == (8, 16)
    samples = SampleSet({"mine": load_card(str(found.card))})
    texts = [json.loads(samples[number].read("json"))["caption"] for number in range(8)]
    assert sorted(texts) == sorted([f"{colour} boat 1 .", f"{colour} boat 0 ."] for colour in COLOURS)


def test_a_table_without_names_of_columns_is_told_so(pictures):
    with pytest.raises(RecipeError, match=r"the first line names no columns \(pics/red\.jpg, red boat\)"):
        packed(pictures, "t.csv", table(",").split("\n", 1)[1])


def test_only_texts_are_captions(pictures):
    values = [{"en": "a red boat"}, float("nan"), True, 7, ["a", "b"], [{"text": "x"}], None, "cyan boat"]
    rows = [{"image": f"pics/{colour}.jpg", "caption": value} for colour, value in zip(COLOURS, values, strict=True)]
    found = packed(pictures, "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert captions_of(found.card) == ["a", "cyan boat"]
    assert [fault["reason"] for fault in listed(pictures)] == ["bad_caption"] * 5 + ["missing_caption"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{broken", "bad_row"),
        (b"[1]", "bad_row"),
        (b'{"image": "\xff", "caption": "x"}', "bad_row"),
        (b'{"image": 5, "caption": "x"}', "missing_image"),
        (b'{"image": {"a": 1}, "caption": "x"}', "missing_image"),
        (b'{"image": "https://a/b.jpg", "caption": "x"}', "missing_image"),
        (b'{"image": "pics/red.jpg", "caption": "x", "n": ' + b"9" * 5000 + b"}", "bad_row"),
    ],
)
def test_a_bad_line_of_json_costs_its_own_row(pictures, line, reason):
    good = b'{"image": "pics/blue.jpg", "caption": "blue"}\n'
    found = packed(pictures, "t.jsonl", good + line + b"\n" + good.replace(b"blue", b"pink"))
    assert captions_of(found.card) == ["blue", "pink"]
    assert [fault["reason"] for fault in listed(pictures)] == [reason]


def test_an_encoding_can_be_said(pictures):
    """A table from a Windows machine: rows with accents are refused, with the way out, until their encoding is said."""
    rows = "".join(f"pics/{colour}.jpg,caf\xe9 {number}\n" for number, colour in enumerate(COLOURS))
    path = pictures / "windows.csv"
    path.write_bytes(f"path,caption\n{rows}".encode("cp1252"))
    with pytest.raises(RecipeError, match=r"--encoding cp1252"):
        pack(path, pictures / "first", workers=1)
    done = pack(path, pictures / "second", workers=1, encoding="cp1252")
    assert done.samples == len(COLOURS)
    assert captions_of(done.card)[0] == "caf\xe9 0"
    with pytest.raises(RecipeError, match="no such encoding"):
        pack(path, pictures / "third", workers=1, encoding="cp12525")
    with pytest.raises(RecipeError, match="line ends of its own"):
        pack(path, pictures / "third", workers=1, encoding="utf-32")
    with pytest.raises(RecipeError, match="no table of lines"):
        pack(pictures, pictures / "third", workers=1, encoding="cp1252")


def test_a_parquet_file_whose_names_are_no_text_is_refused(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    parquet.write_table(arrow.table({"captions": ["a"], "image": ["b.jpg"]}), path)
    path.write_bytes(path.read_bytes().replace(b"captions", b"cap\xe9ions"))
    with pytest.raises(RecipeError, match="not a whole parquet file"):
        pack(path, tmp_path / "out")
