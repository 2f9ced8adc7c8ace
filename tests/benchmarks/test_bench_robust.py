"""The benchmark of attacks: both meet the same model, and every attack of both is timed."""

from __future__ import annotations

import pytest

from benchmarks.bench_robust import Timed, measure, problem_of, table
from vlp.robust.problem import margin


def test_the_model_is_right_about_its_images():
    problem, pixels = problem_of("toy", 4)
    assert pixels.shape == (4, 3, 64, 64)
    assert (margin(problem.scores(pixels), problem.positives) < 0).all()


def test_every_attack_of_both_is_timed():
    pytest.importorskip("torchattacks", reason="pip install --no-deps torchattacks to time it")
    found = measure("toy", 4, 2, 1)
    assert [each.attack for each in found] == ["pgd", "apgd_ce", "apgd_t", "square"]
    assert all(min(each.ours[0], each.theirs[0]) > 0 and max(each.left) <= 4 for each in found)


def test_the_table_compares():
    timed = Timed("pgd", 10, [0.002, 0.002], [0.003, 0.003], (3, 4))
    assert table([timed], 8)[1] == ["pgd", "2.00 (2.00 .. 2.00)", "3.00 (3.00 .. 3.00)", "1.50", "3", "4"]
