"""The benchmark of adversarial steps: every case takes its steps, within the passes that it may."""

from __future__ import annotations

import pytest

from benchmarks.bench_adversarial import CASES, PLAIN, Attacked, beyond, measure, table


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:model.freeze")  # towers start at random here
def test_no_case_takes_more_passes_than_allowed(tmp_path):
    found = measure("toy", 4, 1, tmp_path)
    assert [each.case for each in found] == list(CASES)
    plain, *others = found
    assert all(len(each.seconds) == len(each.beside) == 1 and each.seconds[0] > 0 for each in others)
    assert plain.seconds == [each.beside[0] for each in others]
    assert (plain.case, plain.forward) == (PLAIN, 1)
    for each in others:
        alone = "alone" in each.case or "FARE" in each.case
        assert each.forward == each.steps + (1 if alone else 2)
        assert 0 < beyond(each, plain) <= each.steps + 1


def test_the_table_compares_with_the_plain_step():
    plain = Attacked(PLAIN, 0, 1.0, 100.0, 60.0, [2.0, 2.0], [2.0, 2.0])
    attacked = Attacked("3 steps", 3, 5.0, 280.0, 60.0, [5.0, 5.0], [2.0, 2.0])
    assert table([plain, attacked])[2] == ["3 steps", "5", "3.00", "4", "5.00 (5.00 .. 5.00)", "2.50"]
