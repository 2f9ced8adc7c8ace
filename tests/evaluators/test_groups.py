"""The worst group by a loop over groups, and what a task may ask for."""

from __future__ import annotations

import numpy as np
import pytest

from tests.evaluators.kinds import check_intervals, check_samples, values_of, vector, write_set
from vlp.evaluators.dataset import DataSource, open_set
from vlp.evaluators.groups import check_ignored, column_of, score_groups
from vlp.ground.types import RecipeError

HITS = np.array([True, False, True, True, False, False, False])
GROUPS = np.array([5, 5, 5, 2, 2, 9, 9])


def test_the_worst_group_and_the_mean_of_groups_by_hand():
    evaluation = score_groups(HITS, GROUPS, "acc1", "region")
    assert values_of(evaluation) == pytest.approx({"worst_group_acc1": 0, "mean_group_acc1": (2 / 3 + 1 / 2 + 0) / 3})
    assert evaluation.details["groups_acc1_by_region"] == {
        "values": [2, 5, 9],
        "samples": [2, 3, 2],
        "hits": [1, 2, 0],
        "ignored": [],
        "worst": 9,
    }
    check_samples(evaluation, ["mean_group_acc1"])
    check_intervals(evaluation)


def test_an_ignored_group_is_not_the_worst_but_counts_in_the_mean():
    evaluation = score_groups(HITS, GROUPS, "acc1", "region", (9,))
    assert values_of(evaluation)["worst_group_acc1"] == 1 / 2
    assert values_of(evaluation)["mean_group_acc1"] == pytest.approx((2 / 3 + 1 / 2) / 3)
    assert evaluation.details["groups_acc1_by_region"]["worst"] == 2


@pytest.mark.parametrize("seed", range(4))
def test_equals_a_loop_over_groups(seed):
    random = np.random.default_rng(seed)
    hits, groups = random.random(200) < 0.5, random.integers(3, 12, 200)
    by_hand = [hits[groups == group].mean() for group in np.unique(groups)]
    found = values_of(score_groups(hits, groups, "acc5", "income"))
    assert found["worst_group_acc5"] == pytest.approx(min(by_hand))
    assert found["mean_group_acc5"] == pytest.approx(np.mean(by_hand))


def test_groups_that_are_not_there_cannot_be_ignored():
    with pytest.raises(RecipeError, match=r"settings.ignore_groups: no sample is in group 3; there are 2, 5, 9"):
        check_ignored(GROUPS, (9, 3), "settings.ignore_groups")
    with pytest.raises(RecipeError, match="leaves out all groups"):
        check_ignored(GROUPS, (9, 2, 5), "settings.ignore_groups")


def test_a_column_that_is_not_there_is_named_with_its_neighbour(tmp_path):
    root = write_set(tmp_path / "set", "classification", {"s0": {"cls": b"0", "npy": vector(1, 2)}}, ["cat"])
    data = open_set(DataSource(root=str(root), groups=("region", "country")))
    assert column_of(data, "country", "settings.group").tolist() == [2]
    with pytest.raises(RecipeError, match=r"settings.group: data.groups has no column 'regoin'; did you mean 'region'"):
        column_of(data, "regoin", "settings.group")
