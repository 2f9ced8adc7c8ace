"""Training that mines wrong captions anew: each step draws from its round, whoever takes part and whatever stops."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tests.processes import run_processes
from tests.strategies.runs import STEADY, losses_of, recipe_of
from vlp.data.batches import LocalBatches
from vlp.data.mined_captions import ABOUT, MinedCaptions
from vlp.embeddings.mining_rounds import MINED, MiningRounds
from vlp.ground.types import RecipeError
from vlp.run.subject import find_subject
from vlp.train import train

TERMS = (
    "objective={clip: {}, mann_whitney: {mined: true, temperature: 0.1}, adversarial_ranker: {mined: true, width: 8, "
    "num_negatives: 1, adversarial: 0.5}}"
)
USED = ("strategies={hard_negatives: {}, ema: {decay: 0.5}}", TERMS, STEADY)
ROUNDS = "data.captions.negatives={count: 2, mining: {every: 2, count: 4, below: 0.99}}"


def rounds_of(run):
    return sorted(path.name for path in (run / MINED).iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of three rounds of two steps, with everything it drew."""
    folder = tmp_path_factory.mktemp("whole")
    shown: dict[int, list[tuple[int, str]]] = {}
    part = LocalBatches._collate

    def see(batches, epochs, loaded, budget):
        shown[len(shown)] = [(sample.id, caption.text) for sample in loaded for caption in sample.captions[1:]]
        return part(batches, epochs, loaded, budget)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalBatches, "_collate", see)
        patch.setattr(MiningRounds, "_forget", lambda rounds: None)
        run = train(recipe_of(folder, *USED, ROUNDS, "checkpoint.keep=9"))
    return folder, run, shown


def test_each_step_draws_from_what_was_mined_at_the_beginning_of_its_round(whole):
    _, run, shown = whole
    assert rounds_of(run) == ["step_00000000", "step_00000002", "step_00000004"]
    said = []
    for step in range(6):
        mined = MinedCaptions(run / MINED / f"step_{step // 2 * 2:08d}")
        said.append({number: set(mined.of(number)) for number in range(21)})
        drawn = 0
        for number, text in shown[step]:
            drawn += text in said[step][number]
            assert text in said[step][number] or len(said[step][number]) < 2  # the rules make what is left
        assert drawn
    assert said[0] == said[1] != said[2] == said[3] != said[4]


def test_rounds_follow_from_the_weights_that_the_run_evaluates(whole):
    _, run, _ = whole
    about = json.loads((run / MINED / "step_00000004" / ABOUT).read_text())
    assert (about["weights"], about["count"], about["below"], about["images"]) == ("ema", 4, 0.99, 21)
    first = json.loads((run / MINED / "step_00000000" / ABOUT).read_text())
    assert first["checksum"] != about["checksum"] and first["fingerprint"] == about["fingerprint"]


@pytest.mark.parametrize("kept", ["inside", "between", "before"])
def test_a_stop_inside_or_between_rounds_leaves_no_trace(whole, tmp_path, kept):
    folder, run, _ = whole
    again = tmp_path / "runs" / "tiny"
    shutil.copytree(run, again)
    last = {"inside": 3, "between": 2, "before": -1}[kept]
    for path in (again / "checkpoints").iterdir():
        if int(path.name.removeprefix("step_")) > last:
            shutil.rmtree(path)
    for name in ("step_00000004", *(("step_00000002",) if kept != "inside" else ())):
        shutil.rmtree(again / MINED / name)
    shutil.rmtree(again / MINED / "step_00000000") if kept == "before" else None
    moved = recipe_of(folder, *USED, ROUNDS, "checkpoint.keep=9", f"runs={tmp_path / 'runs'}")
    train(moved, resume=True, allow_changes=True)
    assert losses_of(again)[-6:] == losses_of(run)
    for ours, theirs in zip(*(find_subject(str(each)).tensors() for each in (again, run)), strict=True):
        assert torch.equal(ours, theirs)
    assert rounds_of(again)[-2:] == rounds_of(run)[-2:]
    for path in (again / MINED).rglob("*.*"):
        assert (run / path.relative_to(again)).read_bytes() == path.read_bytes()


def _train(_rank, _world_size, folder, name):
    return str(train(recipe_of(folder, *USED, ROUNDS, f"name={name}")))


@pytest.mark.processes
def test_two_processes_equal_one(whole):
    folder, run, _ = whole
    two = run_processes(_train, 2, folder, "two")
    other = run.parent / "two"
    assert two == [str(other)] * 2
    for ours, theirs in zip(losses_of(other), losses_of(run), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)  # float32, sums in another order
    for name in rounds_of(other):
        one, both = (MinedCaptions(each / MINED / name) for each in (run, other))
        assert [both.of(number) for number in range(21)] == [one.of(number) for number in range(21)]


def test_rounds_that_no_checkpoint_lies_in_are_removed_and_those_that_one_needs_are_missed(tmp_path):
    recipe = recipe_of(tmp_path, *USED, ROUNDS, "checkpoint.keep=1")
    run = train(recipe)
    assert rounds_of(run) == ["step_00000004"]
    shutil.rmtree(run / MINED)
    longer = recipe_of(tmp_path, *USED, ROUNDS, "checkpoint.keep=1", "train.steps=7")
    train(longer, resume=True, allow_changes=True)  # a round begins at step 6, so that nothing is missed
    shutil.rmtree(run / MINED)
    longer = recipe_of(tmp_path, *USED, ROUNDS, "checkpoint.keep=1", "train.steps=8")
    with pytest.raises(RecipeError, match=r"step_00000006: is not there.*step 7 draws from.*after step 6 away"):
        train(longer, resume=True, allow_changes=True)


def test_a_run_that_is_to_mine_at_other_steps_is_told_how(tmp_path):
    every = "data.captions.negatives.mining.every="
    train(recipe_of(tmp_path, *USED, ROUNDS, f"{every}4", "train.steps=3"))
    with pytest.raises(RecipeError, match=r"step_00000002: is not there.*negatives\.mining\.every to a divisor of 3"):
        train(recipe_of(tmp_path, *USED, ROUNDS, "train.steps=6"), resume=True, allow_changes=True)
    run = train(recipe_of(tmp_path, *USED, ROUNDS, f"{every}3", "train.steps=6"), resume=True, allow_changes=True)
    assert rounds_of(run) == ["step_00000003"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data.captions.negatives.key=json.x",), r"negatives\.mining: it finds what .*negatives\.key would name"),
        (("data.captions.negatives.mined=x",), r"negatives\.mining: it finds what .*negatives\.mined would name"),
        (("data.captions.negatives.count=5",), r"mining\.count: 4 captions are fewer than .*negatives\.count=5"),
        (("data.train.tiny.repeat=2",), r"negatives\.mining: captions are mined in one card"),
        (("data.captions.negatives.mining.every=0",), r"mining\.every: 0 must be at least 1"),
        (("data.captions.negatives.mining.below=0",), r"mining\.below: 0\.0 must be a share"),
        (("strategies.hard_negatives=null",), r"data\.captions\.negatives: nothing takes the wrong captions"),
    ],
)
def test_what_cannot_be_mined_is_refused_before_anything_is_read(tmp_path, overrides, message):
    with pytest.raises(RecipeError, match=message):
        train(recipe_of(tmp_path, *USED, ROUNDS, *overrides))
