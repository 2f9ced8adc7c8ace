"""Adversaries teach a tower that learns."""

from __future__ import annotations

from typing import Literal

from vlp.ground.types import RecipeError
from vlp.towers.dual import DualEncoder

WHAT = {"image": "images", "text": "captions"}


def check_trains(model: DualEncoder, side: Literal["image", "text"]) -> None:
    """Refuse a locked tower.

    Raises:
        RecipeError: No parameter of it trains.
    """
    if model.locked_image if side == "image" else model.locked_text:
        raise RecipeError(
            f"model.freeze: the {side} tower is locked, and learns nothing from {WHAT[side]} that an adversary has "
            "changed: let some of it train (model.tune), or leave the adversary out of strategies"
        )
