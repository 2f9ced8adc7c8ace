"""A run goes on with the recipe and the data that it began with, or is told what changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.run.test_checkpoint import content
from tests.shards import write_shards, write_tar
from tests.tiny import tiny_recipe
from vlp.curate.index_shards import index_card
from vlp.data import SampleSet
from vlp.data.shards.cards import load_card
from vlp.data.shards.kept import write_kept
from vlp.ground.files import hold
from vlp.ground.types import RecipeError, VlpWarning
from vlp.run import checkpoint
from vlp.run.folder import DATA_LOCK, IN_USE, claim_folder
from vlp.train import train


@pytest.fixture
def shards(tmp_path):
    write_shards(tmp_path / "shards", num_shards=2, samples_per_shard=7)
    return f"{tmp_path}/shards/*.tar"


def claim(recipe, *, resume=True, allow_changes=False):
    """Claim a folder as a start does, up to its first step."""
    samples = SampleSet({label: load_card(source.card) for label, source in recipe.data.train.items()})
    claim_folder(recipe, samples, resume=resume, allow_changes=allow_changes).confirm()


def refused(recipe) -> str:
    before = content(recipe.folder)
    with pytest.raises(RecipeError, match="changed since the run started") as found:
        claim(recipe)
    assert content(recipe.folder) == before
    claim(recipe, allow_changes=True)
    claim(recipe)
    return str(found.value)


def test_the_same_recipe_and_data_change_nothing(tmp_path, shards):
    recipe = tiny_recipe(tmp_path, shards)
    claim(recipe, resume=False)
    before = content(recipe.folder)
    assert sorted(before) == [DATA_LOCK, checkpoint.LOCK]
    claim(recipe)
    claim(recipe, allow_changes=True)
    assert content(recipe.folder) == before
    with pytest.raises(RecipeError, match="holds a run already: continue it with --resume"):
        claim(recipe, resume=False)


def test_nothing_is_written_before_the_claim_is_confirmed(tmp_path, shards):
    recipe = tiny_recipe(tmp_path, shards)
    claim_folder(recipe, SampleSet({"tiny": load_card(str(tmp_path / "card.yaml"))}), resume=True, allow_changes=False)
    assert list(recipe.folder.iterdir()) == []


def test_added_removed_and_replaced_shards_are_named(tmp_path, shards):
    recipe = tiny_recipe(tmp_path, shards)
    claim(recipe)
    write_shards(tmp_path / "more", 3, 7, formats=("png",))
    shutil.copy(tmp_path / "more" / "00002.tar", tmp_path / "shards" / "00002.tar")
    assert "\n  data.tiny: 2 shards -> 3; shard 00002.tar: added\n" in refused(recipe)
    shutil.copy(tmp_path / "more" / "00001.tar", tmp_path / "shards" / "00001.tar")
    assert "\n  data.tiny: shard 00001.tar: replaced\n" in refused(recipe)
    (tmp_path / "shards" / "00000.tar").unlink()
    assert "\n  data.tiny: 3 shards -> 2; shard 00000.tar: removed\n" in refused(recipe)


def test_a_shard_of_the_same_size_and_time_of_change_is_told_from_another(tmp_path, shards):
    recipe = tiny_recipe(tmp_path, shards)
    claim(recipe)
    path = tmp_path / "shards" / "00000.tar"
    size = path.stat().st_size
    for number in range(100, 200):
        members = [(f"{number + place:06d}.{kind}", data) for place in range(7) for kind, data in SAMPLE]
        write_tar(path, members)
        if path.stat().st_size == size:
            break
    os.truncate(path, size)
    assert "shard 00000.tar: replaced" in refused(recipe)


SAMPLE = [("jpg", b"x" * 900), ("txt", b"text"), ("json", b"{}")]


@pytest.mark.parametrize("checksums", [False, True])
def test_a_copy_of_the_data_is_the_same_data(tmp_path, shards, checksums):
    """Jobs copy shards to the disk of their machine at each start, with new times and under a new path."""
    recipe = tiny_recipe(tmp_path, shards)
    if checksums:
        index_card(load_card(str(tmp_path / "card.yaml")), workers=1)
    claim(recipe)
    shutil.copytree(tmp_path / "shards", tmp_path / "elsewhere" / "shards", copy_function=shutil.copyfile)
    shutil.rmtree(tmp_path / "shards")
    (tmp_path / "card.yaml").write_text(f"name: tiny\nshards: {tmp_path}/elsewhere/shards/*.tar\n")
    claim(recipe)


def test_an_index_that_was_written_meanwhile_is_no_change(tmp_path, shards):
    recipe = tiny_recipe(tmp_path, shards)
    claim(recipe)
    index_card(load_card(str(tmp_path / "card.yaml")), workers=1)
    claim(recipe)
    claim(recipe, allow_changes=True)
    write_shards(tmp_path / "shards", 2, 7, formats=("png",))
    index_card(load_card(str(tmp_path / "card.yaml")), workers=1)
    assert "shard 00000.tar, 00001.tar: replaced" in refused(recipe)


def test_a_shard_that_lost_its_index_and_was_replaced_is_said(tmp_path, shards):
    recipe = tiny_recipe(tmp_path, shards)
    index_card(load_card(str(tmp_path / "card.yaml")), workers=1)
    claim(recipe)
    for index in (tmp_path / "shards").glob("*.index"):
        index.unlink()
    (tmp_path / "tiny.shards.json").unlink()
    claim(recipe)
    path = tmp_path / "shards" / "00001.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    assert "shard 00001.tar: replaced" in refused(recipe)


def test_another_list_of_kept_samples_is_said(tmp_path, shards):
    recipe = tiny_recipe(tmp_path, shards)
    card = tmp_path / "card.yaml"
    write_kept(tmp_path / "list.npz", 14, np.arange(9))
    card.write_text(card.read_text() + "keep: list.npz\n")
    claim(recipe)
    write_kept(tmp_path / "list.npz", 14, np.arange(1, 10))
    assert "\n  data.tiny: another list of kept samples\n" in refused(recipe)


def test_another_place_of_captions_is_said(tmp_path, shards):
    recipe = tiny_recipe(tmp_path, shards)
    claim(recipe)
    card = tmp_path / "card.yaml"
    card.write_text(card.read_text() + "captions: {json.caption: 1.0}\n")
    assert "data.tiny: captions {'txt': 1.0} -> {'json.caption': 1.0}" in refused(recipe)


def test_another_list_of_synonyms_is_said(tmp_path, shards):
    words = tmp_path / "words.tsv"
    words.write_text("dog\thound\n")
    augment = f"data.captions.augment={{synonyms: 0.5, synonym_file: {words}}}"
    recipe = tiny_recipe(tmp_path, shards, augment)
    claim(recipe)
    words.write_text("dog\tpuppy\n")
    assert f"\n  data.captions: {words}: changed\n" in refused(recipe)


@pytest.mark.parametrize("name", ["STOP_WORDS", "ATTRIBUTES", "RELATIONS", "OBJECTS"])
def test_other_built_in_words_are_said_where_they_are_used(tmp_path, shards, monkeypatch, name):
    from vlp.data.texts import word_lists

    used, unused = tiny_recipe(tmp_path, shards, "data.captions.negatives={}"), tiny_recipe(tmp_path, shards, "name=un")
    claim(used)
    claim(unused)
    before = getattr(word_lists, name)
    added = before | {"ladle"} if isinstance(before, frozenset | set) else (*before, ("spoon", "ladle"))
    monkeypatch.setattr(word_lists, name, added)
    assert "\n  data.captions: built-in lists: changed\n" in refused(used)
    claim(unused)


def test_settings_and_data_are_listed_together(tmp_path, shards):
    claim(tiny_recipe(tmp_path, shards))
    (tmp_path / "shards" / "00001.tar").unlink()
    said = refused(tiny_recipe(tmp_path, shards, "seed=1"))
    assert "\n  seed: 0 -> 1\n  data.tiny: 2 shards -> 1; shard 00001.tar: removed\n" in said


@pytest.mark.parametrize("harm", ["missing", "torn", "foreign"])
def test_without_the_list_of_data_a_change_is_still_seen(tmp_path, shards, harm):
    recipe = tiny_recipe(tmp_path, shards)
    claim(recipe)
    path = recipe.folder / DATA_LOCK
    told = path.read_text()
    if harm == "missing":
        path.unlink()
    else:
        path.write_text(told[:50] if harm == "torn" else json.dumps({"tiny": [1, 2]}))
    claim(recipe)
    (tmp_path / "shards" / "00001.tar").unlink()
    assert f"data.tiny: changed ({DATA_LOCK} is missing or damaged, so how is not known)" in refused(recipe)


def test_checkpoints_without_a_lock_are_refused(tmp_path, shards):
    recipe = tiny_recipe(tmp_path, shards)
    claim(recipe)
    (recipe.folder / "checkpoints" / "step_00000003").mkdir(parents=True)
    (recipe.folder / checkpoint.LOCK).unlink()
    for resume in (True, False):
        with pytest.raises(RecipeError, match=r"holds checkpoints, but recipe.lock.yaml is missing.*name="):
            claim(recipe, resume=resume, allow_changes=resume)
    assert not (recipe.folder / checkpoint.LOCK).exists()


@pytest.mark.parametrize("harm", [b"", b"data: [", b"name: tiny\x00", b"name: caf\xe9", b"seed: " + b"9" * 5000])
def test_a_lock_that_cannot_be_read_is_named(tmp_path, shards, harm):
    recipe = tiny_recipe(tmp_path, shards)
    claim(recipe)
    (recipe.folder / checkpoint.LOCK).write_bytes(harm)
    with pytest.raises(RecipeError, match=r"recipe\.lock\.yaml"):
        claim(recipe)


def test_a_lock_that_was_changed_is_refused_until_its_seal_is_taken_away(tmp_path, shards):
    recipe = tiny_recipe(tmp_path, shards)
    claim(recipe)
    path = recipe.folder / checkpoint.LOCK
    text = path.read_text().replace("machine: ", "machine: my ")
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"changed since it was written.*last line"):
        claim(recipe)
    path.write_text("".join(text.splitlines(keepends=True)[:-1]))
    claim(recipe)


def test_a_folder_that_cannot_be_made_is_said(tmp_path, shards):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match=r"runs, name: .*file/runs/tiny cannot be made.*runs=FOLDER"):
        claim(tiny_recipe(tmp_path, shards, f"runs={tmp_path}/file/runs"))


@pytest.mark.parametrize("name", [".", "..", ".hidden", "a/b"])
def test_a_name_is_the_name_of_one_folder(tmp_path, shards, name):
    with pytest.raises(RecipeError, match="name: "):
        tiny_recipe(tmp_path, shards, f"name={name}")


@pytest.mark.parametrize("label", ["model", "a/b"])
def test_a_strategy_whose_weights_would_take_the_place_of_others_is_refused(tmp_path, shards, label):
    with pytest.raises(RecipeError, match=f"strategies.{label}: is no label"):
        tiny_recipe(tmp_path, shards, f"strategies.{label}={{type: ema}}")


def test_a_vanished_folder_is_claimed_again(tmp_path, shards):
    recipe = tiny_recipe(tmp_path, shards)
    samples = SampleSet({"tiny": load_card(str(tmp_path / "card.yaml"))})
    own = claim_folder(recipe, samples, resume=True, allow_changes=False)
    own.hold()
    own.confirm()
    before = content(recipe.folder)
    own.renew()
    shutil.rmtree(Path(recipe.runs))
    with pytest.warns(VlpWarning, match="vanished"):
        own.renew()
    assert content(recipe.folder) == before


HOLD = """
import sys
from pathlib import Path
from vlp.ground.files import hold
print(hold(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def test_a_folder_that_another_process_trains_in_is_refused_until_that_ends(tmp_path, shards, monkeypatch):
    recipe = tiny_recipe(tmp_path, shards, "train.batch_size=4")
    recipe.folder.mkdir(parents=True)
    command = [sys.executable, "-c", HOLD, str(recipe.folder / IN_USE)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "True\n"
        monkeypatch.setattr("vlp.run.folder.PATIENCE", 0.3)
        with pytest.raises(RecipeError, match="another process trains in it"):
            train(recipe)
        assert sorted(content(recipe.folder)) == [IN_USE]
        monkeypatch.setattr("vlp.run.folder.PATIENCE", 60.0)
        threading.Timer(1.0, other.kill).start()  # the system frees what a killed process held
        train(recipe)
        assert subprocess.run(command, input="", capture_output=True, text=True).stdout == "False\n"
    finally:
        other.kill()


def test_a_held_file_that_is_replaced_is_held_again(tmp_path):
    path = tmp_path / IN_USE
    command = [sys.executable, "-c", HOLD, str(path)]
    assert hold(path)
    path.unlink()
    assert subprocess.run(command, input="", capture_output=True, text=True).stdout == "True\n"
    assert hold(path)
    assert subprocess.run(command, input="", capture_output=True, text=True).stdout == "False\n"


def test_where_no_file_can_be_made_a_run_says_so_and_goes_on(tmp_path, shards):
    recipe = tiny_recipe(tmp_path, shards, "train.batch_size=4")
    (recipe.folder / IN_USE).mkdir(parents=True)
    with pytest.warns(VlpWarning, match="a second process could train in it, for it cannot be held"):
        train(recipe)
