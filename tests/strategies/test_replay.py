"""Replayed samples are those of the named sources, in any piece of a batch, and the run resumes."""

from __future__ import annotations

import pytest

from tests.shards import write_shards
from tests.strategies.runs import STEADY, assert_resumes, losses_of, recipe_of
from vlp.ground.types import RecipeError
from vlp.train import train

USED = "strategies={dual_teacher: {decay: 1.0, warmup: false}, replay: {sources: [earlier]}}"
TERMS = "objective={teacher_contrast: {replayed: true}, clip: {}}"


def mixed(folder, *overrides):
    """Return a recipe over two sources."""
    write_shards(folder / "earlier", num_shards=1, samples_per_shard=9)
    (folder / "earlier.yaml").write_text(f"name: earlier\nshards: {folder / 'earlier'}/*.tar\n")
    train_on = f"data.train={{tiny: {{share: 1}}, earlier: {{card: {folder / 'earlier.yaml'}, share: 1}}}}"
    return recipe_of(folder, train_on, "evaluation.weights=model", "train.batch_size=8", *overrides)


def test_resume_equals_no_interruption(tmp_path):
    assert_resumes(mixed(tmp_path, USED, TERMS))


def test_micro_batches_train_alike(tmp_path):
    losses = []
    for pieces in (1, 2):
        (tmp_path / str(pieces)).mkdir()
        recipe = mixed(tmp_path / str(pieces), USED, TERMS, STEADY, f"train.micro_batches={pieces}", "train.steps=3")
        losses.append(losses_of(train(recipe)))
    for one, two in zip(*losses, strict=True):
        assert two == pytest.approx(one, rel=1e-3, abs=1e-5)  # float32, Adam from its first step


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            (TERMS, "strategies={dual_teacher: {}}"),
            "needs to know which samples are replayed",
        ),
        ((USED.replace("earlier", "past"), TERMS), "strategies.replay.sources: 'past' is no label of data.train"),
        (("strategies={replay: {sources: []}}",), "strategies.replay: sources: name at least one"),
    ],
)
def test_half_of_a_setup_is_refused(tmp_path, overrides, message):
    with pytest.raises(RecipeError, match=message):
        train(mixed(tmp_path, *overrides))
