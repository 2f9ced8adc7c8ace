"""All attacks on one task, each radius by itself, and what may be said of them together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float32
from torch import Tensor

from vlp.evaluators.record import Record, lay_out
from vlp.evaluators.tasks import task_sha256
from vlp.robust.attack_file import AttackList, Listed
from vlp.robust.attacks.base import Attack, attacks
from vlp.robust.findings import Outcome
from vlp.robust.gates import Evidence, Trial, judge
from vlp.robust.kept_outcomes import KeptOutcomes
from vlp.robust.opening import Opened

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
    trials = [
        Trial(
            each.listed.label,
            each.radius,
            each.attack.needs_gradients,
            each.listed.type == CHANCE,
            outcome,
            opened.stage.goal.ranks(outcome.rows) == 1,
        )
        for each, outcome in zip(plan, outcomes, strict=True)
    ]
    of_pixels = [pair for pair in zip(plan, trials, strict=True) if pair[0].is_of_pixels]
    by_probe = {each.radius: trial for each, trial in of_pixels if _is_extreme(each)}
    evidence = Evidence(
        opened.clean,
        opened.ranks == 1,
        by_probe.get(0.0),
        by_probe.get(max(by_probe, default=0.0)) if len(by_probe) > 1 else None,
        [trial for each, trial in of_pixels if not _is_extreme(each)],
    )
    return {
        "task": opened.task.name,
        "version": opened.task.version,
        "evaluator": opened.task.evaluator,
        "main_metric": opened.task.main_metric,
        "task_sha256": task_sha256(opened.task),
        "data_sha256": opened.data.fingerprint,
        "samples": len(opened.data),
        "of": opened.of,
        "clean": _metrics(opened, opened.clean),
        "attacks": [
            {
                "label": each.listed.label,
                "type": each.listed.type,
                "settings": dict(each.listed.settings),
                "radius": each.radius,
                "unit": each.attack.unit,
                "is_probe": each.is_probe,
                "metrics": _metrics(opened, outcome.rows),
            }
            for each, outcome in zip(plan, outcomes, strict=True)
        ],
        "worst": [
            {"label": WORST, "radius": radius, "unit": "/255", "metrics": _metrics(opened, rows)}
            for radius, rows in _worst(opened, evidence)
        ],
        "gates": [gate.as_dict() for gate in judge(evidence)],
    }


def _is_extreme(each: Planned) -> bool:
    """Whether a probe is one of the first attack at radius 0 or without bounds."""
    return each.is_probe and each.listed.type != CHANCE


def _worst(opened: Opened, evidence: Evidence) -> Iterator[tuple[float, Float32[Tensor, "n d"]]]:
    """Yield, for each radius, the embeddings of each image as the attack left it that did worst to it."""
    for radius in evidence.radii:
        rows = [opened.clean, *(trial.outcome.rows for trial in evidence.at(radius))]
        ranks = torch.stack([opened.stage.goal.ranks(each) for each in rows])
        yield radius, torch.stack(rows)[ranks.argmax(dim=0), torch.arange(len(opened.clean))]


def _metrics(opened: Opened, rows: Float32[Tensor, "n d"]) -> dict[str, dict[str, float | int | None]]:
    stage = opened.stage
    evaluation = stage.evaluator.run(stage.shared.showing(stage.data, images=rows))
    return lay_out(evaluation, opened.task.main_metric)
