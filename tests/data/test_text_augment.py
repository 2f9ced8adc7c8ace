"""Captions in other words: every change does what it says, as often as it says, for the same draws always the same."""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path

import pytest

from vlp.data import TextAugment
from vlp.data.texts.text_augment import SYNONYMS, read_synonyms
from vlp.data.texts.word_lists import STOP_WORDS
from vlp.ground.paths import find_file
from vlp.ground.randomness import Draws
from vlp.ground.types import RecipeError

TEXT = "A brown dog is chasing the cat on the left of an orange car."
WORDS = TEXT.split()


def changed(augment, text=TEXT, count=200):
    return [augment(text, Draws(number)) for number in range(count)]


def test_without_settings_a_text_stays_as_it_is():
    assert set(changed(TextAugment())) == {TEXT}


def test_the_same_draws_give_the_same_text():
    augment = TextAugment(drop_stop_words=0.5, synonyms=0.3, swap=0.3, delete=0.3)
    assert changed(augment) == changed(augment)
    assert len(set(changed(augment))) > 20


def test_function_words_go_and_words_of_place_stay():
    assert set(changed(TextAugment(drop_stop_words=1.0))) == {"brown dog chasing cat on left orange car."}
    assert changed(TextAugment(drop_stop_words=0.8)).count(TEXT) == pytest.approx(40, abs=20)


def test_a_text_of_function_words_alone_stays():
    assert set(changed(TextAugment(drop_stop_words=1.0), "The who")) == {"The who"}


def test_what_is_visible_is_no_function_word():
    visible = {"on", "under", "above", "left", "right", "behind", "front", "top", "side", "fire", "two", "red", "man"}
    assert not STOP_WORDS & visible


def test_swapped_texts_have_the_same_words_in_another_order():
    for text in changed(TextAugment(swap=1.0)):
        assert sorted(text.split()) == sorted(WORDS)
        assert sum(a != b for a, b in zip(text.split(), WORDS, strict=True)) in (0, 2)  # "the" may meet "the"
    assert set(changed(TextAugment(swap=1.0), "one two")) == {"two one"}
    assert set(changed(TextAugment(swap=1.0), "one")) == {"one"}


def test_deletion_leaves_the_rest_in_order():
    kept = [text.split() for text in changed(TextAugment(delete=1.0, share=0.3))]
    for words in kept:
        rest = iter(WORDS)
        assert all(word in rest for word in words)
    assert sum(map(len, kept)) / len(kept) / len(WORDS) == pytest.approx(0.7, abs=0.05)
    assert set(changed(TextAugment(delete=1.0, share=1.0), "red car")) == {"red", "car"}


def test_synonyms_keep_capitals_punctuation_and_articles(tmp_path):
    file = tmp_path / "x.tsv"
    file.write_text("couch\tsofa\tottoman\n\ndog\thound\n", encoding="utf-8-sig")
    augment = TextAugment(synonyms=1.0, share=1.0, synonym_file=str(file))
    assert set(changed(augment, "Couch, a couch!")) == {
        f"{one}, {other}!" for one in ("Sofa", "Ottoman") for other in ("a sofa", "an ottoman")
    }
    assert set(changed(augment, "cars")) == {"cars"}
    few = TextAugment(synonyms=1.0, share=0.1, synonym_file=str(file))
    assert set(changed(few, "dog dog")) == {"hound dog", "dog hound"}


def test_at_most_one_change_is_made_as_often_as_asked(tmp_path):
    file = tmp_path / "x.tsv"
    file.write_text("dog\thound\n")
    augment = TextAugment(synonyms=0.3, swap=0.3, delete=0.3, share=0.5, synonym_file=str(file))
    counts = Counter(changed(augment, "dog", 2000))
    assert set(counts) == {"dog", "hound"} and counts["hound"] == pytest.approx(600, abs=80)
    kinds = Counter(len(text.split()) for text in changed(TextAugment(delete=0.25, share=1.0), "red car", 2000))
    assert kinds[1] == pytest.approx(500, abs=80)


def test_the_shipped_list_is_plain_and_usual():
    synonyms = read_synonyms(find_file("data", SYNONYMS))
    assert len(synonyms) > 5000
    assert "sofa" in synonyms["couch"] and "auto" in synonyms["car"]
    assert all(word not in others and word.islower() for word, others in synonyms.items())
    assert find_file("data", "words/LICENSE.txt").is_file()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"swap": 1.5}, r"augment\.swap: 1\.5 is no probability"),
        ({"swap": 0.6, "delete": 0.6}, r"cannot add up to 1\.2"),
        ({"delete": 0.5, "share": 0.0}, r"augment\.share"),
        ({"synonym_file": "mine.tsv"}, "synonym_file has no effect without"),
        ({"synonyms": 0.5, "synonym_file": "mine.tsv"}, "no file 'mine.tsv'"),
    ],
)
def test_settings_without_sense_are_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        TextAugment(**settings)


@pytest.mark.parametrize("line", ["lonely", "word\t", "\tother"])
def test_a_line_without_synonyms_is_named(tmp_path, line):
    file = tmp_path / "x.tsv"
    file.write_text(f"dog\thound\n{line}\n")
    with pytest.raises(RecipeError, match=r"x\.tsv, line 2: a word and its synonyms"):
        TextAugment(synonyms=1.0, synonym_file=str(file))


def test_the_list_is_made_of_the_most_frequent_sense(tmp_path):
    lines = [
        f"{text}  \n" for text in ("00000000 06 n 03 car 0 auto 0 Benz 0 000 | x", "06 n 02 car 0 railcar 0 000 | y")
    ]
    lines[1] = f"{len(lines[0]):08d} {lines[1]}"
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"index.{part}").write_text("  1 licence  \n")
        (tmp_path / f"data.{part}").write_text("")
    (tmp_path / "data.noun").write_text("".join(lines))
    (tmp_path / "index.noun").write_text(
        f"  1 licence  \nauto n 1 0 1 1 00000000  \ncar n 2 0 2 2 00000000 {len(lines[0]):08d}  \n"
    )
    make = runpy.run_path(str(Path(__file__).parents[2] / "data" / "prepare" / "synonyms.py"))["synonyms_of"]
    for counts, expected in (("71 2", ["auto"]), ("2 71", ["railcar"])):
        first, second = counts.split()
        (tmp_path / "cntlist.rev").write_text(
            f"car%1:06:00:: 1 {first}\ncar%1:06:01:: 2 {second}\na.m.%4:02:00:: 1 4\nauto%1:06:00:: 1 1\n"
        )
        assert make(tmp_path) == {"auto": ["car"], "car": expected}
