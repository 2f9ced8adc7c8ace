"""Scores where the features lie: a GPU, and any other device, says what the CPU says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.evaluators.every_task import every_task, write_every_set
from tests.evaluators.kinds import draw_rows, values_of
from tests.evaluators.sets import HashEncoder
from tests.pretend_device import DEVICE, PretendDevice
from vlp.evaluators.association import pick
from vlp.evaluators.base import evaluators
from vlp.evaluators.choice import choose
from vlp.evaluators.dataset import DataSource
from vlp.evaluators.eccv_caption import GroundTruth, score_truth
from vlp.evaluators.hierarchy import score_superclasses
from vlp.evaluators.multilabel import rank_images
from vlp.evaluators.retrieval import retrieve
from vlp.evaluators.shared import SharedEncoder
from vlp.evaluators.tasks import run_task
from vlp.evaluators.winoground import score_pairs
from vlp.evaluators.zero_shot import classify, rank_classes

NAMES = tuple(f"class {k}" for k in range(9))
LABELS = torch.arange(600) % 9
OWNERS = torch.arange(600).repeat_interleave(3)


def zero_shot(images, texts):
    return classify(images, texts[:9], LABELS, NAMES, 1)


def superclasses(images, texts):
    labels = LABELS.to(images.device)
    ranked = rank_classes(images, texts[:9], labels)
    return score_superclasses(images, texts[:9], ranked.predictions, labels, LABELS[:9] % 3, ("a", "b", "c"))


def multilabel(images, texts):
    return rank_images(images, texts[:9], torch.arange(600)[:, None] % torch.arange(2, 11) == 0, NAMES)


def choice(images, texts):
    return choose(images, texts, torch.full((600,), 3), [[1.0, 2.0, 3.0]] * 600)


def winoground(images, texts):
    scores = images.reshape(300, 2, -1) @ texts[:600].reshape(300, 2, -1).transpose(1, 2)
    return score_pairs(scores, [str(i) for i in range(300)])


def association(images, texts):
    scores = images.reshape(60, 10, -1) @ texts[:60, :, None]
    labels = (torch.arange(600).reshape(60, 10) % 3 == 0).to(images.device)
    return pick(scores[:, :, 0], labels, torch.ones_like(labels))


def retrieval(images, texts):
    return retrieve(images, texts, OWNERS, num_folds=2, precisions=("r_precision", "map_at_r"))


def eccv_caption(images, texts):
    links = {"eccv": ({3: (12, 15), 40: (201, 7)}, {12: (3, 9)}), "cxc": ({5: (25,)}, {25: (5, 6)})}
    return score_truth(images[:100], texts[:500], GroundTruth(tuple(range(100)), tuple(range(500)), links), (1, 5))


SCORES = [zero_shot, superclasses, multilabel, choice, winoground, association, retrieval, eccv_caption]


def draw():
    images = draw_rows(600, 32)
    return images, torch.nn.functional.normalize(images[OWNERS] + 0.3 * draw_rows(1800, 32, seed=1), dim=1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("score", SCORES)
def test_a_gpu_says_what_the_cpu_says(score):
    images, texts = draw()
    assert values_of(score(images.cuda(), texts.cuda())) == pytest.approx(values_of(score(images, texts)), abs=1e-6)


@pytest.mark.parametrize("score", SCORES)
def test_scores_stay_on_the_device_of_the_features(score):
    images, texts = draw()
    expected = values_of(score(images, texts))
    with PretendDevice():
        assert values_of(score(images.to(DEVICE), texts.to(DEVICE))) == expected


def test_the_pretended_device_is_not_the_cpu():
    with PretendDevice():
        there = torch.ones(3).to(DEVICE)
        assert there.device == DEVICE and (there + there).tolist() == [2, 2, 2]
        assert torch.arange(3, device=DEVICE).device == DEVICE
        with pytest.raises(RuntimeError, match="expected all tensors on one device"):
            there + torch.ones(3)
        with pytest.raises((TypeError, RuntimeError)):
            there.numpy()


class Elsewhere(HashEncoder):
    """Said to be on the pretended device."""

    device = DEVICE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    write_every_set(folder)
    return folder


@pytest.mark.parametrize("number", range(len(every_task(Path()))))
def test_every_task_is_scored_on_the_device_of_the_model(folder, number):
    task = every_task(folder)[number]
    expected = run_task(task, HashEncoder(), model="m")
    with PretendDevice():
        found = run_task(task, Elsewhere(), model="m")
    for name, metric in expected["metrics"].items():
        assert found["metrics"][name] == pytest.approx(metric, abs=1e-6), name


def test_embeddings_are_handed_out_where_the_model_is(folder):
    with PretendDevice():
        shared = SharedEncoder(Elsewhere())
        data = shared.open(DataSource(root=str(folder / "captions")))
        assert shared.images(data).device == shared.texts(["a cat", "a dog"]).device == DEVICE
    here = SharedEncoder(HashEncoder())
    assert here.images(here.open(DataSource(root=str(folder / "captions")))).device.type == "cpu"


def test_every_evaluator_has_a_task(folder):
    assert {task.evaluator for task in every_task(folder)} == set(evaluators) - {
        "eccv_caption",
        "faces",
        "caption_metrics",
        "coop_prompts",
        "gopro_prompts",
    }
