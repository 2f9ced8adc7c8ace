"""WinoGAViL by DataComp's protocol: argsort, the last of it, and scikit-learn's Jaccard index."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from tests.evaluators.kinds import TableEncoder, check_intervals, check_samples, values_of, write_set
from tests.evaluators.sets import HashEncoder, opened, write_captions
from vlp.evaluators.association import Association, pick, prompt_of
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import RecipeError


def by_datacomp(scores, labels):
    order = np.argsort(scores, kind="stable")[-labels.sum() :]
    return jaccard_score(labels, np.isin(np.arange(len(labels)), order))


@pytest.mark.parametrize("coarse", [False, True])
def test_equals_datacomps_protocol(coarse):
    random = np.random.default_rng(0)
    sizes = random.choice([5, 6, 10, 12], size=60)
    held = np.arange(12) < sizes[:, None]
    scores = random.normal(size=(60, 12)).round(0 if coarse else 9)
    labels = (random.random((60, 12)) < 0.4) & held
    labels[:, 0] |= ~labels.any(axis=1)
    evaluation = pick(
        torch.where(torch.from_numpy(held), torch.from_numpy(scores), -torch.inf),
        torch.from_numpy(labels),
        torch.from_numpy(held),
    )
    by_hand = np.array([by_datacomp(scores[i, : sizes[i]], labels[i, : sizes[i]]) for i in range(60)])
    assert values_of(evaluation) == pytest.approx(
        {
            "jaccard": by_hand.mean(),
            "jaccard_5_6": by_hand[sizes <= 6].mean(),
            "jaccard_10_12": by_hand[sizes >= 10].mean(),
        }
    )
    assert evaluation.details["jaccard_by_images"] == pytest.approx(
        {str(size): by_hand[sizes == size].mean() for size in (5, 6, 10, 12)}
    )
    ties = 0
    for row, right, size in zip(scores, labels, sizes, strict=True):
        falling = sorted(row[:size], reverse=True)
        border = right.sum()
        ties += border < size and falling[border - 1] == falling[border]
    assert evaluation.details["ties"] == ties
    assert bool(ties) == coarse
    check_samples(evaluation, ["jaccard", "jaccard_5_6", "jaccard_10_12"])
    check_intervals(evaluation)


def test_prompts_have_an_article_and_small_letters():
    assert [prompt_of(cue) for cue in ("Owl", "pack", "hour", "ASH")] == ["An owl", "A pack", "A hour", "An ash"]


def written(tmp_path, rows):
    samples = {key: {"txt": cue.encode(), "cls": str(label).encode()} for key, (cue, label) in rows.items()}
    return opened(write_set(tmp_path / "set", "association", samples))


ROWS = {
    "one_0": ("Pack", 1), "one_1": ("Pack", 0), "one_2": ("Pack", 1), "one_3": ("Pack", 0), "one_4": ("Pack", 0),
    "two_0": ("owl", 0), "two_1": ("owl", 1), "two_2": ("owl", 0), "two_3": ("owl", 0), "two_4": ("owl", 0),
    "two_5": ("owl", 0),
}  # fmt: skip


def test_runs_on_a_set(tmp_path, monkeypatch):
    monkeypatch.setattr("vlp.evaluators.association.CHUNK", 1)
    data = written(tmp_path, ROWS)
    texts = {"A pack": [1.0, 0.0], "An owl": [0.0, 1.0]}
    images = torch.tensor([[9.0, 1], [8, 1], [1, 1], [1, 2], [1, 3], [1, 1], [1, 9], [1, 8], [1, 7], [1, 6], [1, 5]])
    evaluator = Association(data)
    assert evaluator.texts == ("A pack", "An owl")
    evaluation = evaluator.run(SharedEncoder(TableEncoder(data, images, texts)))
    # the first picks images 0 and 1 where 0 and 2 are meant, the second is right
    assert evaluation.samples["jaccard"].values == pytest.approx([1 / 3, 1])
    assert values_of(evaluation) == pytest.approx({"jaccard": 2 / 3, "jaccard_5_6": 2 / 3})
    assert evaluation.details["instances_by_images"] == {"5": 1, "6": 1}


def test_any_model_is_between_none_and_all(tmp_path):
    evaluation = Association(written(tmp_path, ROWS)).run(SharedEncoder(HashEncoder()))
    assert 0 <= values_of(evaluation)["jaccard"] <= 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"one_0": ("Pack", 1), "one_1": ("herd", 0)}, "instance 'one' has 2 cues"),
        ({"one_0": ("Pack", 0), "one_1": ("Pack", 0)}, "instance 'one' has no image that its cue means"),
        ({"one_0": ("Pack", 1), "one_2": ("Pack", 0)}, "'one' has 2 samples, but not one_0 to _1"),
    ],
)
def test_instances_that_are_none_are_named(tmp_path, rows, message):
    with pytest.raises(RecipeError, match=message):
        Association(written(tmp_path, rows))


def test_a_set_of_another_kind_is_an_error(tmp_path):
    with pytest.raises(RecipeError, match="retrieval set"):
        Association(opened(write_captions(tmp_path / "set")))
