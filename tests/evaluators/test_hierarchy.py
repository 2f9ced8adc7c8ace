"""Superclasses by loops, and what a file of them may say."""

from __future__ import annotations

import json

import pytest
import torch

from tests.evaluators.kinds import check_intervals, check_samples, draw_rows, values_of
from vlp.evaluators.hierarchy import score_superclasses, superclasses_of
from vlp.evaluators.zero_shot import rank_classes
from vlp.ground.types import RecipeError


def test_equals_plain_loops(monkeypatch):
    monkeypatch.setattr("vlp.evaluators.hierarchy.CHUNK", 7)
    images, classes = draw_rows(90, 8, seed=2), draw_rows(7, 8, seed=1)
    labels = torch.arange(90) % 7
    superclass = [0, 0, 1, 2, 1, 2, 2]
    ranked = rank_classes(images, classes, labels)
    evaluation = score_superclasses(
        images, classes, ranked.predictions, labels, torch.tensor(superclass), ("fish", "bird", "tool")
    )
    best, mean = 0, 0
    for image, label in zip(images, labels.tolist(), strict=True):
        scores = [float(image @ row) for row in classes]
        best += superclass[scores.index(max(scores))] == superclass[label]
        means = []
        for number in range(3):
            members = [score for score, of in zip(scores, superclass, strict=True) if of == number]
            means.append(sum(members) / len(members))
        mean += means.index(max(means)) == superclass[label]
    assert values_of(evaluation) == pytest.approx({"acc1_super": best / 90, "acc1_super_mean": mean / 90})
    assert best != mean
    assert evaluation.details == {"superclasses": ["fish", "bird", "tool"]}
    check_samples(evaluation, ["acc1_super", "acc1_super_mean"])
    check_intervals(evaluation)


def test_superclasses_are_numbered_as_they_come(tmp_path):
    path = tmp_path / "hierarchy.json"
    path.write_text(json.dumps({"owl": "bird", "shark": "fish", "hen": "bird", "saw": "tool"}))
    names, numbers = superclasses_of(str(path), ("shark", "owl", "hen"))
    assert names == ("fish", "bird")
    assert numbers.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("owl: bird\nsharc: fish\n", r"hierarchy.yaml: no superclass for class 'shark'; did you mean 'sharc'"),
        ("owl: bird\nshark: [fish]\n", r"superclass of 'shark' is \['fish'\], not a name"),
        ("owl: animal\nshark: animal\n", "all classes have the same superclass, 'animal'"),
    ],
)
def test_what_is_wrong_in_a_hierarchy_is_named(tmp_path, lines, message):
    (tmp_path / "hierarchy.yaml").write_text(lines)
    with pytest.raises(RecipeError, match=message):
        superclasses_of(str(tmp_path / "hierarchy.yaml"), ("owl", "shark"))
