"""All attacks on one task, each radius by itself, and what may be said of them together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float32
from torch import Tensor

from vlp.evaluators.record import Record
from vlp.evaluators.tasks import task_sha256
from vlp.robust.attack_file import AttackList, Listed
from vlp.robust.attacks.base import PIXELS, Attack, attacks
from vlp.robust.findings import Outcome
from vlp.robust.gates import Evidence, Gate, Trial, judge
from vlp.robust.kept_outcomes import KeptOutcomes
from vlp.robust.opening import Opened
from vlp.robust.scored import Scorer, worst_rows

CHANCE = "random_signs"
WORST = "worst case"
Tell = Callable[[str, float], None]


@dataclass(frozen=True)
class Planned:
    """One attack at one radius, still to come.

    Args:
        is_probe: Whether only gates look at it.
    """

    listed: Listed
    attack: Attack
    radius: float
    is_probe: bool = False

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
        found += [replace(first, radius=radius, is_probe=True) for radius in (0.0, chosen.file.unbounded)]
    if of_pixels and all(each.listed.type != CHANCE for each in of_pixels):
        listed = Listed(CHANCE, CHANCE, {"tries": 1})
        found += [Planned(listed, attacks.build(CHANCE, {}), radius, is_probe=True) for radius in chosen.file.radii]
    return found


def attack_task(
    opened: Opened,
    plan: Sequence[Planned],
    kept: KeptOutcomes,
    tell: Tell,
    *,
    model_checksum: float,
) -> Record:
    """Attack a task and return its part of the record, equal on all processes.

    Args:
        kept: Where outcomes of an earlier start may be.
        tell: Hears of each attack when it is done: in words, and how much work it was.
        model_checksum: A number that depends on every weight.
    """
    known = {
        "task": opened.task.name,
        "task_sha256": task_sha256(opened.task),
        "data": opened.data.fingerprint,
        "model": model_checksum,
        "batch_size": opened.stage.batch_size,
    }
    plan = [each for each in plan if each.attack.side != "texts" or opened.stage.captions is not None]
    outcomes = []
    for each in plan:
        told = known | {"type": each.listed.type, "settings": dict(each.listed.settings), "radius": each.radius}
        name = f"{opened.task.name}-{each.name}"
        outcome = kept.find(name, told)
        if outcome is None:
            stage = replace(opened.stage, title=f"{opened.task.name}: {each.listed.label} {each.radius:g}")
            outcome = each.attack.change(stage, each.radius)
            kept.keep(name, told, outcome)
        outcomes.append(outcome)
        tell(f"{opened.task.name} {each.listed.label} {each.radius:g}{each.attack.unit}", each.work(len(opened.data)))
    return _record(opened, plan, outcomes)


def _record(opened: Opened, plan: Sequence[Planned], outcomes: Sequence[Outcome]) -> Record:
    scorer = opened.scorer
    evidence = _evidence(opened, [pair for pair in zip(plan, outcomes, strict=True) if pair[0].is_of_pixels])
    return {
        "task": opened.task.name,
        "version": opened.task.version,
        "evaluator": opened.task.evaluator,
        "main_metric": opened.task.main_metric,
        "task_sha256": task_sha256(opened.task),
        "data_sha256": opened.data.fingerprint,
        "samples": len(opened.data),
        "of": opened.of,
        "clean": scorer.metrics(),
        "attacks": [
            {
                "label": each.listed.label,
                "type": each.listed.type,
                "settings": dict(each.listed.settings),
                "radius": each.radius,
                "unit": each.attack.unit,
                "is_probe": each.is_probe,
                "metrics": scorer.metrics(**{each.attack.side: outcome.rows}),
            }
            for each, outcome in zip(plan, outcomes, strict=True)
        ],
        "worst": [
            {"label": WORST, "radius": radius, "unit": PIXELS, "metrics": scorer.metrics(rows)}
            for radius in evidence.radii
            for rows in [_worst(scorer, evidence, radius, opened.stage.goal.direction)]
        ],
        "gates": [gate.as_dict() for gate in _gates(opened, plan, outcomes)],
    }


def _gates(opened: Opened, plan: Sequence[Planned], outcomes: Sequence[Outcome]) -> Iterator[Gate]:
    """Judge the attacks on each image by itself together, and every other attack alone."""
    pairs = list(zip(plan, outcomes, strict=True))
    yield from judge(_evidence(opened, [pair for pair in pairs if pair[0].is_of_pixels]))
    for label in dict.fromkeys(each.listed.label for each, _ in pairs if not each.is_of_pixels):
        yield from judge(_evidence(opened, [pair for pair in pairs if pair[0].listed.label == label]))


def _evidence(opened: Opened, pairs: Sequence[tuple[Planned, Outcome]]) -> Evidence:
    """Return what gates look at, of attacks on one side."""
    side = pairs[0][0].attack.side if pairs else "images"
    goal, clean = opened.stage.goal, opened.scorer.images
    if side == "texts":
        assert opened.stage.captions is not None
        goal, clean = opened.stage.captions, opened.scorer.texts
    found: dict[bool, list[Trial]] = {True: [], False: []}
    for each, outcome in pairs:
        is_random = each.listed.type == CHANCE
        is_right = goal.ranks(outcome.rows) == 1
        trial = Trial(each.listed.label, each.radius, each.attack.needs_gradients, is_random, outcome, is_right)
        found[each.is_probe and not is_random].append(trial)
    zero = next((trial for trial in found[True] if not trial.radius), None)
    unbounded = next((trial for trial in found[True] if trial.radius), None)
    return Evidence(clean, opened.scorer.clean[goal.direction] == 1, zero, unbounded, found[False])


def _worst(scorer: Scorer, evidence: Evidence, radius: float, direction: str) -> Float32[Tensor, "n d"]:
    """Return the embedding of each image as the attack left it that did worst to it."""
    return worst_rows(scorer, [scorer.images, *(trial.outcome.rows for trial in evidence.at(radius))], direction)
