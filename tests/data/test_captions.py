"""Captions are drawn as the settings say, and are text or a counted fault."""

from __future__ import annotations

import json
import math
import signal
from collections import Counter

import pytest

from tests.shards import image_bytes, write_tar
from vlp.data import Captions, Card, SampleSet
from vlp.data.faults import BadSampleError
from vlp.data.pixels.decode import decode_image, open_picture
from vlp.data.samples import Sample
from vlp.data.texts.sample_texts import LARGEST_CAPTION, LARGEST_JSON
from vlp.ground.randomness import Draws
from vlp.ground.types import RecipeError


@pytest.fixture
def sample_of(tmp_path):
    def build(captions=None, **members):
        path = write_tar(tmp_path / "x.tar", [(f"a.{name}", data) for name, data in members.items()])
        keys = {"captions": captions} if captions else {}
        return SampleSet({"set": Card(name="set", shards=path.name, folder=tmp_path, **keys)})[0]

    return build


def drawn(captions, sample, count=400):
    return Counter(captions(sample, Draws(number)).text for number in range(count))


def test_a_text_is_cleaned_of_stray_space_and_byte_order_mark(sample_of):
    assert drawn(Captions(), sample_of(txt=b"\xef\xbb\xbf  Two\n words\t ")) == {"Two words": 400}


def test_lower_case_on_request(sample_of):
    assert drawn(Captions(lower=True), sample_of(txt=b"A Cat")) == {"a cat": 400}


def test_keys_of_the_json_member_are_drawn_by_weight(sample_of):
    sample = sample_of(txt=b"text", json=json.dumps({"alt": "alt", "long": ["one", "two"]}).encode())
    counts = drawn(Captions(keys={"txt": 2, "json.long": 2}), sample)
    assert set(counts) == {"text", "one", "two"}
    assert counts["text"] == pytest.approx(200, abs=50)
    assert drawn(Captions(keys={"json.alt": 1}), sample) == {"alt": 400}


def test_without_keys_the_card_decides(sample_of):
    sample = sample_of({"json.caption": 1.0}, txt=b"text", json=b'{"caption": "record"}')
    assert drawn(Captions(), sample) == {"record": 400}


def test_keys_that_a_sample_lacks_leave_the_draw(sample_of):
    sample = sample_of(txt=b"text", json=b"{}")
    assert drawn(Captions(keys={"json.caption": 5, "txt": 1}), sample) == {"text": 400}


def test_lines_are_captions_of_their_own(sample_of):
    assert set(drawn(Captions(lines=True), sample_of(txt=b"one\ntwo\n\nthree\n"))) == {"one", "two", "three"}


@pytest.mark.parametrize(
    ("wording", "expected"),
    [
        ("all", {"cat, pet, animal"}),
        ("first", {"cat"}),
        ("one", {"pet", "animal"}),
        (
            "some",
            {"cat, pet", "pet, cat", "cat, animal", "animal, cat"}
            | {"cat, pet, animal", "cat, animal, pet", "pet, cat, animal"}
            | {"pet, animal, cat", "animal, cat, pet", "animal, pet, cat"},
        ),
    ],
)
def test_pieces_are_worded_as_asked(sample_of, wording, expected):
    captions = Captions(separator=",", wording={wording: 1.0})
    assert set(drawn(captions, sample_of(txt=b"cat, pet, animal"))) == expected
    assert set(drawn(captions, sample_of(txt=b"cat"))) == {"cat"}


def test_wordings_mix_by_weight(sample_of):
    captions = Captions(separator=",", wording={"first": 3, "all": 1})
    assert drawn(captions, sample_of(txt=b"cat, pet"))["cat"] == pytest.approx(300, abs=45)


def test_templates_take_the_caption_as_it_is(sample_of):
    captions = Captions(templates=("a photo of {}", "{}!"), template_probability=0.5)
    counts = drawn(captions, sample_of(txt=b"{x} {}"))
    assert set(counts) == {"{x} {}", "a photo of {x} {}", "{x} {}!"}
    assert counts["{x} {}"] == pytest.approx(200, abs=50)


def test_identity_is_the_drawn_text_or_the_first_piece(sample_of):
    sample = sample_of(txt=b"Cat, pet, animal")
    settings = {"separator": ",", "wording": {"one": 1.0}, "templates": ("A {}",)}
    texts, firsts = (
        {Captions(identity=identity, **settings)(sample, Draws(number)).identity for number in range(50)}
        for identity in ("text", "first")
    )
    assert texts == {"pet", "animal"}  # a template does not make another caption
    assert firsts == {"cat"}


