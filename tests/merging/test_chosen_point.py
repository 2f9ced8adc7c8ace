"""Which point is taken, by numbers that can be checked by hand."""

from __future__ import annotations

import pytest

from vlp.merging.chosen_point import Point, choose


def point(share, own, kept):
    def record(value):
        return {"main_metric": "acc1", "metrics": {"acc1": {"value": value}}}

    return Point(share, [record(each) for each in own], [record(each) for each in kept])


LINE = [
    point(0.0, (0.10, 0.30), (0.60,)),
    point(0.3, (0.50, 0.30), (0.59,)),
    point(0.6, (0.90, 0.50), (0.50,)),
    point(1.0, (0.90, 0.70), (0.20,)),
]


def test_scores_are_means_over_tasks_and_own_counts_as_much_as_kept():
    assert LINE[0].own_score == pytest.approx(0.2) and LINE[0].kept_score == 0.6
    assert LINE[0].mean == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("most_lost", "share"), [(None, 0.6), (0.0, 0.0), (0.9, 0.0), (1.0, 0.3), (9.9, 0.3), (10.0, 0.6), (40.0, 1.0)]
)
def test_the_rule_decides(most_lost, share):
    assert choose(LINE, most_lost).share == share
    assert choose(LINE[::-1], most_lost).share == share


@pytest.mark.parametrize("most_lost", [None, 0.0])
def test_of_equal_points_the_one_nearest_to_the_start_is_taken(most_lost):
    assert choose([point(share, (0.5,), (0.5,)) for share in (1.0, 0.5, 0.0)], most_lost).share == 0.0
