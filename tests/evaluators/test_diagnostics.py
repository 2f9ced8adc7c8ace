"""Diagnostics against plain loops, closed forms, and what they must say of hubs and collapsed spaces."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import skew

from tests.evaluators.kinds import check_intervals, check_samples, draw_rows, slopes, values_of
from tests.evaluators.sets import HashEncoder, opened, unit, write_captions
from tests.pretend_device import DEVICE, PretendDevice
from vlp.evaluators.diagnostics import RANKME_EPSILON, Diagnostics, diagnose, hubness
from vlp.evaluators.moments import effective_rank, participation_ratio
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import RecipeError

SCALE = 7.0


def draw(size=230, width=12):
    images = unit(draw_rows(size, width) + 0.3)
    return images, unit(images + 0.5 * draw_rows(size, width, seed=1) - 0.2)


def by_hand(queries, items, k):
    scores = queries.double().numpy() @ items.double().numpy().T
    size = len(scores)
    found = {name: [] for name in ("query_auc", "kl_budget", "hard_share_top1", "hard_share_top1pct")}
    nearest = np.zeros(size, dtype=int)
    for i in range(size):
        others = np.delete(scores[i], i)
        found["query_auc"].append(np.mean((others < scores[i, i]) + (others == scores[i, i]) / 2))
        shares = np.exp(SCALE * others) / np.exp(SCALE * others).sum()
        found["kl_budget"].append(np.sum(shares * np.log(shares * (size - 1))))
        found["hard_share_top1"].append(shares.max())
        found["hard_share_top1pct"].append(np.sort(shares)[::-1][: math.ceil((size - 1) / 100)].sum())
        nearest[np.argsort(-scores[i])[:k]] += 1
    return {name: np.mean(values) for name, values in found.items()} | {
        "hubness": skew(nearest),
        "never_retrieved": np.mean(nearest == 0),
    }


@pytest.mark.parametrize("chunk", [512, 100])
def test_equals_plain_loops(monkeypatch, chunk):
    monkeypatch.setattr("vlp.evaluators.score_tiles.CHUNK", chunk)
    images, texts = draw()
    found = values_of(diagnose(images, texts, SCALE, k=5))
    for direction, pair in (("image_to_text", (images, texts)), ("text_to_image", (texts, images))):
        for name, value in by_hand(*pair, k=5).items():
            assert found[f"{direction}_{name}"] == pytest.approx(value, abs=1e-9), name
    cosines = images.double().numpy() @ texts.double().numpy().T
    negatives = cosines[~np.eye(len(cosines), dtype=bool)]
    for name, share in (("p05", 0.05), ("p95", 0.95)):
        assert found[f"positive_{name}"] == pytest.approx(np.quantile(np.diag(cosines), share))
        assert found[f"negative_{name}"] == pytest.approx(np.quantile(negatives, share), abs=1e-3)


def test_samples_are_what_means_are_of():
    evaluation = diagnose(*draw(40), SCALE)
    check_samples(evaluation, ["image_to_text_query_auc", "text_to_image_kl_budget"])
    check_intervals(diagnose(*draw(200), SCALE))


def test_numbers_of_dimensions_in_closed_form():
    def both(rows):
        return effective_rank(rows, epsilon=RANKME_EPSILON).value, participation_ratio(rows).value

    axes = torch.eye(8, dtype=torch.float64).repeat(5, 1)
    assert both(axes) == pytest.approx((8, 7), abs=1e-4)  # the mean takes one dimension of a simplex
    line = torch.cat([axes[:1], -axes[:1]]).repeat(5, 1)
    assert both(line) == pytest.approx((1, 1), abs=1e-4)
    assert participation_ratio(torch.ones(4, 3, dtype=torch.float64)).value == 0


def test_the_influence_of_a_query_on_hubs_is_a_derivative_by_its_weight():
    nearest = np.array([[0, 1], [0, 2], [0, 1], [3, 0], [1, 4], [4, 2]])
    chosen = np.zeros((6, 7))
    for query, items in enumerate(nearest):
        chosen[query, items] = 1
    found, occurrences = hubness(nearest, 7)
    assert found.value == pytest.approx(skew(chosen.sum(0)))
    assert occurrences.tolist() == chosen.sum(0).tolist()
    assert found.influences.numpy() == pytest.approx(slopes(lambda w: skew(w @ chosen), 6), abs=1e-8)


def test_a_collapsed_space_has_numbers_too():
    rows = unit(torch.full((200, 6), 0.3))
    evaluation = diagnose(rows, rows, SCALE)
    check_intervals(evaluation)
    assert values_of(evaluation)["cka"] == 0
    assert all(math.isfinite(bound) for each in evaluation.metrics for bound in (each.value, each.low, each.high))


def test_an_item_that_is_near_to_all_is_a_hub():
    images, texts = draw(100)
    plain = values_of(diagnose(images, texts, SCALE, k=3))
    hub = texts.clone()
    hub[:3] = unit(images.mean(0, keepdim=True))
    hubs = values_of(diagnose(unit(images + 3 * images.mean(0)), unit(hub), SCALE, k=3))
    assert hubs["image_to_text_hubness"] > plain["image_to_text_hubness"] + 1
    assert hubs["image_to_text_never_retrieved"] > plain["image_to_text_never_retrieved"]


def test_a_softmax_of_equals_spends_nothing():
    rows = unit(torch.ones(50, 4))
    found = values_of(diagnose(rows, rows, SCALE, k=1))
    assert found["image_to_text_kl_budget"] == pytest.approx(0, abs=1e-9)
    assert found["image_to_text_hard_share_top1"] == pytest.approx(1 / 49)
    assert found["image_to_text_query_auc"] == 0.5


def test_centring_takes_the_gap_away():
    images, _ = draw()
    moved = unit(images + 2 * unit(torch.ones(1, images.shape[1])))
    assert (
        values_of(diagnose(images, moved, SCALE, centred=True))["positive_p05"]
        > values_of(diagnose(images, moved, SCALE))["positive_p05"]
    )


def test_turning_both_changes_nothing():
    images, texts = (rows.double() for rows in draw(60))
    turn = torch.linalg.qr(draw_rows(12, 12).double()).Q
    before = values_of(diagnose(images, texts, SCALE))
    after = values_of(diagnose(images @ turn, texts @ turn, SCALE))
    assert after == pytest.approx(before, abs=1e-4)


def test_the_device_of_the_model_will_do():
    images, texts = draw(60)
    expected = values_of(diagnose(images, texts, SCALE))
    with PretendDevice():
        found = values_of(diagnose(images.to(DEVICE), texts.to(DEVICE), SCALE))
    assert found == pytest.approx(expected, abs=1e-9)


def test_runs_on_a_set_and_refuses_a_small_one(tmp_path):
    data = opened(
        write_captions(tmp_path / "set", [("a cat", "a tabby"), ("a dog",), ("a fox",), ("a cow",), ("an ox",)])
    )
    evaluation = Diagnostics(data, k=2).run(SharedEncoder(HashEncoder()))
    assert evaluation.details["pairs"] == 5 and len(values_of(evaluation)) == len(evaluation.metrics)
    with pytest.raises(RecipeError, match=r"settings\.k is 5, and there are 5 pairs"):
        Diagnostics(data, k=5)


def test_temperatures_lie_between_two_limits(tmp_path):
    """Towards 0 the hardest negative has all of the gradient, towards infinity each has as much."""
    data, found = opened(write_captions(tmp_path)), {}
    for temperature in (1e-5, 0.07, 1e5):
        evaluation = Diagnostics(data, k=3, temperature=temperature).run(SharedEncoder(HashEncoder()))
        found[temperature] = values_of(evaluation)
    shares = [found[t]["image_to_text_hard_share_top1"] for t in found]
    budgets = [found[t]["image_to_text_kl_budget"] for t in found]
    assert shares == sorted(shares, reverse=True) and shares[0] == pytest.approx(1, abs=1e-3)
    assert budgets == sorted(budgets, reverse=True) and budgets[2] == pytest.approx(0, abs=1e-6)
    with pytest.raises(RecipeError, match="temperature"):
        Diagnostics(data, k=3, temperature=0.0)
