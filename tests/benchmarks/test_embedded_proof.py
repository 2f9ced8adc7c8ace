"""The comparison of ways to use pretrained towers: each is a recipe of its own, and both sides take equal time."""

from __future__ import annotations

from benchmarks.embedded_proof import LOCKED, REFERENCE, SMALL, TAUGHT, build_parser, common, comparisons
from benchmarks.quick import settle
from vlp.recipe.compose import differences, load_recipe


def test_every_way_differs_from_every_other(tmp_path):
    parsed = settle(build_parser().parse_args(["--runs", str(tmp_path)]))
    recipes = [load_recipe("lit_embedded", (*common(way, 0, parsed), *LOCKED[way])) for way in LOCKED]
    for place, one in enumerate(recipes):
        assert len(one.evaluation.tasks) == 5
        assert all(differences(one, other) for other in recipes[place + 1 :])
    assert len({recipe.name for recipe in recipes}) == len(LOCKED)


def test_the_small_model_learns_from_the_teacher_it_is_told():
    recipe = load_recipe("quickstart", TAUGHT)
    assert set(recipe.objective) == {"clip", "feature_distillation", "soft_targets"}


def test_all_ways_are_compared_and_the_taught_one_with_its_like():
    pairs = comparisons((*LOCKED, *SMALL))
    assert pairs[-1] == ("taught", "from scratch")
    assert {way for way, _ in pairs} == {*LOCKED, *SMALL} - {REFERENCE}
    assert comparisons(list(LOCKED)) == [(way, REFERENCE) for way in LOCKED if way != REFERENCE]
    assert comparisons(SMALL) == [("taught", "from scratch")]
    assert {beside for _, beside in pairs} == {REFERENCE, "from scratch"}
