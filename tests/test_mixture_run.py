"""A run over mixed sources: it says what it read, resumes bit for bit, and names what is wrong with its shares."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.processes import run_processes
from tests.shards import write_shards
from tests.tiny import tiny_recipe
from vlp.ground.types import RecipeError
from vlp.recipe.compose import load_recipe, lock_text
from vlp.train import train


@pytest.fixture
def mixed(tmp_path):
    """Return a recipe of two sources, the first of which fades in."""
    write_shards(tmp_path / "shards", num_shards=3, samples_per_shard=7)
    write_shards(tmp_path / "others", num_shards=2, samples_per_shard=5)
    (tmp_path / "others.yaml").write_text("name: others\nshards: others/*.tar\n")

    def build(tiny: str, others: str, *overrides: str):
        train_on = f"data.train={{tiny: {{share: {tiny}}}, others: {{card: {tmp_path}/others.yaml, share: {others}}}}}"
        return tiny_recipe(tmp_path, f"{tmp_path}/shards/*.tar", train_on, *overrides)

    return build


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def what_was_computed(run):
    return {line["step"]: (line["loss"], line["source/tiny"], line["source/others"]) for line in lines(run)}


def test_the_log_tells_the_share_of_each_source(mixed):
    run = train(mixed("3.0", "1", "log.every=3"))
    assert [(line["source/tiny"], line["source/others"]) for line in lines(run)] == [(0.75, 0.25)] * 2


def test_a_mixed_run_resumes_bit_for_bit(mixed):
    recipe = mixed("{start: 0, end: 1, last_step: 4}", "1.0", "data.shuffle_shards=2", "data.mixing=sample")
    run = train(recipe)
    expected = what_was_computed(run)
    shutil.rmtree(run / "checkpoints" / "step_00000006")
    (run / "metrics.jsonl").unlink()
    train(recipe, resume=True)
    resumed = what_was_computed(run)
    assert sorted(resumed) == [4, 5, 6]
    assert resumed == {step: expected[step] for step in resumed}
    assert expected[1][1] <= 0.125 < expected[6][1]


def _train_with_another(rank, world_size, path):
    return lines(train(load_recipe(path)))


@pytest.mark.processes
def test_one_process_goes_on_where_two_stopped(mixed, tmp_path):
    off = "model.image.patch_dropout=0.0"  # dropout differs between layouts
    recipe = mixed("2.0", "1.0", "data.shuffle_shards=1", off)
    (tmp_path / "started.yaml").write_text(lock_text(recipe))
    expected, _ = run_processes(_train_with_another, 2, str(tmp_path / "started.yaml"))
    shutil.rmtree(recipe.folder / "checkpoints" / "step_00000006")
    (recipe.folder / "metrics.jsonl").unlink()
    resumed = lines(train(recipe, resume=True))
    assert [line["step"] for line in resumed] == [4, 5, 6]
    for line, other in zip(resumed, expected[3:], strict=True):
        assert line["source/tiny"] == other["source/tiny"]
        for key in ("loss", "loss/clip", "gradient_norm/image"):
            assert line[key] == pytest.approx(other[key], rel=2e-4), key  # float32 sums in another order, 6 steps


def test_one_source_needs_no_shares(tmp_path):
    write_shards(tmp_path / "shards", num_shards=1)
    run = train(tiny_recipe(tmp_path, f"{tmp_path}/shards/*.tar", "train.steps=1"))
    assert not [name for name in lines(run)[0] if name.startswith("source/")]


@pytest.mark.parametrize(
    ("share", "message"),
    [
        ("-1", r"data.train.tiny.share: a share is a number above 0"),
        ("{start: 1, end: 2}", r"data.train.tiny.share: last_step 0 must come after first_step 0"),
        ("null", r"data.train: tiny: no share; give a share to every source or to none"),
    ],
)
def test_mistakes_name_the_key(mixed, share, message):
    with pytest.raises(RecipeError, match=message):
        train(mixed(share, "1.0"))


def test_typos_in_a_share_name_the_nearest_key(mixed):
    with pytest.raises(RecipeError, match=r"data.train.tiny.share.last_stop: unknown key; did you mean 'last_step'"):
        mixed("{start: 1, end: 2, last_stop: 4}", "1.0")


def test_older_recipes_call_a_share_a_weight(mixed):
    """Locks of runs that began before hold the old name, and such a run goes on."""
    older = mixed("3.0", "1.0")
    assert older.data.train["tiny"].share == 3.0
    path = older.folder.parent / "older.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lock_text(older).replace("share: 3.0", "weight: 3.0"))
    assert "weight: 3.0" in path.read_text()
    again = load_recipe(str(path))
    assert again == older
    train(again)
    assert train(older, resume=True) == older.folder


def test_a_source_has_a_share_or_a_weight(mixed, tmp_path):
    recipe = mixed("3.0", "1.0")
    (tmp_path / "both.yaml").write_text(lock_text(recipe).replace("share: 3.0", "share: 3.0\n      weight: 2.0"))
    with pytest.raises(RecipeError, match=r"data\.train\.tiny\.weight: unknown key"):
        load_recipe(str(tmp_path / "both.yaml"))
