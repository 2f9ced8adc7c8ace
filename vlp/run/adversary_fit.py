"""What does not fit adversaries in a recipe, said before the first step."""

from __future__ import annotations

from collections.abc import Mapping

from vlp.ground.types import RecipeError
from vlp.strategies.adversarial_images import AdversarialImages
from vlp.strategies.adversarial_texts import AdversarialTexts
from vlp.strategies.adversarial_words import AdversarialWords
from vlp.strategies.base import Strategy
from vlp.strategies.dense_teacher import DenseTeacher
from vlp.strategies.local_to_global import LocalToGlobal
from vlp.strategies.pixel_adversary import PixelAdversary
from vlp.strategies.short_first import ShortFirst


def check_adversaries(used: Mapping[str, Strategy]) -> None:
    """Refuse what would take something else for what an adversary has made.

    Raises:
        RecipeError: Names the keys and a way out.
    """
    _check_order(used)
    _check_views(used)


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


def _check_views(used: Mapping[str, Strategy]) -> None:
    """Refuse changed images beside clean ones where others count on the places of views."""
    for label, adversary in used.items():
        if not isinstance(adversary, PixelAdversary) or adversary.clean_weight == 0:
            continue
        for other, strategy in used.items():
            if isinstance(strategy, LocalToGlobal | DenseTeacher):
                counted = (
                    "adds small crops behind" if isinstance(strategy, LocalToGlobal) else "compares the first two of"
                )
                raise RecipeError(
                    f"strategies.{label}: changed images are further views, and strategies.{other} {counted} the views:"
                    f" set strategies.{label}.clean_weight=0, which shows changed images alone, or leave one out"
                )
