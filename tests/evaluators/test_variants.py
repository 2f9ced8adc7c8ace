"""Several tasks in one file: how they are named, what they change, and what is refused."""

from __future__ import annotations

import pytest

from vlp.evaluators.base import load_task
from vlp.evaluators.variants import read_task, task_names
from vlp.ground.types import RecipeError

BASE = "version: 1\nevaluator: retrieval\nmain_metric: mean_recall@1\n"
LANGUAGES = BASE + 'data: {root: "sets/x-{variant}", samples: 9}\nvariants: [de, fr, no]\n'
READINGS = (
    BASE
    + """\
data: {root: here, samples: 9}
variants:
  few: {random: 0.5, data: {samples: 3}}
  any: {data: {samples: }}
"""
)


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Write a task file into the eval/ of the working directory."""
    (tmp_path / "eval").mkdir()
    monkeypatch.chdir(tmp_path)

    def write(name, text):
        path = tmp_path / "eval" / f"{name}.yaml"
        path.write_text(text)
        return path

    return write


def test_a_variant_puts_its_name_where_the_file_leaves_a_place(put):
    put("talk", LANGUAGES)
    task = load_task("talk-no")  # a word, not a boolean
    assert (task.name, task.data.root, task.data.samples) == ("talk-no", "sets/x-no", 9)
    assert [name for name in task_names() if name.startswith("talk")] == ["talk-de", "talk-fr", "talk-no"]


def test_a_variant_changes_what_it_names_and_keeps_the_rest(put):
    put("look", READINGS)
    few, every, base = load_task("look-few"), load_task("look-any"), load_task("look")
    assert (few.random, few.data.samples, few.data.root) == (0.5, 3, "here")
    assert (every.random, every.data.samples, every.data.root) == (None, None, "here")
    assert (base.random, base.data.samples) == (None, 9)
    assert [name for name in task_names() if name.startswith("look")] == ["look", "look-few", "look-any"]


def test_a_file_of_variants_alone_is_no_task(put):
    path = put("talk", LANGUAGES)
    for name in ("talk", str(path)):
        with pytest.raises(RecipeError, match=r"no task of its own; name one of talk-de, talk-fr, talk-no"):
            load_task(name)


def test_the_longest_name_wins(put):
    put("talk", LANGUAGES)
    put("talk-fr", BASE + "data: {root: other}\n")
    put("talk-big", LANGUAGES)
    assert load_task("talk-fr").data.root == "other"
    assert load_task("talk-big-fr").name == "talk-big-fr"


def test_a_file_that_is_written_anew_is_read_anew(put):
    put("look", READINGS)
    assert load_task("look-few").data.samples == 3
    put("look", READINGS.replace("samples: 3", "samples: 4 "))
    assert load_task("look-few").data.samples == 4


def test_reading_a_variant_leaves_the_file_as_it_was(put):
    put("look", READINGS)
    read_task("look-few")[1]["data"]["samples"] = 100
    assert load_task("look-few").data.samples == 3


@pytest.mark.parametrize(
    "variants, says", [("de", "a list of names"), ("[1]", "a list of names"), ("{de: 3}", r"variants\.de")]
)
def test_what_is_no_list_of_variants_is_refused(put, variants, says):
    path = put("odd", BASE + f"data: {{root: here}}\nvariants: {variants}\n")
    with pytest.raises(RecipeError, match=says) as refused:
        load_task("odd-de")
    assert str(path) in str(refused.value)


def test_an_unknown_variant_names_the_nearest_and_what_there_is():
    with pytest.raises(RecipeError, match=r"no task 'crossmodal3600-dee'.*'crossmodal3600-de'.*crossmodal3600-ar"):
        load_task("crossmodal3600-dee")
    with pytest.raises(RecipeError, match="there is no task 'cifar10-de'"):
        load_task("cifar10-de")


def test_a_wrong_key_of_a_variant_is_found(put):
    put("look", READINGS.replace("random", "randon"))
    with pytest.raises(RecipeError, match=r"randon.*did you mean 'random'"):
        load_task("look-few")
