"""Sequence lengths: which a step has, that images have it, and that a run goes on as it was."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.strategies.runs import STEADY, assert_resumes, losses_of, recipe_of
from tests.strategies.test_small_first import batch_of
from tests.towers.tiny import VIT, tiny_model
from vlp.ground.types import RecipeError
from vlp.strategies.sequence_lengths import SequenceLengths
from vlp.train import train

TOWER = (STEADY, "model.image.image_size=48")


def sides(strategy, steps=range(300)):
    """Return the sides that images of 32 px, of 4 x 4 patches, have in each step."""
    strategy.start(tiny_model(VIT))
    found = []
    for step in steps:
        strategy.before_step(step, frozenset())
        found.append(strategy.before_forward(batch_of(32)).images.shape[2])
    return found


def test_lengths_are_drawn_alike_and_follow_from_seed_and_step():
    found = sides(SequenceLengths(lengths=(1, 4, 16)))
    assert Counter(found).keys() == {8, 16, 32}
    assert all(70 < count < 130 for count in Counter(found).values())
    assert sides(SequenceLengths(lengths=(1, 4, 16)), range(299, 200, -1)) == found[:200:-1]
    assert sides(SequenceLengths(lengths=(1, 4, 16), seed=1)) != found


def test_a_run_resumes_bit_for_bit_and_micro_batches_see_one_length(tmp_path):
    lengths = "strategies.sequence_lengths={lengths: [1, 9]}"
    assert_resumes(recipe_of(tmp_path, *TOWER, lengths, "train.micro_batches=2"))
    (run,) = (tmp_path / "runs").iterdir()
    whole = losses_of(train(recipe_of(tmp_path, *TOWER, lengths, "name=whole")))
    for one, other in zip(whole, losses_of(run), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ((*TOWER, "strategies.sequence_lengths={lengths: [4, 16]}"), "3 x 3 patches"),
        ((*TOWER, "strategies.sequence_lengths={lengths: [4, 8]}"), r"\[4, 8\] must be squares"),
        (
            ("model.image={type: timm, name: test_vit_relpos}", "strategies.sequence_lengths={lengths: [4]}"),
            "no position embeddings",
        ),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, overrides, complaint):
    with pytest.raises(RecipeError, match=complaint):
        train(recipe_of(tmp_path, *overrides))
