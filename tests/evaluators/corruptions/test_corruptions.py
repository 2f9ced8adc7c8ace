"""Corruptions: what each does, in its severities, and that nothing but seed, kind, severity and sample decides it."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from vlp.evaluators.corruptions import CORRUPTIONS, Corruption, Kind, corrupt, cut_square

RANDOM = ("gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog")


def picture(side: int = 224) -> Image.Image:
    """Return something with areas, edges and fine lines, neither black nor white anywhere."""
    rows, columns = np.mgrid[:side, :side]
    red = 60 + 120 * ((rows // 27 + columns // 31) % 2)
    green = 40 + 170 * rows // side
    blue = 128 + 60 * np.sin(columns / 3)
    return Image.fromarray(np.stack([red, green, blue], axis=2).astype(np.uint8))


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(np.float64)


def corrupted(kind: str, severity: int, key: str = "s1", **more: int) -> np.ndarray:
    return array(corrupt(picture(), Corruption(kind=kind, severity=severity, **more), key))


each_kind = pytest.mark.parametrize("kind", list(CORRUPTIONS))


def test_there_are_the_fifteen_kinds_of_the_paper():
    assert tuple(CORRUPTIONS) == get_args(Kind)
    assert len(CORRUPTIONS) == 15


@each_kind
def test_every_severity_changes_the_image_and_keeps_its_shape(kind):
    clean = array(picture())
    for severity in range(1, 6):
        found = corrupted(kind, severity)
        assert found.shape == clean.shape
        assert 0.5 < np.abs(found - clean).mean() < 150
        assert found.std() > 1


@pytest.mark.parametrize(
    "kind", [kind for kind in CORRUPTIONS if kind not in ("elastic_transform", "snow", "frost", "fog")]
)
def test_severities_rise(kind):
    clean = array(picture())
    harm = [np.abs(corrupted(kind, severity) - clean).mean() for severity in range(1, 6)]
    assert all(low < 1.05 * high for low, high in pairwise(harm)), harm
    assert harm[4] > 1.15 * harm[0]


@each_kind
def test_the_same_sample_is_corrupted_in_the_same_way_on_any_thread(kind):
    numbers = [*range(4)] * 3
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: corrupted(kind, 3, key=f"s{number}").tobytes(), numbers))
    assert found == [corrupted(kind, 3, key=f"s{number}").tobytes() for number in numbers]


@pytest.mark.parametrize("kind", [*RANDOM, "elastic_transform"])
def test_seed_and_sample_decide_what_is_random(kind):
    first = corrupted(kind, 3)
    assert (first != corrupted(kind, 3, key="s2")).any()
    assert (first != corrupted(kind, 3, seed=1)).any()


@pytest.mark.parametrize("kind", [kind for kind in CORRUPTIONS if kind not in (*RANDOM, "elastic_transform")])
def test_the_others_draw_nothing(kind):
    assert (corrupted(kind, 3) == corrupted(kind, 3, key="s2", seed=1)).all()


def test_no_kind_changes_nothing():
    assert (array(corrupt(picture(), Corruption(), "s1")) == array(picture())).all()


def test_images_of_any_shape_are_cut_as_imagenet_c_was():
    wide = Image.new("RGB", (1200, 512), "red")
    wide.paste("blue", (344, 0, 856, 512))
    cut = array(cut_square(wide))
    assert cut.shape == (224, 224, 3)
    assert (cut[:, 3:-3, 2] == 255).all()  # the blue middle is 256 wide after the resize, and 224 of it are cut
    assert cut_square(Image.new("RGB", (20, 31)), 336).size == (336, 336)


def test_a_jpeg_at_the_end_leaves_its_traces():
    plain, saved = corrupted("contrast", 1), corrupted("contrast", 1, jpeg=85)
    assert 0.1 < np.abs(plain - saved).mean() < 5
    file = io.BytesIO()
    Image.fromarray(plain.astype(np.uint8)).save(file, "JPEG", quality=85)
    assert (array(Image.open(file)) == saved).all()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kind": "rain", "severity": 1}, "kind"),
        ({"kind": "fog", "severity": 6}, "severity"),
        ({"kind": "fog"}, "go together"),
        ({"severity": 1}, "go together"),
        ({"kind": "fog", "severity": 1, "size": 8}, "size"),
        ({"kind": "fog", "severity": 1, "jpeg": 0}, "jpeg"),
        ({"kind": "fog", "severity": 1, "strength": 2}, "strength"),
    ],
)
def test_a_wrong_setting_is_named(settings, named):
    with pytest.raises(ValidationError, match=named):
        Corruption(**settings)
