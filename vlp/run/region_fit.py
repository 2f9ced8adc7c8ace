"""What does not fit captions of regions in a recipe, said before the first step."""

from __future__ import annotations

from vlp.data import SampleSet
from vlp.data.pixels.policies import policies
from vlp.ground.types import RecipeError
from vlp.objectives.base import Objective
from vlp.recipe.schema import DataSection


def check_regions(data: DataSection, samples: SampleSet) -> None:
    """Refuse regions of cards that tell of none, and what moves pixels away from their boxes.

    Raises:
        RecipeError: Names the key and a way out.
    """
    if data.regions is None:
        return
    if data.regions.key is None and all(card.regions is None for card in samples.cards.values()):
        raise RecipeError(
            "data.regions: no card of data.train says where captions of regions are: write regions: json.NAME into "
            "one, set data.regions.key, or leave data.regions out (data.regions=null)"
        )
    if data.policy is not None and policies[data.policy.type].moves_pixels and not data.spare_first_view:
        raise RecipeError(
            "data.policy: moves what images show, and the boxes of data.regions stay where they are: set "
            "data.spare_first_view=true, which keeps it away from the view that boxes lie in, or leave one of them out"
        )


def check_regions_are_read(data: DataSection, objective: Objective) -> None:
    """Refuse regions that no term looks at.

    Raises:
        RecipeError: Names the key and a way out.
    """
    if data.regions is not None and "region_losses" not in objective.needs:
        raise RecipeError(
            "data.regions: no term reads captions of regions, and they cost time: add objective.locca={}, or leave "
            "them out (data.regions=null)"
        )