@pytest.mark.parametrize(("name", "largest"), [("txt", LARGEST_CAPTION), ("json", LARGEST_JSON)])
def test_what_is_too_large_is_not_read_at_all(sample_of, monkeypatch, name, largest):
    sample = sample_of({"txt": 1.0, "json.caption": 1.0}, **{name: b" " * (largest + 1)})
    monkeypatch.setattr(Sample, "read", lambda *_: pytest.fail("read all the same"))
    with pytest.raises(BadSampleError, match=f"{name}: {largest + 1} bytes, more than {largest}"):
        Captions()(sample, Draws(0))


def test_what_is_as_large_as_may_be_is_a_caption(sample_of):
    text, wrapped = b"x" * LARGEST_CAPTION, b'{"caption": "%s"}'
    assert Captions()(sample_of(txt=text), Draws(0)).text == text.decode()
    record = wrapped % text
    record += b" " * (LARGEST_JSON - len(record))
    sample = sample_of({"json.caption": 1.0}, json=record)
    assert Captions(keys={"json.caption": 1.0})(sample, Draws(0)).text == text.decode()


def test_first_is_always_the_same(sample_of):
    sample = sample_of(txt=b"cat, pet\ndog", json=b'{"caption": "record"}')
    captions = Captions(
        keys={"txt": 1, "json.caption": 9}, lines=True, separator=",", wording={"one": 1}, templates=("a {}",)
    )
    assert captions.first(sample) == "cat, pet"


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"json": b"{broken"}, "bad_caption"),
        ({"json": b"[1]"}, "bad_caption"),
        ({"json": b"[" * 100_000}, "bad_caption"),
        ({"json": b'{"caption": 5}'}, "bad_caption"),
        ({"json": b'{"caption": null}'}, "bad_caption"),
        ({"json": b'{"caption": "\\ud800"}'}, "bad_caption"),
        ({"json": b'{"caption": "' + b"x" * 100_001 + b'"}'}, "bad_caption"),
        ({"json": b'{"caption": []}'}, "empty_caption"),
        ({"json": b'{"caption": " "}'}, "empty_caption"),
        ({"json": b'{"other": "x"}'}, "missing_caption"),
        ({"txt": b"text"}, "missing_caption"),
    ],
)
def test_records_without_a_usable_caption_are_faults(sample_of, members, reason):
    with pytest.raises(BadSampleError) as caught:
        Captions(keys={"json.caption": 1})(sample_of(**members), Draws(0))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"templates": ("a photo",)}, r"templates: 'a photo' lacks \{\}"),
        ({"keys": {"txt": 0.0}}, "keys: weights"),
        ({"separator": ",", "wording": {"all": -1.0}}, "wording: weights"),
        ({"wording": {"first": 1.0}}, "wording has no effect without"),
        ({"identity": "first"}, "identity=first has no effect without"),
    ],
)
def test_settings_without_sense_are_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        Captions(**settings)


@pytest.mark.parametrize("probability", [2.0, -0.1, float("nan")])
def test_a_probability_of_templates_is_one(probability):
    with pytest.raises(RecipeError, match=r"template_probability: .* is no probability"):
        Captions(templates=("a {}",), template_probability=probability)


