"""Wrong captions are wrong, as many as asked, and differ from the right one in what their kind says."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.shards import write_tar
from vlp.data import Captions, Card, Crop, SampleSet, Views, WrongCaptions
from vlp.data.faults import BadSampleError
from vlp.data.mined_captions import MinedCaptions, read_mined, write_mined
from vlp.data.texts.wrong_captions import KINDS, TABLES, plural
from vlp.ground.randomness import Draws
from vlp.ground.types import RecipeError

TEXT = "A brown dog chases two cats on the left of an orange car."
WORDS = TEXT.split()
texts = st.lists(st.sampled_from([*WORDS, "Dog", "of", "very", "...", "x"]), min_size=1, max_size=6).map(" ".join)


def plain(text):
    return " ".join(text.split()).casefold()


def made(kind, text=TEXT, count=1, **settings):
    negatives = WrongCaptions(count=count, kinds={kind: 1.0}, **settings)
    return [wrong for number in range(100) for wrong in negatives(text, Draws(number))]


def differing(text):
    """Return old and new word at each place, articles aside."""
    pairs = zip(WORDS, text.split(), strict=True)
    return [(old, new) for old, new in pairs if old != new and old.lower() not in ("a", "an")]


@given(texts, st.integers(1, 4), st.sampled_from(KINDS), st.integers(0, 1000))
def test_there_are_always_as_many_as_asked_and_none_is_right(text, count, kind, seed):
    negatives = WrongCaptions(count=count, kinds={kind: 1.0})
    wrong = negatives(text, Draws(seed))
    assert len(wrong) == count
    assert plain(text) not in map(plain, wrong)
    assert wrong == negatives(text, Draws(seed))


def test_wrong_captions_of_one_text_differ():
    for number in range(50):
        assert len(set(WrongCaptions(count=5)(TEXT, Draws(number)))) == 5


def test_order_lets_two_words_with_meaning_change_places():
    for text in made("order"):
        assert sorted(re.findall(r"\w+", text.lower().replace("an ", "a "))) == sorted(
            re.findall(r"\w+", TEXT.lower().replace("an ", "a "))
        )
        assert len(differing(text)) == 2
        assert text[0].isupper() and text.endswith(".")


@pytest.mark.parametrize(
    ("kind", "places"),
    [("object", {"dog", "cats", "car."}), ("attribute", {"brown", "two", "orange"}), ("relation", {"on", "left"})],
)
def test_one_word_gives_way_to_another_of_its_kind(kind, places):
    seen = set()
    for text in made(kind):
        ((old, new),) = differing(text)
        assert new.strip(".") in TABLES[kind][old.strip(".")]
        seen.add(old)
    assert seen == places


def test_plurals_and_articles_follow():
    assert {text.split()[1] for text in made("object", "two cats")} <= {plural(noun) for noun in TABLES["object"]}
    for text in made("object", "an apple"):
        article, noun = text.split()
        assert article == ("an" if noun[0] in "aeiou" else "a")
    assert [plural(noun) for noun in ("city", "monkey", "box", "man", "knife")] == [
        *("cities", "monkeys", "boxes", "men", "knives")
    ]


def test_digits_are_numbers():
    assert {text.split()[0] for text in made("attribute", "3 ducks")} <= {str(n) for n in range(2, 21)} - {"3"}


def test_a_kind_that_does_not_apply_is_replaced_by_another():
    either = WrongCaptions(kinds={"relation": 1.0, "object": 1.0})
    for number in range(50):
        assert either("brown dog", Draws(number))[0].startswith("brown ")
    assert set(made("relation", "brown dog")) == {"dog brown"}


def test_a_single_word_is_replaced_or_denied():
    assert set(made("object", "dog")) <= set(TABLES["object"]["dog"])
    assert set(made("order", "dog")) == {"no dog"}
    assert set(made("order", "very very")) == {"no very very"}


def test_what_the_text_tower_may_cut_off_stays():
    text = " ".join(["red dog"] * 20)
    for wrong in made("attribute", text, first_words=4):
        assert wrong.split()[4:] == text.split()[4:] and wrong.split()[:4] != text.split()[:4]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, r"negatives\.count: 0 must be at least 1"),
        ({"kinds": {}}, r"negatives\.kinds"),
        ({"kinds": {"order": -1.0, "object": 2.0}}, r"negatives\.kinds"),
        ({"first_words": 1}, r"negatives\.first_words"),
    ],
)
def test_settings_without_sense_are_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        WrongCaptions(**settings)


def test_wrong_captions_that_are_given_come_first():
    given = ["a cat chases two dogs", "no dog", TEXT.upper(), "a dog sleeps", "no dog"]
    negatives = WrongCaptions(count=2, key="json.wrong")
    drawn = {wrong for number in range(40) for wrong in negatives(TEXT, Draws(number), given)}
    assert drawn == {"a cat chases two dogs", "no dog", "a dog sleeps"}  # never the right one, or one twice
    filled = WrongCaptions(count=5)(TEXT, Draws(1), given)
    assert set(filled[:3]) == drawn and len(set(filled)) == 5
    assert WrongCaptions(count=2)(TEXT, Draws(1), ()) == WrongCaptions(count=2)(TEXT, Draws(1))


def test_a_sample_may_bring_wrong_captions_under_a_key(tmp_path):
    captions = Captions(keys={"json.caption": 1.0}, lower=True)
    views = Views((Crop(8),), captions, negatives=WrongCaptions(count=2, key="json.wrong"))

    def texts(**record):
        member = json.dumps({"caption": "A red car", **record}).encode()
        path = write_tar(tmp_path / "x.tar", [("a.json", member)])
        sample = SampleSet({"set": Card(name="set", shards=path.name, folder=tmp_path)})[0]
        return [caption.text for caption in views.texts(sample, 0, 0, 0)]

    right, *wrong = texts(wrong=["A blue car", "A red dog"])
    assert right == "a red car" and set(wrong) == {"a blue car", "a red dog"}
    assert "a blue car" in texts(wrong="A blue car")
    assert texts() == texts(wrong=[]) and len(set(texts())) == 3
    with pytest.raises(BadSampleError, match="neither a text nor a list"):
        texts(wrong=[3])


MINED = {0: ["a blue car, toy", "A RED CAR, vehicle", "two dogs, animal"], 1: ["a red dog, animal"], 2: []}


def mined_at(folder, count=3):
    """Write what was mined for three samples."""
    texts = [text for found in MINED.values() for text in found]
    numbers = [[texts.index(text) for text in found] + [-1] * (3 - len(found)) for found in MINED.values()]
    write_mined(folder, np.array(numbers, dtype=np.int32)[:, :count], texts, {"fingerprint": "f"})
    return folder


def views_of_mined(folder, **settings):
    captions = Captions(keys={"txt": 1.0}, separator=",", lower=True, **settings)
    negatives = WrongCaptions(count=2, mined=str(folder))
    return Views((Crop(8),), captions, negatives=negatives, mined=MinedCaptions(folder))


def three_cars(folder):
    members = [(f"{k}.txt", b"a red car, vehicle") for k in range(3)]
    path = write_tar(folder / "x.tar", members)
    return SampleSet({"set": Card(name="set", shards=path.name, folder=folder)})


def test_mined_captions_are_worded_as_drawn_ones_and_those_that_are_right_are_left_out(tmp_path):
    samples, wording = three_cars(tmp_path), {"first": 1.0, "one": 1.0}
    views = views_of_mined(mined_at(tmp_path / "m"), wording=wording, identity="first", templates=("see {}",))
    shown = [[each.text for each in views.texts(samples[0], 0, epoch, 0)] for epoch in range(60)]
    bare = [{text.removeprefix("see ") for text in texts} for _, *texts in shown]
    assert all(each == {"a blue car", "two dogs"} for each in bare)  # `one` alone would say "animal" of a dog
    assert len({text for _, *texts in shown for text in texts}) == 4  # with the sentence and without
    assert shown == [[each.text for each in views.texts(samples[0], 0, epoch, 0)] for epoch in range(60)]


def test_rules_make_what_was_not_mined(tmp_path):
    samples, views = three_cars(tmp_path), views_of_mined(mined_at(tmp_path / "m"))
    right, *wrong = (caption.text for caption in views.texts(samples[1], 0, 0, 1))
    assert "a red dog, animal" in wrong and len({right, *wrong}) == 3
    by_rules = replace(views, mined=None).texts(samples[2], 0, 0, 2)
    assert views.texts(samples[2], 0, 0, 2) == by_rules


def test_a_folder_of_mined_captions_goes_from_process_to_process(tmp_path):
    mined = pickle.loads(pickle.dumps(MinedCaptions(mined_at(tmp_path))))
    assert [mined.of(number) for number in range(3)] == list(MINED.values())
    assert mined.count == 3


def test_mined_captions_that_do_not_fit_are_refused_by_name(tmp_path):
    samples, folder = three_cars(tmp_path), tmp_path / "m"
    with pytest.raises(RecipeError, match=r"negatives\.mined: .*holds no mined captions .*; vlp mine EMBEDDINGS CARD"):
        read_mined(folder, samples, 2)
    with pytest.raises(RecipeError, match=r"negatives\.mined: .* was mined for other samples"):
        read_mined(mined_at(folder), samples, 2)
    about = json.loads((folder / "mined.json").read_text())
    (folder / "mined.json").write_text(json.dumps(about | {"fingerprint": samples.cards["set"].fingerprint}))
    assert read_mined(folder, samples, 3).of(1) == MINED[1]
    with pytest.raises(RecipeError, match=r"has 3 captions .* is 4: mine more \(vlp mine --count 4\), or lower it"):
        read_mined(folder, samples, 4)
    with pytest.raises(RecipeError, match=r"negatives: key and mined both say"):
        WrongCaptions(key="json.wrong", mined="x")
    (folder / "captions.jsonl").write_bytes((folder / "captions.jsonl").read_bytes()[:-1])
    with pytest.raises(RecipeError, match=r"not the captions that mined\.json tells of"):
        MinedCaptions(folder)
