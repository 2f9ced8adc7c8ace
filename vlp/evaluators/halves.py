"""Two halves of an evaluation set: something is chosen by one, and what that was worth is read on the other.

The half of a sample is decided by its key alone, so that sets whose pictures have the same keys, and tasks on one set,
never choose by a picture that they report on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

from vlp.ground.strict import Strict
from vlp.ground.types import RecipeError

Part = Literal["choosing", "reporting"]
PARTS: tuple[Part, Part] = ("choosing", "reporting")


class Half(Strict):
    """Which half of a set is read.

    Args:
        part: The one by which something is chosen, or the one on which its score is reported.
        of_instances: Keep the samples NAME_0, NAME_1 and so on of an instance together.
    """

    part: Part
    of_instances: bool = False


def part_of(key: str, *, of_instances: bool = False) -> Part:
    """Return the half that a sample belongs to: one bit of the SHA-256 of its key."""
    name = key.rpartition("_")[0] if of_instances else key
    return PARTS[hashlib.sha256(name.encode()).digest()[0] & 1]


def places_in(half: Half, keys: Sequence[str], where: str) -> list[int]:
    """Return the places of the samples of a half, in their order.

    Args:
        where: The set, for messages.

    Raises:
        RecipeError: There are none.
    """
    found = [place for place, key in enumerate(keys) if part_of(key, of_instances=half.of_instances) == half.part]
    if not found:
        raise RecipeError(f"{where}: none of its {len(keys)} samples falls into the {half.part} half; it is too small")
    return found
