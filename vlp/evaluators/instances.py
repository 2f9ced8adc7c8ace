"""Samples that belong together: keys NAME_0, NAME_1 and so on."""

from __future__ import annotations

from vlp.evaluators.dataset import EvaluationSet
from vlp.ground.types import RecipeError


def runs_of(data: EvaluationSet) -> dict[str, list[int]]:
    """Return the samples of each instance by its name, numbered from 0; instances in the order of the set.

    Raises:
        RecipeError: A key has no number, or the numbers of an instance have a gap.
    """
    found: dict[str, dict[int, int]] = {}
    for index, sample in enumerate(data.samples):
        name, _, number = sample.key.rpartition("_")
        if not name or not (number.isascii() and number.isdigit()):
            raise RecipeError(f"{sample.where}: key '{sample.key}' must end in _ and a number, as in INSTANCE_0")
        found.setdefault(name, {})[int(number)] = index
    for name, members in found.items():
        if sorted(members) != list(range(len(members))):
            where = data.samples[next(iter(members.values()))].where
            raise RecipeError(f"{where}: '{name}' has {len(members)} samples, but not {name}_0 to _{len(members) - 1}")
    return {name: [members[number] for number in range(len(members))] for name, members in found.items()}
