"""All attacks on one task, each at each radius by itself, so that what is done need not be done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from vlp.data.shards.cards import load_card
from vlp.evaluators.earlier_records import task_sha256
from vlp.evaluators.record import Record
from vlp.robust.attacks.base import Attack
from vlp.robust.kept_outcomes import KeptOutcomes
from vlp.robust.opening import Opened
from vlp.robust.planned_attacks import Planned
from vlp.robust.task_record import task_record

Tell = Callable[[str, float, bool], None]


def attack_task(
    opened: Opened,
    plan: Sequence[Planned],
    kept: KeptOutcomes,
    tell: Tell,
    *,
    model_checksum: float,
    configuration: str = "",
) -> Record:
    """Attack a task and return its part of the record, equal on all processes.

    Args:
        kept: Where outcomes of an earlier start may be.
        tell: Hears of each attack when it is done: in words, how much work it is, and whether it was done before.
        model_checksum: A number that depends on every weight.
        configuration: A word that changes with what the weights are used as.
    """
    known = {
        "task": opened.task.name,
        "task_sha256": task_sha256(opened.task),
        "data": opened.data.fingerprint,
        "texts": hashlib.sha256(json.dumps(list(opened.scorer.evaluator.texts)).encode()).hexdigest(),
        "model": model_checksum,
        "configuration": configuration,
        "batch_size": opened.stage.batch_size,
    }
    done = []
    for each in plan:
        told = known | {"type": each.listed.type, "settings": dict(each.listed.settings), "radius": each.radius}
        told |= {"layers": each.keeps_layers, "pictures": not each.is_probe, "learned_from": _card(each.attack)}
        name = f"{opened.task.name}-{each.name}"
        found = outcome = kept.find(name, told)
        if outcome is None:
            title = f"{opened.task.name}: {each.listed.label} {each.radius:g}"
            shown = frozenset() if each.is_probe else opened.stage.shown
            stage = replace(opened.stage, title=title, keeps_layers=each.keeps_layers, shown=shown)
            outcome = each.attack.change(stage, each.radius)
            kept.keep(name, told, outcome)
        done.append((each, outcome))
        tell(
            f"{opened.task.name} {each.listed.label} {each.radius:g}{each.attack.unit}",
            each.work(len(opened.data)),
            found is not None,
        )
    return task_record(opened, done)


def _card(attack: Attack) -> str | None:
    """Return the checksum of the data that an attack learns from."""
    return load_card(attack.card).fingerprint if attack.card else None
