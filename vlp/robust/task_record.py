"""What is told of a task that was attacked: numbers, the worst case, gates, pictures and diagnostics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float32
from torch import Tensor

from vlp.evaluators.earlier_records import task_sha256
from vlp.evaluators.record import Record
from vlp.robust.attack_diagnostics import diagnose
from vlp.robust.attacks.base import PIXELS
from vlp.robust.findings import Outcome
from vlp.robust.gates import Evidence, Gate, Trial, judge
from vlp.robust.opening import Opened
from vlp.robust.planned_attacks import CHANCE, Planned
from vlp.robust.scored import Laid, Scorer
from vlp.robust.shown_samples import pictures, rewritten

WORST = "worst case"
Done = Sequence[tuple[Planned, Outcome]]


def task_record(opened: Opened, done: Done) -> Record:
    """Return the part of a record that is about one task, as plain JSON.

    Args:
        done: What came of each attack.
    """
    scorer = opened.scorer
    evidence = _evidence(opened, [pair for pair in done if pair[0].is_of_pixels])
    found = [scorer.metrics(**{each.attack.side: outcome.rows}) for each, outcome in done]
    alone = [(each.radius, metrics) for (each, _), metrics in zip(done, found, strict=True) if each.is_of_pixels]
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
                "metrics": metrics,
                "examples": rewritten(opened.stage, outcome) if outcome.texts else [],
            }
            for (each, outcome), metrics in zip(done, found, strict=True)
        ],
        "worst": [
            {"label": WORST, "radius": radius, "unit": PIXELS, "metrics": _least(scorer, evidence, radius, alone)}
            for radius in evidence.radii
        ],
        "pictures": _pictures(opened, done),
        "diagnostics": _diagnostics(opened, done),
        "gates": [gate.as_dict() for gate in _gates(opened, done, evidence)],
    }


def _gates(opened: Opened, done: Done, of_pixels: Evidence) -> Iterator[Gate]:
    """Judge the attacks on each image by itself together, and every other attack alone."""
    yield from judge(of_pixels)
    for label in dict.fromkeys(each.listed.label for each, _ in done if not each.is_of_pixels):
        yield from judge(_evidence(opened, [pair for pair in done if pair[0].listed.label == label]))


def _evidence(opened: Opened, done: Done) -> Evidence:
    """Return what gates look at, of attacks on one side."""
    side = done[0][0].attack.side if done else "images"
    goal, clean = opened.stage.goal, opened.scorer.images
    if side == "texts":
        assert opened.stage.captions is not None
        goal, clean = opened.stage.captions, opened.scorer.texts
    found: dict[bool, list[Trial]] = {True: [], False: []}
    for each, outcome in done:
        is_random = each.listed.type == CHANCE
        ranks = goal.ranks(outcome.rows)
        trial = Trial(each.listed.label, each.radius, each.attack.needs_gradients, is_random, outcome, ranks)
        found[each.is_probe and not is_random].append(trial)
    zero = next((trial for trial in found[True] if not trial.radius), None)
    unbounded = next((trial for trial in found[True] if trial.radius), None)
    return Evidence(clean, opened.scorer.clean[goal.direction], zero, unbounded, found[False])


def _pictures(opened: Opened, done: Done) -> Record | None:
    """Show what the strongest attack at the largest radius did to a few images; None where none changes images."""
    ranks = opened.stage.goal.ranks
    pairs = [pair for pair in done if pair[0].attack.side == "images"]
    pairs = [pair for pair in pairs if not pair[0].is_probe and pair[0].listed.type != CHANCE and pair[1].pictures]
    own = [pair for pair in pairs if pair[0].is_of_pixels] or pairs
    if not own:
        return None
    each, outcome = min(own, key=lambda pair: (-pair[0].radius, int((ranks(pair[1].rows) == 1).sum())))
    shown = pictures(opened.stage, opened.scorer.images, outcome)
    return {"attack": each.listed.label, "radius": each.radius, "unit": each.attack.unit, "samples": shown}


def _diagnostics(opened: Opened, done: Done) -> Record | None:
    kept = {each.radius > 0: (each, outcome) for each, outcome in done if each.keeps_layers}
    if len(kept) < 2:
        return None
    goal = opened.stage.goal
    firsts = [int(goal.positives([place])[0].int().argmax()) for place in range(len(goal))]
    each, attacked = kept[True]
    return diagnose(
        kept[False][1], attacked, goal.candidates[firsts].cpu(), label=each.listed.label, radius=each.radius
    )


def _least(scorer: Scorer, evidence: Evidence, radius: float, alone: Sequence[tuple[float, Laid]]) -> Laid:
    """Return what the worst images leave: each from the attack that did worst to it, or all of one attack.

    As queries images stand by themselves. To captions that search among them they do not, and one attack on all of them
    may do more than any mixture.

    Args:
        alone: Radius and metrics of each attack on pixels.
    """
    mixed = scorer.metrics(_worst(evidence, radius))
    main = next(iter(mixed))
    return min((mixed, *(each for at, each in alone if at == radius)), key=lambda each: each[main]["value"] or 0.0)


def _worst(evidence: Evidence, radius: float) -> Float32[Tensor, "n d"]:
    """Return the embedding of each image as that attack left it that did worst to it, or nobody."""
    trials = evidence.at(radius)
    ranks = torch.stack([evidence.ranks, *(trial.ranks for trial in trials)])
    rows = torch.stack([evidence.clean, *(trial.outcome.rows for trial in trials)])
    return rows[ranks.argmax(dim=0), torch.arange(rows.shape[1])]
