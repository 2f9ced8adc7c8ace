"""The whole sum and its candidates: each holds all terms, and differs from every other."""

from __future__ import annotations

from benchmarks.quick import settle
from benchmarks.signature import CANDIDATES, CHOOSING, JUDGING, build_parser
from vlp.recipe.compose import differences, load_recipe

TERMS = {"clip", "alignment", "uniformity", "cross_uniformity", "cwcl"}


def test_every_candidate_is_a_whole_sum_of_its_own():
    recipes = [load_recipe("quickstart", settings) for settings in CANDIDATES.values()]
    for place, one in enumerate(recipes):
        assert set(one.objective) == TERMS and "ema_teacher" in one.strategies
        assert all(differences(one, other) for other in recipes[place + 1 :])


def test_what_is_chosen_on_is_not_what_judges():
    assert not set(CHOOSING) & set(JUDGING)
    assert settle(build_parser().parse_args(["--quick"])).samples == 512
