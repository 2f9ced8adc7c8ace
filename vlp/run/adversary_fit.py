"""What does not fit adversaries in a recipe, said before the first step."""

from __future__ import annotations

from collections.abc import Mapping

from vlp.ground.types import RecipeError
from vlp.strategies.adversarial_images import AdversarialImages
from vlp.strategies.adversarial_texts import AdversarialTexts
from vlp.strategies.adversarial_words import AdversarialWords
from vlp.strategies.base import Strategy
from vlp.strategies.short_first import ShortFirst


def check_adversaries(used: Mapping[str, Strategy]) -> None:
    """Refuse what would take something else for what an adversary has made.

    Raises:
        RecipeError: Names the keys and a way out.
    """
    _check_order(used)


def _check_order(used: Mapping[str, Strategy]) -> None:
    """Refuse captions that change once an adversary has looked at them, or has named their tokens."""
    labels = [*used]
    for place, label in enumerate(labels):
        if not isinstance(used[label], AdversarialImages | AdversarialTexts | AdversarialWords):
            continue
        changing = (ShortFirst, AdversarialWords) if isinstance(used[label], AdversarialTexts) else (ShortFirst,)
        for other in labels[place + 1 :]:
            if isinstance(used[other], changing):
                raise RecipeError(
                    f"strategies.{other}: changes captions that strategies.{label} has attacked already: list {label} "
                    f"behind {other}"
                )
