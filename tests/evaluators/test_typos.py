"""Misspelt captions: slips of the declared kinds and number, the same wherever they are made."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tests.evaluators.sets import HashEncoder, opened, task_on, write_captions, write_classes
from vlp.evaluators.dataset import DataSource, open_set
from vlp.evaluators.shared import SharedEncoder
from vlp.evaluators.tasks import run_task
from vlp.evaluators.typos import NEIGHBOURS, Typos, misspell
from vlp.ground.types import RecipeError

TEXT = "The quick brown fox jumps over the lazy dog near 12 old houses"


def slips(rate: float, kinds: tuple[str, ...] = ("swap", "drop", "neighbour"), text: str = TEXT, seed: int = 0) -> str:
    (found,) = misspell([text], Typos(rate=rate, kinds=kinds, seed=seed), "s1")
    return found


def test_keys_beside_a_key_are_those_of_an_american_keyboard():
    assert NEIGHBOURS["g"] == "bfhtvy"
    assert NEIGHBOURS["q"] == "aw"
    assert NEIGHBOURS["p"] == "lo"
    assert all(key in NEIGHBOURS[other] for key, others in NEIGHBOURS.items() for other in others)


def test_no_rate_no_slip():
    assert slips(0.0) == TEXT


def test_neighbours_keep_length_case_and_what_is_no_letter():
    found = slips(1.0, ("neighbour",))
    assert len(found) == len(TEXT)
    for letter, other in zip(TEXT, found, strict=True):
        assert other.lower() in NEIGHBOURS[letter.lower()] if letter.isalpha() else other == letter
        assert other.isupper() == letter.isupper()


def test_swaps_keep_the_letters_of_every_word():
    found = slips(0.5, ("swap",))
    assert found != TEXT
    assert [sorted(word) for word in found.split()] == [sorted(word) for word in TEXT.split()]


def test_a_swap_at_every_letter_swaps_pairs():
    assert slips(1.0, ("swap",), "abcde fg h") == "badce gf h"


def test_drops_leave_first_letters_so_that_no_word_is_lost():
    found = slips(1.0, ("drop",), "a photo of I")
    assert found == "a p o I"
    assert len(slips(0.3, ("drop",)).split()) == len(TEXT.split())


def test_the_share_of_slips_is_the_rate():
    text = "lorem ipsum dolor sit amet " * 400
    found = slips(0.1, ("neighbour",), text)
    letters = [pair for pair in zip(text, found, strict=True) if pair[0].isalpha()]
    assert sum(a != b for a, b in letters) / len(letters) == pytest.approx(0.1, abs=0.01)


def test_a_slip_at_one_rate_is_there_at_every_higher_rate():
    few, many = slips(0.1, ("neighbour",)), slips(0.4, ("neighbour",))
    changed = [(a, b) for text, a, b in zip(TEXT, few, many, strict=True) if a != text]
    assert changed
    assert all(a == b for a, b in changed)
    assert few != many


def test_seed_sample_and_number_of_the_caption_decide():
    first = misspell([TEXT, TEXT], Typos(rate=0.3), "s1")
    assert first == misspell([TEXT, TEXT], Typos(rate=0.3), "s1")
    assert len({*first, *misspell([TEXT], Typos(rate=0.3), "s2"), slips(0.3, seed=1)}) == 4


def test_letters_that_the_keyboard_lacks_are_swapped_and_dropped_alone():
    text = "для щий"
    assert slips(1.0, ("neighbour",), text) == text
    assert slips(1.0, ("swap",), text) == "лдя щий"[:4] + "ищй"


@pytest.mark.parametrize("settings", [{"rate": 1.5}, {"rate": 0.1, "kinds": []}, {"rate": 0.1, "kinds": ["add"]}])
def test_a_wrong_setting_is_named(settings):
    with pytest.raises(ValidationError, match=[*settings][-1]):
        Typos(**settings)


def test_retrieval_searches_with_misspelt_captions_and_the_same_images(tmp_path):
    root = write_captions(tmp_path / "set", [[f"photo number {i}"] for i in range(40)])
    encoder = HashEncoder()
    shared = SharedEncoder(encoder)
    clean, misspelt = (
        run_task(task_on(root, "retrieval", "mean_recall@1", **data), shared, model="m")
        for data in ({}, {"typos": {"rate": 0.3}})
    )
    assert encoder.num_images == 40
    assert clean["data_changes"] == {}
    assert misspelt["data_changes"] == {"typos": {"rate": 0.3, "kinds": ["swap", "drop", "neighbour"], "seed": 0}}
    assert clean["data_sha256"] == opened(root).sha256 != misspelt["data_sha256"]
    assert clean["prompts_sha256"] != misspelt["prompts_sha256"]


def test_a_set_without_captions_to_search_with_is_refused(tmp_path):
    root = write_classes(tmp_path / "set")
    source = DataSource(root=str(root), typos=Typos(rate=0.1))
    for opening in (open_set, SharedEncoder(HashEncoder()).open):
        with pytest.raises(RecipeError, match=r"data\.typos: .* is a classification set"):
            opening(source)
