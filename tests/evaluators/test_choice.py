"""Choosing captions, by loops; ties under both rules; and what can be said without the image."""

from __future__ import annotations

import pytest
import torch

from tests.evaluators.kinds import TableEncoder, check_intervals, check_samples, draw_rows, values_of, vector, write_set
from tests.evaluators.sets import opened, write_captions
from vlp.evaluators.choice import Choice, choose
from vlp.evaluators.dataset import DataSource, open_set
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import RecipeError

COUNTS = [2, 3, 5, 2, 4, 2, 3, 3]


def split(texts):
    parts, start = [], 0
    for count in COUNTS:
        parts.append(texts[start : start + count])
        start += count
    return parts


def share(scores, strict=True):
    """One sample at a time: the first candidate must beat each other one."""
    hits = [row[0] > max(row[1:]) if strict else row[0] >= max(row[1:]) for row in scores]
    return sum(hits) / len(hits)


@pytest.mark.parametrize("seed", range(4))
def test_equals_plain_loops(seed):
    images, texts = draw_rows(8, 6, seed=seed), draw_rows(24, 6, seed=seed + 50)
    lengths = [[float((i * 7 + k * 3) % 5) for k in range(count)] for i, count in enumerate(COUNTS)]
    evaluation = choose(images, texts, torch.tensor(COUNTS), lengths)
    parts = split(texts)
    scores = [[float(row @ image) for row in part] for image, part in zip(images, parts, strict=True)]
    typical, average = [], []
    for i, part in enumerate(parts):
        others = torch.cat([other for j, other in enumerate(parts) if j != i]).double().mean(0)
        pictures = torch.stack([image for j, image in enumerate(images) if j != i]).double().mean(0)
        typical.append([float(row.double() @ others) for row in part])
        average.append([float(row.double() @ pictures) for row in part])
    assert values_of(evaluation) == pytest.approx(
        {
            "accuracy": share(scores),
            "accuracy_argmax": share(scores),
            "blind_accuracy": share(typical),
            "blind_accuracy_image": share(average),
            "shortest_accuracy": share([[-length for length in row] for row in lengths]),
        }
    )
    assert evaluation.details["predictions"] == [row.index(max(row)) for row in scores]
    assert evaluation.details["candidates"] == COUNTS
    check_samples(evaluation, values_of(evaluation))
    check_intervals(evaluation)


def test_equal_scores_are_wrong_or_right_as_the_rule_says():
    images = torch.eye(3)
    texts = torch.eye(3)[[0, 0, 1, 2, 0, 2]]
    evaluation = choose(images, texts, torch.tensor([2, 2, 2]), [[1.0, 2.0]] * 3)
    # a tie; right; wrong
    assert evaluation.details["ties"] == 1
    assert values_of(evaluation)["accuracy"] == 1 / 3
    assert values_of(evaluation)["accuracy_argmax"] == 2 / 3
    assert values_of(evaluation)["shortest_accuracy"] == 1


def test_a_collapsed_model_is_never_right_and_always_tied():
    same = torch.eye(1, 4)
    evaluation = choose(same.repeat(5, 1), same.repeat(10, 1), torch.tensor([2] * 5), [[1.0, 1.0]] * 5)
    found = values_of(evaluation)
    assert (found.pop("accuracy_argmax"), evaluation.details["ties"]) == (1, 5)
    assert set(found.values()) == {0}


def test_one_sample_has_no_others_to_be_blind_by():
    evaluation = choose(torch.eye(1, 4), torch.eye(2, 4), torch.tensor([2]), [[1.0, 1.0]])
    assert set(values_of(evaluation)) == {"accuracy", "accuracy_argmax", "shortest_accuracy"}


def test_chunks_do_not_matter(monkeypatch):
    images, texts = draw_rows(8, 6), draw_rows(24, 6, seed=1)
    lengths = [[1.0] * count for count in COUNTS]
    whole = choose(images, texts, torch.tensor(COUNTS), lengths)
    monkeypatch.setattr("vlp.evaluators.choice.CHUNK", 5)
    assert choose(images, texts, torch.tensor(COUNTS), lengths) == whole


def written(tmp_path, *groups):
    samples = {
        f"s{i}": {"txt": f"right {i}\nwrong {i}".encode(), "npy": vector(7, group)} for i, group in enumerate(groups)
    }
    root = write_set(tmp_path / "set", "choice", samples)
    return open_set(DataSource(root=str(root), groups=("split", "relation")))


def test_relations_are_averaged_and_small_ones_left_out(tmp_path):
    data = written(tmp_path, 4, 4, 4, 4, 9, 9, 1)
    hits = [1, 1, 1, 0, 1, 0, 0]
    texts = {
        f"a {word} {i}": [1.0, 0.0] if (word == "right") == bool(hits[i]) else [0.0, 1.0]
        for i in range(7)
        for word in ("right", "wrong")
    }
    encoder = TableEncoder(data, torch.tensor([[1.0, 0.1]] * 7), texts)
    whole = Choice(data, prompt="a {c}", group="relation").run(SharedEncoder(encoder))
    assert values_of(whole)["accuracy"] == pytest.approx(4 / 7)
    assert values_of(whole)["macro_accuracy"] == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)
    assert whole.details["groups"] == {"values": [1, 4, 9], "samples": [1, 4, 2], "hits": [0, 3, 1]}
    large = Choice(data, prompt="a {c}", group="relation", smallest_group=2).run(SharedEncoder(encoder))
    assert values_of(large)["macro_accuracy"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    check_samples(whole, ["macro_accuracy"])
    check_samples(large, ["macro_accuracy"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "a photo"}, r"settings.prompt 'a photo' has no \{c\}"),
        ({"smallest_group": 3}, "no effect without settings.group"),
        ({"group": "relation", "smallest_group": 3}, "smallest_group=3 leaves out all groups"),
        ({"group": "relatoin"}, "no column 'relatoin'; did you mean 'relation'"),
    ],
)
def test_settings_that_make_no_sense_are_errors(tmp_path, settings, message):
    with pytest.raises(RecipeError, match=message):
        Choice(written(tmp_path, 1, 2), **settings)


def test_a_set_of_another_kind_is_an_error(tmp_path):
    with pytest.raises(RecipeError, match="retrieval set"):
        Choice(opened(write_captions(tmp_path / "set")))
