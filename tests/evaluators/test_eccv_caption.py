"""ECCV Caption, CxC and COCO 1k against the package that defines them, where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest

from tests.evaluators.kinds import check_intervals, check_samples, draw_rows, values_of, write_set
from tests.evaluators.sets import opened, unit
from vlp.evaluators.eccv_caption import EccvCaption, GroundTruth, load_truth, pairs_of, places_of, score_truth
from vlp.ground.paths import folders
from vlp.ground.types import RecipeError

has_truth = pytest.mark.skipif(
    importlib.util.find_spec("eccv_caption") is None, reason="needs the ground truths: pip install eccv-caption"
)

SMALL = GroundTruth(
    image_ids=(70, 30, 50, 10, 90),
    caption_ids=tuple(range(100, 125)),
    links={
        "eccv": ({70: (100, 101, 112, 999), 10: (115,)}, {112: (50, 70), 104: (10, 70, 90)}),
        "cxc": ({70: (100,), 30: (105, 7), 50: (111, 112)}, {100: (70,), 106: (30, 50)}),
    },
)


def test_small_ground_truths_by_loops():
    images = draw_rows(5, 4)
    texts = unit(images.repeat_interleave(5, dim=0) + 0.8 * draw_rows(25, 4, seed=1))
    evaluation = score_truth(images, texts, SMALL, (1, 5))
    scores = (images @ texts.T).tolist()
    found = values_of(evaluation)
    captions, pictures = list(SMALL.caption_ids), list(SMALL.image_ids)
    for name, (of_images, of_captions) in SMALL.links.items():
        for direction, links, queries, items, matrix in (
            ("image_to_text", of_images, pictures, captions, scores),
            ("text_to_image", of_captions, captions, pictures, [list(column) for column in zip(*scores, strict=True)]),
        ):
            at_one, precisions, means = [], [], []
            for query, positives in links.items():
                row = matrix[queries.index(query)]
                order = [items[i] for i in sorted(range(len(items)), key=lambda i: -row[i])]
                right = [item for item in positives if item in items]
                at_one.append(order[0] in right)
                hits = [item in right for item in order[: len(positives)]]  # 999 is nowhere, and counts
                precisions.append(sum(hits) / len(positives))
                means.append(sum(sum(hits[: r + 1]) / (r + 1) for r, hit in enumerate(hits) if hit) / len(positives))
            assert found[f"{name}_{direction}_recall@1"] == pytest.approx(sum(at_one) / len(at_one))
            if name == "eccv":
                assert found[f"{name}_{direction}_r_precision"] == pytest.approx(sum(precisions) / len(precisions))
                assert found[f"{name}_{direction}_map_at_r"] == pytest.approx(sum(means) / len(means))
    both = [found[f"eccv_{direction}_map_at_r"] for direction in ("image_to_text", "text_to_image")]
    assert found["eccv_map_at_r"] == pytest.approx(sum(both) / 2)
    assert evaluation.details["eccv_image_to_text_queries"] == 2
    check_samples(
        evaluation, ["eccv_map_at_r", "cxc_recall@1", "coco_5k_mean_recall@1", "coco_1k_text_to_image_recall@5"]
    )
    check_intervals(evaluation_without_medians(evaluation))


def evaluation_without_medians(evaluation):
    return type(evaluation)(tuple(metric for metric in evaluation.metrics if "median" not in metric.name))


def test_pairs_are_sorted_and_strangers_counted():
    rows, pairs, missing = pairs_of({30: (5, 3), 10: (9, 4)}, (10, 20, 30), (3, 4, 5))
    assert rows.tolist() == [0, 2]
    assert pairs.tolist() == [[0, 1, 1], [1, 0, 2]]
    assert missing.tolist() == [1, 0]


def written(tmp_path, keys):
    samples = {key: {"txt": b"\n".join(b"caption %d of %s" % (i, key.encode()) for i in range(6))} for key in keys}
    return opened(write_set(tmp_path / "set", "retrieval", samples))


def test_images_are_known_by_their_keys_or_their_order(tmp_path):
    keys = [f"COCO_val2014_{number:012d}" for number in sorted(SMALL.image_ids)]
    data = written(tmp_path, keys)
    assert places_of(data, SMALL.image_ids, "keys") == [3, 1, 2, 0, 4]
    with pytest.raises(RecipeError, match=r"settings\.order is karpathy, where image 1 has the COCO id"):
        places_of(data, SMALL.image_ids, "karpathy")
    (tmp_path / "plain").mkdir()
    plain = written(tmp_path / "plain", [f"image_{number}" for number in range(5)])
    assert places_of(plain, SMALL.image_ids, "karpathy") == [0, 1, 2, 3, 4]


def test_other_images_are_named(tmp_path):
    data = written(tmp_path, ["s70", "s30", "s50", "s10", "s80"])
    with pytest.raises(RecipeError, match=r"no key ends in 90, .* \(1 are missing\); set settings.order to karpathy"):
        places_of(data, SMALL.image_ids, "keys")
    with pytest.raises(RecipeError, match="5 images, ECCV Caption has 2"):
        places_of(data, (70, 30), "karpathy")


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "eccv_caption", None)
    with pytest.raises(RecipeError, match="pip install eccv-caption"):
        EccvCaption(written(tmp_path, ["s1"]))


@has_truth
def test_the_real_ground_truth_is_read():
    truth = load_truth()
    assert (len(truth.image_ids), len(truth.caption_ids)) == (5000, 25000)
    of_images, of_captions = truth.links["eccv"]
    assert (len(of_images), len(of_captions)) == (1261, 1332)
    from eccv_caption import Metrics

    image_of = Metrics().coco_gts["t2i"]
    owners = [image_of[caption][0] for caption in truth.caption_ids]
    assert owners == [image for image in truth.image_ids for _ in range(5)]


@has_truth
def test_equals_the_package_on_its_own_ground_truth(monkeypatch):
    monkeypatch.syspath_prepend(str(next(folders("eval"))))
    libraries = importlib.import_module("referees.libraries")
    truth = load_truth()
    images = draw_rows(5000, 24)
    texts = unit(images.repeat_interleave(5, dim=0) + 0.9 * draw_rows(25000, 24, seed=1))
    found = values_of(score_truth(images, texts, truth, (1, 5, 10)))
    expected = libraries.EccvCaption().score(images, texts, truth, (1, 5, 10))
    assert len(expected) == 2 * (3 + 3 * 3)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name
