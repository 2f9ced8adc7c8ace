"""Attacks where the model lies: a GPU, and any other device, finds what the CPU finds."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.evaluators.sets import HashEncoder, unit
from tests.pretend_device import DEVICE, PretendDevice
from tests.robust.stages import (
    BATCH,
    captions_it_meets,
    classes_it_knows,
    encoder_of,
    model_that_learned,
    opened,
    plan_of,
    record_of,
)
from tests.shards import write_shards
from vlp.towers.encoder import TowerEncoder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("sets")


@pytest.fixture(scope="module")
def classes(place):
    return classes_it_knows(place, 10)


@pytest.fixture(scope="module")
def captions(place):
    write_shards(place / "pairs", num_shards=1, samples_per_shard=8)
    (place / "pairs.yaml").write_text(f"name: pairs\nshards: {place / 'pairs'}/*.tar\n")
    return captions_it_meets(place)


def blind_plan(place):
    """Attacks without a backward pass, which a pretended device has not."""
    return [
        *plan_of("random_signs", 4),
        *plan_of("square", 8, queries=4),
        *plan_of("one_word", 1.0, candidates=3),
        *plan_of("universal_word", 1.0, card=str(place / "pairs.yaml"), pairs=8, candidates=3),
    ]


def seeing_plan(place):
    """Attacks with one."""
    card = {"card": str(place / "pairs.yaml"), "pairs": 8}
    keeping = [replace(each, keeps_layers=True) for each in plan_of("pgd", 0.0, 8, steps=2)]
    return [
        *keeping,
        *plan_of("apgd_ce", 8, steps=3, restarts=2),
        *plan_of("apgd_t", 8, steps=3, targets=2),
        *plan_of("text_embedding", 0.2, radii=(0.2,), steps=2),
        *plan_of("universal", 12.0, epochs=1, batch_size=4, **card),
        *plan_of("cpgc_image", 12.0, epochs=1, width=16, scales=(0.5,), **card),
        *plan_of("cpgc_word", 1.0, epochs=1, width=16, candidates=4, **card),
    ]


class PlainEncoder(HashEncoder):
    """Reads pixels by one matrix, which lies on a device."""

    has_gradients = True

    def __init__(self, device):
        super().__init__()
        self.device = torch.device(device)
        self.matrix = self.projection.to(device)

    def plain_pixels(self, image):
        return torch.tensor(np.asarray(image.resize((8, 8)))).float().permute(2, 0, 1) / 255

    def embed_pixels(self, pixels):
        return unit((pixels - 0.5).flatten(1) @ self.matrix)

    def embed_images(self, images):
        return self.embed_pixels(torch.stack([self.plain_pixels(image) for image in images]).to(self.device)).cpu()


def found_by(encoder, task, plan):
    """Attack a model, and return all numbers that are told."""
    record = record_of(opened(task, encoder), plan)
    entries = [*record["attacks"], *record["worst"]]
    return {
        (each["label"], each["radius"], name): metric["value"]
        for each in entries
        for name, metric in each["metrics"].items()
    }


def test_nothing_meets_on_two_devices(classes, captions, place):
    for task in (classes, captions):
        alone = found_by(PlainEncoder("cpu"), task, blind_plan(place))
        with PretendDevice():
            there = found_by(PlainEncoder(DEVICE), task, blind_plan(place))
        assert there == pytest.approx(alone, abs=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_attack_runs_on_the_gpu(captions, place):
    plan = [*blind_plan(place), *seeing_plan(place)]
    model = copy.deepcopy(model_that_learned()).eval().requires_grad_(False).cuda()
    found = found_by(TowerEncoder(model, device="cuda", batch_size=BATCH), captions, plan)
    assert {label for label, _, _ in found} >= {each.listed.label for each in plan}


def test_every_attack_runs_here_too(captions, place):
    found = found_by(encoder_of(model_that_learned()), captions, seeing_plan(place))
    assert all(0 <= value <= 100 for value in found.values())
