"""Every attack of a file at every radius, and those that gates ask for beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vlp.evaluators.base import Task
from vlp.robust.attack_file import AttackList, Listed
from vlp.robust.attacks.base import Attack, attacks
from vlp.robust.goal import CAPTIONS

CHANCE = "random_signs"


@dataclass(frozen=True)
class Planned:
    """One attack at one radius, still to come.

    Args:
        is_probe: Whether only gates look at it.
        keeps_layers: Whether what each block says is kept.
    """

    listed: Listed
    attack: Attack
    radius: float
    is_probe: bool = False
    keeps_layers: bool = False

    @property
    def is_of_pixels(self) -> bool:
        """Whether it changes each image by itself, so that others like it can be compared with it."""
        return self.attack.side == "images" and self.attack.radii is None

    def work(self, samples: int) -> float:
        """Return about how many images it shows to the model."""
        return float(self.attack.passes * samples)

    @property
    def name(self) -> str:
        """What to call it in file names and on bars."""
        return f"{self.listed.label}-{self.radius:g}"


def planned(chosen: AttackList) -> list[Planned]:
    """Return every attack at every radius of it, with those that gates ask for."""
    built = [(listed, listed.build()) for listed in chosen.listed]
    found = [
        Planned(listed, attack, radius)
        for listed, attack in built
        for radius in (chosen.file.radii if attack.radii is None else attack.radii)
    ]
    of_pixels = [each for each in found if each.is_of_pixels]
    first = next((each for each in of_pixels if each.attack.needs_gradients), None)
    if first is not None:
        last = max((each for each in of_pixels if each.attack is first.attack), key=lambda each: each.radius)
        found[found.index(last)] = replace(last, keeps_layers=True)
        found += [
            replace(first, radius=radius, is_probe=True, keeps_layers=not radius)
            for radius in (0.0, chosen.file.unbounded)
        ]
    if of_pixels and all(each.listed.type != CHANCE for each in of_pixels):
        listed = Listed(CHANCE, CHANCE, {"tries": 1})
        found += [Planned(listed, attacks.build(CHANCE, {}), radius, is_probe=True) for radius in chosen.file.radii]
    return found


def attacks_on(task: Task, plan: Sequence[Planned]) -> list[Planned]:
    """Return the attacks that a task gives something to change."""
    return [each for each in plan if each.attack.side == "images" or task.evaluator == CAPTIONS]