def test_numbers_of_classes_become_names(sample_of, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\nowl\n")
    for class_names in (("cat", "dog", "owl"), str(names)):
        captions = Captions(keys={"cls": 1, "json.label": 1}, class_names=class_names, templates=("a {}",))
        counts = drawn(captions, sample_of(cls=b"1\n", json=b'{"label": 2}'))
        assert set(counts) == {"dog", "a dog", "owl", "a owl"}
        assert captions(sample_of(cls=b"2"), Draws(0)).identity == "owl"
        assert captions.first(sample_of(cls=b"0")) == "cat"
        assert drawn(captions, sample_of(cls=b"a text"))["a text"]


def test_a_mark_of_the_byte_order_is_no_letter_of_the_first_line(sample_of, tmp_path):
    for name, lines in (("names", "cat\ndog\n"), ("templates", "{} here\na {}\n")):
        (tmp_path / f"{name}.txt").write_text(lines, encoding="utf-8-sig")
    captions = Captions(
        keys={"cls": 1},
        class_names=str(tmp_path / "names.txt"),
        templates=str(tmp_path / "templates.txt"),
        template_probability=1.0,
    )
    assert set(drawn(captions, sample_of(cls=b"0"))) == {"cat here", "a cat"}


@pytest.mark.parametrize("label", [b"3", b"-1", b"true", b'"' + b"9" * 9000 + b'"'])
def test_numbers_without_a_name_are_faults(sample_of, label):
    with pytest.raises(BadSampleError) as caught:
        Captions(keys={"json.label": 1}, class_names=("cat", "dog", "owl"))(
            sample_of(json=b'{"label": ' + label + b"}"), Draws(0)
        )
    assert caught.value.reason == "bad_caption"


def test_a_blank_line_among_names_of_classes_is_refused(tmp_path, sample_of):
    (tmp_path / "names.txt").write_text("cat\n\nowl\n")
    with pytest.raises(RecipeError, match=r"class_names: .*names\.txt: line 2 is blank"):
        Captions(class_names=str(tmp_path / "names.txt"))
    (tmp_path / "names.txt").write_text("cat\ndog\nowl\n\n \n")
    captions = Captions(keys={"cls": 1}, class_names=str(tmp_path / "names.txt"))
    assert captions.first(sample_of(cls=b"2")) == "owl"


@pytest.mark.parametrize(
    "weights", [{"txt": float("nan")}, {"txt": float("inf")}, {"txt": 1.0, "json.a": float("nan")}]
)
def test_weights_that_are_no_numbers_are_refused(weights):
    with pytest.raises(RecipeError, match=r"data\.captions\.keys: weights"):
        Captions(keys=weights)


@pytest.mark.parametrize("text", ["\u200b\u200b", "\x01\x02", "\ufeff", "\u00a0 \u2060"])
def test_what_nobody_can_see_is_no_caption(sample_of, text):
    with pytest.raises(BadSampleError) as caught:
        Captions().first(sample_of(txt=text.encode()))
    assert caught.value.reason == "empty_caption"
    assert Captions().first(sample_of(txt=f"{text}a".encode())).endswith("a")


def test_numbers_ask_for_class_names(sample_of):
    with pytest.raises(BadSampleError, match="class_names"):
        Captions(keys={"json.label": 1})(sample_of(json=b'{"label": 3}'), Draws(0))


def test_templates_and_names_of_evaluations_serve_training(sample_of):
    captions = Captions(
        keys={"cls": 1},
        class_names="eval/classnames/imagenet1k.txt",
        templates="eval/prompts/imagenet_80.txt",
        template_probability=1.0,
    )
    texts = drawn(captions, sample_of(cls=b"0"))
    assert len(texts) > 50 and all("tench" in text and "{" not in text for text in texts)


@pytest.mark.parametrize(
    ("kind", "given", "left"),
    [
        ("urls", "Cat at https://x.org/a?b=1 or www.cats.com!", "Cat at or"),
        ("tags", "<p class='x'>Cat<br/>5 < 6 <3</p><!-- x -->", "Cat 5 < 6 <3"),
        ("file_names", "IMG_1234.jpg my-cat.PNG DSC00042 img 0815 cat IMG of DSC", "cat IMG of DSC"),
        ("repeats", "Wow!!! cat... -- really??!", "Wow! cat. - really?!"),
    ],
)
def test_each_kind_of_rubbish_goes_on_request_only(sample_of, kind, given, left):
    sample = sample_of(txt=given.encode())
    assert set(drawn(Captions(clean=(kind,)), sample, 5)) == {left}
    assert set(drawn(Captions(), sample, 5)) == {given}


def test_a_caption_that_was_nothing_but_rubbish_is_a_fault(sample_of):
    with pytest.raises(BadSampleError) as caught:
        Captions(clean=("file_names",))(sample_of(txt=b"IMG_1234.jpg"), Draws(0))
    assert caught.value.reason == "empty_caption"


@pytest.mark.parametrize(
    "pattern",
    [
        "<" * 50_000,
        "x." * 30_000,
        "IMG" * 30_000,
        "!" * 50_000,
        "<!--" * 20_000,
        "IMG_" + "0" * 90_000,
        "<a" * 40_000,
        "www." * 20_000,
    ],
)
def test_no_caption_makes_cleaning_hang(sample_of, pattern):
    captions = Captions(clean=("urls", "tags", "file_names", "repeats"))
    signal.alarm(20)  # patterns that backtrack take minutes
    assert captions(sample_of(txt=f"cat {pattern}".encode()), Draws(0)).text.startswith("cat")
    signal.alarm(0)


def test_an_empty_list_in_a_file_is_refused(tmp_path):
    file = tmp_path / "none.txt"
    file.write_text("\n")
    with pytest.raises(RecipeError, match=r"templates: .*none\.txt is empty"):
        Captions(templates=str(file))


# ---------------------------------------- keys within, and members with names of their own
NESTED = {"meta": {"caption": "a red boat", "deep": {"alt": ["a boat", "red"]}, "a.b": "dotted"}, "x.y": {"z": "both"},
          "boxes": [{"text": "one"}, {"text": ["two", "three"]}, {"other": 1}]}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "texts"),
    [
        ("meta.caption", {"a red boat"}),
        ("meta.deep.alt", {"a boat", "red"}),
        ("meta.a.b", {"dotted"}),
        ("x.y.z", {"both"}),
        ("boxes.text", {"one", "two", "three"}),
    ],
)
@pytest.mark.parametrize("member", ["json", "meta.json"])
def test_keys_within_and_any_json_member_can_be_read(sample_of, key, texts, member):
    sample = sample_of({f"{member}.{key}": 1.0}, **{member: json.dumps(NESTED).encode()})
    assert {Captions()(sample, Draws(number)).text for number in range(60)} == texts


