"""Winoground's three scores by the paper's definitions, and MMVP's and CLIP_benchmark's ways with ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.evaluators.kinds import TableEncoder, check_intervals, check_samples, values_of, vector, write_set
from vlp.evaluators.dataset import DataSource, open_set
from vlp.evaluators.shared import SharedEncoder
from vlp.evaluators.winoground import Winoground, score_pairs
from vlp.ground.types import RecipeError


def score(scores, ties="wrong"):
    names = [str(i) for i in range(len(scores))]
    return values_of(score_pairs(torch.tensor(scores, dtype=torch.float32), names, ties))


def test_one_example_of_each_outcome():
    both = [[3, 1], [1, 3]]
    text_only = [[3, 4], [1, 5]]  # of caption (rows) and image (columns): image 1 draws caption 0 too
    image_only = [[3, 1], [4, 5]]
    neither = [[1, 3], [3, 1]]
    assert score([both]) == {"text_score": 1, "image_score": 1, "group_score": 1}
    assert score([text_only]) == {"text_score": 1, "image_score": 0, "group_score": 0}
    assert score([image_only]) == {"text_score": 0, "image_score": 1, "group_score": 0}
    assert score([neither]) == {"text_score": 0, "image_score": 0, "group_score": 0}
    assert score([both, text_only, image_only, neither]) == {"text_score": 0.5, "image_score": 0.5, "group_score": 0.25}


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_papers_definitions(seed):
    scores = torch.randn(200, 2, 2, generator=torch.Generator().manual_seed(seed))
    evaluation = score_pairs(scores, [str(i) for i in range(200)])
    text, image, group = 0, 0, 0
    for (c0_i0, c0_i1), (c1_i0, c1_i1) in scores.tolist():
        is_text = c0_i0 > c1_i0 and c1_i1 > c0_i1
        is_image = c0_i0 > c0_i1 and c1_i1 > c1_i0
        text, image, group = text + is_text, image + is_image, group + (is_text and is_image)
    assert values_of(evaluation) == {"text_score": text / 200, "image_score": image / 200, "group_score": group / 200}
    assert evaluation.details["ties"] == 0
    check_samples(evaluation, ["text_score", "image_score", "group_score"])
    check_intervals(evaluation)


def clip_benchmark(scores):
    """Both images' best captions and both captions' best images, by argmax over 2 x 2 (images in rows)."""
    found = []
    for example in scores:
        matrix = np.array(example, dtype=float).T
        text = (matrix.argmax(axis=1) == [0, 1]).all()
        image = (matrix.argmax(axis=0) == [0, 1]).all()
        found.append((text, image, text and image))
    return dict(zip(("text_score", "image_score", "group_score"), np.mean(found, axis=0), strict=True))


def mmvp(scores):
    """Each statement's first image where its score is larger, else the second; a pair is right if both are."""
    return np.mean([(c0[0] > c0[1]) and not (c1[0] > c1[1]) for c0, c1 in scores])


def test_ties_as_others_have_them():
    scores = torch.randint(0, 3, (300, 2, 2), generator=torch.Generator().manual_seed(0)).tolist()
    assert score(scores, "first") == pytest.approx(clip_benchmark(scores))
    assert score(scores, "second")["image_score"] == pytest.approx(mmvp(scores))
    assert score(scores)["image_score"] < min(mmvp(scores), clip_benchmark(scores)["image_score"])


def test_a_scorer_that_does_not_see_gets_nothing():
    preferred = [[[5, 5], [1, 1]], [[2, 2], [3, 3]]]
    evaluation = score_pairs(torch.tensor(preferred).float(), ["a", "b"])
    assert set(values_of(evaluation).values()) == {0}
    assert evaluation.details["blind"] == values_of(evaluation)
    assert evaluation.details["ties"] == 2


def written(tmp_path, captions, groups=()):
    samples = {key: {"txt": text.encode(), "npy": vector(3)} for key, text in captions.items()}
    for key, group in zip(captions, groups, strict=False):
        samples[key]["npy"] = vector(group)
    root = write_set(tmp_path / "set", "choice", samples)
    return open_set(DataSource(root=str(root), groups=("pattern",)))


CAPTIONS = {
    "ex1_0": "a dog bites\nbites a dog",
    "ex1_1": "bites a dog\na dog bites",
    "ex2_1": "down up\nup down",
    "ex2_0": "up down\ndown up",
}


def test_runs_on_a_set_in_any_order(tmp_path):
    data = written(tmp_path, CAPTIONS, (5, 5, 6, 6))
    texts = {
        "see a dog bites": [1, 0, 0, 0],
        "see bites a dog": [0, 1, 0, 0],
        "see up down": [0, 0, 1, 0],
        "see down up": [0, 0, 1, 0.5],
    }
    # ex1 is right; ex2_1 is nearer to the other caption
    images = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -1], [0, 0, 1, -0.5]])
    evaluator = Winoground(data, prompt="see {c}", group="pattern")
    assert evaluator.texts == ("see a dog bites", "see bites a dog", "see up down", "see down up")
    evaluation = evaluator.run(SharedEncoder(TableEncoder(data, images, texts)))
    found = values_of(evaluation)
    assert (found["text_score"], found["image_score"], found["group_score"]) == (0.5, 0.5, 0.5)
    assert evaluation.samples["group_score"].values == [1, 0]
    assert evaluation.details["examples"] == ["ex1", "ex2"]
    assert evaluation.details["groups"]["group_score"] == [1, 0]
    assert found["macro_image_score"] == 0.5
    check_samples(evaluation, ["macro_group_score"])


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ({"ex1_0": "a b\nb a", "ex1_1": "b a\na b", "ex2_0": "c d\nd c"}, "example 'ex2' must have samples ex2_0 and"),
        ({"ex1_0": "a b\nb a", "ex1_1": "a b\nb a"}, "example 'ex1' must have"),
        ({"ex1_0": "a b\nb a", "ex1_2": "b a\na b"}, "'ex1' has 2 samples, but not ex1_0 to _1"),
        ({"ex1": "a b\nb a"}, "key 'ex1' must end in _ and a number"),
    ],
)
def test_examples_that_are_no_pairs_are_named(tmp_path, captions, message):
    with pytest.raises(RecipeError, match=message):
        Winoground(written(tmp_path, captions))
