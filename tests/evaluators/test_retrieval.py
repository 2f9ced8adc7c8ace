"""Retrieval on small numbers, against plain loops, with several captions per image and with ties."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from tests.evaluators.kinds import check_intervals, check_samples, values_of
from tests.evaluators.sets import HashEncoder, opened, unit, write_captions
from vlp.evaluators.retrieval import Ranks, Retrieval, rank_positives, retrieve
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import RecipeError


def draw(num_images=40, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = unit(torch.randn(num_images, width, generator=generator))
    image_of_text = torch.arange(num_images).repeat_interleave(torch.arange(num_images) % 4 + 1)
    noise = torch.randn(len(image_of_text), width, generator=generator)
    return images, unit(images[image_of_text] + 0.7 * noise), image_of_text


def rank_by_hand(scores, positives):
    """One query at a time: a positive loses against every negative that scores as much."""
    best = max(scores[j] for j in positives)
    return 1 + sum(scores[j] >= best for j in range(len(scores)) if j not in positives)


def test_two_images_with_three_captions_counted_by_hand():
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = torch.tensor([[0.6, 0.8], [0.8, 0.6], [1.0, 0.0]])
    evaluation = retrieve(images, texts, torch.tensor([0, 0, 1]), (1, 2))
    found = values_of(evaluation)
    assert evaluation.details["ranks"] == {"image_to_text": [2, 3], "text_to_image": [2, 1, 2]}
    assert found["image_to_text_recall@1"] == 0
    assert found["image_to_text_recall@2"] == 1 / 2
    assert found["text_to_image_recall@1"] == 1 / 3
    assert found["text_to_image_recall@2"] == 1
    assert found["image_to_text_median_rank"] == 2.5
    assert found["text_to_image_median_rank"] == 2
    assert found["mean_recall@1"] == pytest.approx((0 + 1 / 3) / 2)


def test_equals_plain_loops():
    images, texts, image_of_text = draw()
    evaluation = retrieve(images, texts, image_of_text)
    scores = (images @ texts.T).tolist()
    captions = [(image_of_text == i).nonzero().flatten().tolist() for i in range(len(images))]
    assert evaluation.details["ranks"]["image_to_text"] == [
        rank_by_hand(scores[i], captions[i]) for i in range(len(images))
    ]
    assert evaluation.details["ranks"]["text_to_image"] == [
        rank_by_hand([row[j] for row in scores], [int(image_of_text[j])]) for j in range(len(texts))
    ]


def test_captions_may_stand_in_any_order():
    images, texts, image_of_text = draw()
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(3))
    straight = values_of(retrieve(images, texts, image_of_text))
    shuffled = values_of(retrieve(images, texts[order], image_of_text[order]))
    assert shuffled == pytest.approx(straight)


def test_equal_scores_are_expected_over_all_their_orders():
    images = torch.eye(3)
    texts = torch.eye(3)[[0, 0, 2]]
    evaluation = retrieve(images, texts, torch.arange(3), (1, 2))
    found, bounds = values_of(evaluation), evaluation.details["bounds"]
    # the first image ties with one other caption, the second with two; the second caption's image with another one,
    # behind one that scores more
    assert found["image_to_text_recall@1"] == pytest.approx((1 / 2 + 1 / 3 + 1) / 3)
    assert bounds["image_to_text_recall@1"] == [1 / 3, 1.0]
    assert found["text_to_image_recall@2"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert bounds["text_to_image_recall@2"] == [2 / 3, 1.0]
    assert found["text_to_image_median_rank"] == 1
    assert evaluation.details["ranks"]["image_to_text"] == [2, 3, 1]
    assert evaluation.details["ties"] == {"image_to_text": 3, "text_to_image": 1}


def test_a_collapsed_model_finds_nothing():
    same = torch.eye(1, 8).repeat(20, 1)
    evaluation = retrieve(same, same, torch.arange(20))
    found = values_of(evaluation)
    assert found["image_to_text_recall@10"] == pytest.approx(0.5)
    assert found["text_to_image_median_rank"] == 10.5
    assert evaluation.details["bounds"]["mean_recall@10"] == [0.0, 1.0]


def test_equal_captions_of_one_image_are_no_ties():
    texts = torch.eye(2)[[0, 0, 1]]
    evaluation = retrieve(torch.eye(2), texts, torch.tensor([0, 0, 1]))
    assert evaluation.details["ties"] == {"image_to_text": 0, "text_to_image": 0}
    assert values_of(evaluation)["image_to_text_recall@1"] == 1


@pytest.mark.parametrize("scores_at_once", [1, 100, 1000, 10**6])
def test_chunks_do_not_matter(monkeypatch, scores_at_once):
    images, texts, image_of_text = draw()
    images, texts = (images * 64).round() / 64, (texts * 64).round() / 64  # exact sums: the same bits in any GEMM
    whole = retrieve(images, texts, image_of_text)
    monkeypatch.setattr("vlp.evaluators.retrieval.SCORES_AT_ONCE", scores_at_once)
    assert retrieve(images, texts, image_of_text) == whole


def test_ranks_need_memory_for_one_chunk_only(monkeypatch):
    monkeypatch.setattr("vlp.evaluators.retrieval.SCORES_AT_ONCE", 2**10)
    rows = unit(torch.randn(3000, 4, generator=torch.Generator().manual_seed(0)))
    allocated = []
    empty = torch.Tensor.new_empty

    def watch(self, *shape, **options):
        allocated.append(shape)
        return empty(self, *shape, **options)

    monkeypatch.setattr(torch.Tensor, "new_empty", watch)
    rank_positives(rows, rows, torch.arange(3000).repeat(2, 1))
    assert allocated == [(1, 3000)]


def test_runs_on_a_set(tmp_path):
    data = opened(write_captions(tmp_path / "set"))
    evaluator = Retrieval(data, recall_at=(1, 40))
    evaluation = evaluator.run(SharedEncoder(HashEncoder()))
    assert evaluator.texts[:3] == ("word0 number0", "word1 number0", "word1 number1")
    assert evaluation.details["captions"] == len(evaluator.texts) == 79
    assert values_of(evaluation)["text_to_image_recall@40"] == 1


@pytest.mark.parametrize(("ahead", "tied", "positives"), [(0, 3, 1), (1, 2, 2), (0, 0, 1), (4, 1, 1), (2, 5, 3)])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 10])
def test_chances_are_the_share_of_orders(ahead, tied, positives, k):
    ranks = Ranks(*(torch.tensor([number]) for number in (ahead, tied, positives)))
    orders = list(permutations([False] * tied + [True] * positives))
    hits = [any(([False] * ahead + list(order))[:k]) for order in orders]
    assert ranks.chances(k).item() == pytest.approx(sum(hits) / len(hits))
    first = [ahead + 1 + order.index(True) for order in orders]
    assert ranks.expected.item() == pytest.approx(sum(first) / len(first))
    assert (ranks.best.item(), ranks.worst.item()) == (min(first), ahead + tied + 1)


def test_what_a_program_that_sorts_would_say_lies_between_the_bounds():
    """Captions that stand at several images, as in real sets: any order of sorting is one of those expected over."""
    images, texts, image_of_text = draw(num_images=30)
    texts = torch.cat([texts, texts[:20]])  # equal rows
    image_of_text = torch.cat([image_of_text, (image_of_text[:20] + 7) % 30])
    evaluation = retrieve(images, texts, image_of_text)
    found, bounds = values_of(evaluation), evaluation.details["bounds"]
    scores = images @ texts.T
    for seed in range(5):
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed))
        for k in (1, 5, 10):
            top = order[scores[:, order].sort(dim=1, descending=True, stable=True).indices[:, :k]]
            share = (image_of_text[top] == torch.arange(30)[:, None]).any(dim=1).double().mean().item()
            low, high = bounds[f"image_to_text_recall@{k}"]
            assert low - 1e-9 <= share <= high + 1e-9
            assert low <= found[f"image_to_text_recall@{k}"] <= high
    assert bounds["image_to_text_recall@1"][0] < bounds["image_to_text_recall@1"][1]


def test_what_samples_add_makes_up_the_metrics():
    images, texts, image_of_text = draw()
    texts = (texts * 4).round() / 4  # ties
    for num_folds in (1, 3):
        evaluation = retrieve(images, texts, image_of_text, num_folds=num_folds, precisions=("r_precision", "map_at_r"))
        names = [
            f"{direction}_{name}"
            for direction in ("image_to_text", "text_to_image")
            for name in ("recall@1", "recall@10", "r_precision", "map_at_r")
        ]
        check_samples(evaluation, [*names, "mean_recall@5"])
        check_intervals(evaluation)


@pytest.mark.parametrize("num_folds", [2, 3, 7])
def test_folds_are_sets_of_their_own(num_folds):
    images, texts, image_of_text = draw()
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(3))
    whole = retrieve(images, texts[order], image_of_text[order], num_folds=num_folds, precisions=("map_at_r",))
    parts = []
    for fold in range(num_folds):
        chosen = [i for i in range(40) if i * num_folds // 40 == fold]
        mine = torch.tensor([int(image) in chosen for image in image_of_text])
        parts.append(retrieve(images[chosen], texts[mine], image_of_text[mine] - chosen[0], precisions=("map_at_r",)))
    found = values_of(whole)
    for name in found:
        if "median" not in name:
            assert found[name] == pytest.approx(sum(values_of(part)[name] for part in parts) / num_folds), name
    ranks = [rank for part in parts for rank in part.details["ranks"]["image_to_text"]]
    assert whole.details["ranks"]["image_to_text"] == ranks
    straight = torch.tensor([rank for part in parts for rank in part.details["ranks"]["text_to_image"]])
    assert whole.details["ranks"]["text_to_image"] == straight[order].tolist()
    assert whole.details["folds"] == num_folds


def test_precision_of_images_and_captions_by_hand():
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = unit(torch.tensor([[3.0, 1.0], [1.0, 2.0], [1.0, 3.0]]))
    evaluation = retrieve(images, texts, torch.tensor([0, 0, 1]), precisions=("r_precision", "map_at_r"))
    found = values_of(evaluation)
    # the first image finds its captions at 1 and 2, the second at 1; of the captions the second is taken for the other
    assert (found["image_to_text_r_precision"], found["image_to_text_map_at_r"]) == (1, 1)
    assert found["text_to_image_r_precision"] == found["text_to_image_recall@1"] == pytest.approx(2 / 3)


def test_the_first_captions_alone(tmp_path):
    data = opened(write_captions(tmp_path / "set"))
    evaluator = Retrieval(data, captions="first", folds=4, r_precision=True)
    assert evaluator.texts == tuple(f"word{i} number0" for i in range(40))
    evaluation = evaluator.run(SharedEncoder(HashEncoder()))
    assert (evaluation.details["captions"], evaluation.details["folds"]) == (40, 4)
    found = values_of(evaluation)
    assert found["image_to_text_r_precision"] == pytest.approx(found["image_to_text_recall@1"])
    assert "image_to_text_map_at_r" not in found


@pytest.mark.parametrize("folds", [0, 41])
def test_more_folds_than_images_are_an_error(tmp_path, folds):
    with pytest.raises(RecipeError, match=f"settings.folds is {folds}, and there are 40 images"):
        Retrieval(opened(write_captions(tmp_path / "set")), folds=folds)