@pytest.mark.parametrize("key", ["json.meta.other", "json.meta.caption.more", "json.boxes.gone", "json.gone"])
def test_a_missing_key_is_missed_with_the_keys_that_are_there(sample_of, key):
    sample = sample_of({key: 1.0}, json=json.dumps(NESTED).encode())
    with pytest.raises(BadSampleError, match=rf"none of {key} among json; json holds meta, x\.y, boxes") as caught:
        Captions()(sample, Draws(0))
    assert caught.value.reason == "missing_caption"


@pytest.mark.parametrize(
    "value", [5, 1.5, True, math.nan, {"en": "a boat"}, [{"en": "a boat"}], ["a boat", 7], [["a"]]], ids=str
)
def test_what_is_no_text_is_no_caption(sample_of, value):
    sample = sample_of({"json.caption": 1.0}, json=json.dumps({"caption": value}).encode())
    with pytest.raises(BadSampleError) as caught:
        Captions()(sample, Draws(0))
    assert caught.value.reason == "bad_caption"


@pytest.mark.parametrize("text", [b'{"caption": "a red boat"}', b'["a", "b"]', b" {} ", b"[]"])
def test_a_json_document_is_no_caption(sample_of, text):
    with pytest.raises(BadSampleError, match="is a JSON document"):
        Captions()(sample_of(txt=text), Draws(0))
    assert Captions()(sample_of(txt=b"[a red boat] {sic}"), Draws(0)).text == "[a red boat] {sic}"


@pytest.mark.parametrize("text", [b"['a boat', 'the boat']", b"{'en': 'a boat'}\n", b"['a boat'\n 'the \\d boat']"])
def test_what_python_prints_is_no_caption(sample_of, text):
    with pytest.raises(BadSampleError, match="spells out a list or mapping of Python"):
        Captions()(sample_of(txt=text), Draws(0))
    for kept in ("['a boat', sic]", "{a, boat}", "['a boat'", "[" * 5000 + "]" * 5000, "['a boat'] on the sea"):
        assert Captions()(sample_of(txt=kept.encode()), Draws(0)).text == kept


HOSTILE = (
    b'{"caption": "a cat", "n": ' + b"9" * 5000 + b"}",
    b'{"caption": ' * 100_000,
    b"[" * 3_000_000,
    b'{"caption": "\\ud800"}',
    b"\xff\xfe\0",
    b"",
    b"nul",
    b'{"caption": 1e999}',
)


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_json_is_a_fault_of_its_sample(sample_of, content):
    with pytest.raises(BadSampleError) as caught:
        Captions()(sample_of({"json.caption": 1.0}, json=content), Draws(0))
    assert caught.value.reason == "bad_caption" and len(caught.value.detail) < 1000


def test_a_document_is_not_asked_for_as_a_caption():
    with pytest.raises(RecipeError, match=r"'meta\.json' is a whole document: name a key in it, as meta\.json\."):
        Captions(keys={"meta.json": 1.0})


def test_whatever_is_raised_over_a_caption_or_a_picture_is_a_fault_of_its_sample(sample_of, monkeypatch):
    def fail(*_, **__):
        raise MemoryError("no room")

    sample = sample_of(txt=b"a cat", png=image_bytes(0, "png"))
    monkeypatch.setattr("vlp.data.texts.captions.remove", fail)
    monkeypatch.setattr("PIL.Image.open", fail)
    for reason, read in (
        ("bad_caption", lambda: Captions()(sample, Draws(0))),
        ("bad_caption", lambda: Captions().first(sample)),
        ("corrupt_image", lambda: open_picture(sample.read_image(), 1000)),
        ("corrupt_image", lambda: decode_image(sample.read_image(), 1000)),
    ):
        with pytest.raises(BadSampleError, match="MemoryError: no room") as caught:
            read()
        assert caught.value.reason == reason
