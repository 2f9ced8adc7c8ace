"""Retrieval on small numbers, against plain loops, with several captions per image and with ties."""

from __future__ import annotations

import pytest
import torch

from tests.evaluators.sets import HashEncoder, opened, unit, write_captions
from vlp.evaluators.retrieval import Retrieval, rank_positives, retrieve
from vlp.evaluators.shared import SharedEncoder


def values_of(evaluation):
    return {metric.name: metric.value for metric in evaluation.metrics}


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


def test_a_negative_of_equal_score_counts_against_the_model():
    images = torch.eye(3)
    texts = torch.eye(3)[[0, 0, 2]]
    evaluation = retrieve(images, texts, torch.arange(3), (1, 2))
    assert evaluation.details["ranks"]["image_to_text"] == [2, 3, 1]
    assert evaluation.details["ties"] == {"image_to_text": 3, "text_to_image": 1}


def test_a_collapsed_model_finds_nothing():
    same = torch.eye(1, 8).repeat(20, 1)
    found = values_of(retrieve(same, same, torch.arange(20)))
    assert found["image_to_text_recall@10"] == 0
    assert found["text_to_image_median_rank"] == 20


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
