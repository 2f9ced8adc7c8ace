"""What must hold of numbers under attack before anybody may believe them (Carlini et al. 2019, arXiv:1902.06705)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from vlp.robust.findings import Outcome

NOTHING_LEFT = 0.05  # share of samples that may be right where an attack may paint what it likes
MOST_BLIND = 0.01  # share of samples without a gradient
MOST_UNSEEN = 0.01  # share of samples that only an attack without gradients finds
ROUNDING = 1e-3  # of a step of 8-bit colours, by which a float32 may lie outside of a ball


@dataclass(frozen=True)
class Trial:
    """One attack at one radius.

    Args:
        has_gradients: Whether it went by gradients.
        is_random: Whether it is no attack, but what chance does.
        ranks: Where what is right stands for each sample under it.
    """

    label: str
    radius: float
    has_gradients: bool
    is_random: bool
    outcome: Outcome
    ranks: Int64[Tensor, " n"]

    @property
    def is_right(self) -> Bool[Tensor, " n"]:
        """Return which samples are right under it."""
        return self.ranks == 1

    @property
    def share(self) -> float:
        """Return the share of samples that are right."""
        return float(self.is_right.double().mean())


@dataclass(frozen=True)
class Evidence:
    """What gates look at: one set, and attacks that can be compared: all on the pixels of each image, or one other.

    Args:
        clean: Embeddings of what is attacked as an evaluation has them, and `ranks`, where what is right stands then.
        zero: The same attack as `unbounded`, where nothing may move.
        unbounded: An attack by gradients at a radius at which nothing should be left.
        trials: The attacks at the radii of the report.
    """

    clean: Float32[Tensor, "n d"]
    ranks: Int64[Tensor, " n"]
    zero: Trial | None
    unbounded: Trial | None
    trials: Sequence[Trial]

    def at(self, radius: float) -> list[Trial]:
        """Return the trials at a radius."""
        return [trial for trial in self.trials if trial.radius == radius]

    @property
    def radii(self) -> list[float]:
        """Return the radii of the trials, ascending."""
        return sorted({trial.radius for trial in self.trials})


@dataclass(frozen=True)
class Gate:
    """One thing that must hold.

    Args:
        said: What was found.
    """

    name: str
    is_passed: bool
    said: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return asdict(self)


def judge(evidence: Evidence) -> list[Gate]:
    """Return every gate that the evidence allows to ask."""
    found = [gate(evidence) for gate in GATES]
    return [gate for gate in found if gate is not None]


def zero_radius(evidence: Evidence) -> Gate | None:
    """Where nothing may move, embeddings are those of the evaluation, bit for bit."""
    if evidence.zero is None:
        return None
    outcome = evidence.zero.outcome
    differ = int((outcome.rows != evidence.clean).any(dim=1).sum())
    moved = int((outcome.distance > 0).sum())
    return Gate(
        "zero_radius",
        not differ and not moved,
        f"at radius 0, {differ} of {len(evidence.clean)} embeddings differ from those of the evaluation",
    )


def not_above_clean(evidence: Evidence) -> Gate | None:
    """No attack makes a model better than it is."""
    clean = float((evidence.ranks == 1).double().mean())
    attacks = [trial for trial in evidence.trials if not trial.is_random]
    best = max(attacks, key=lambda trial: trial.share, default=None)
    if best is None:
        return None
    return Gate("not_above_clean", best.share <= clean, f"{_name(best)} leaves {best.share:.4f}, clean is {clean:.4f}")


def falls_with_radius(evidence: Evidence) -> Gate | None:
    """What all attacks together leave does not grow with the radius."""
    left = {radius: _left(evidence.at(radius)) for radius in evidence.radii}
    pairs = list(zip(evidence.radii, evidence.radii[1:], strict=False))
    if not pairs:
        return None
    rises = [f"{left[low]} right at {low:g}, {left[high]} at {high:g}" for low, high in pairs if left[high] > left[low]]
    said = "; ".join(rises) or f"right: {', '.join(f'{left[each]} at {each:g}' for each in evidence.radii)}"
    labels = dict.fromkeys(trial.label for trial in evidence.trials if not trial.is_random)
    return Gate("falls_with_radius", not rises, f"under {', '.join(labels)}, {said}")


def nothing_left_unbounded(evidence: Evidence) -> Gate | None:
    """An attack that may paint what it likes leaves nearly nothing: else it does not see the model."""
    trial = evidence.unbounded
    if trial is None:
        return None
    return Gate(
        "nothing_left_unbounded",
        trial.share <= NOTHING_LEFT,
        f"{_name(trial)} leaves {trial.share:.4f}, and at most {NOTHING_LEFT} is what an attack that works leaves",
    )


def gradients_are_there(evidence: Evidence) -> Gate | None:
    """Hardly any sample has a gradient of zero: rounding, a saturated softmax or a trick would make one."""
    blind = {
        _name(trial): float(trial.outcome.is_blind.double().mean())
        for trial in evidence.trials
        if trial.outcome.is_blind is not None
    }
    if not blind:
        return None
    name = max(blind, key=lambda each: blind[each])
    said = f"{name} has no gradient for {blind[name]:.4f} of the samples, and at most {MOST_BLIND} may have none"
    return Gate("gradients_are_there", blind[name] <= MOST_BLIND, said)


def within_ball(evidence: Evidence) -> Gate | None:
    """No pixel moved further than it may, or out of what a picture can hold."""
    trials = [trial for trial in (*evidence.trials, evidence.zero, evidence.unbounded) if trial is not None]
    if not trials:
        return None
    out = [
        f"{_name(trial)} moved something by {float(trial.outcome.distance.max()):.4f}, to values between "
        f"{trial.outcome.least:.4f} and {trial.outcome.most:.4f}"
        for trial in trials
        if float(trial.outcome.distance.max()) > trial.radius + ROUNDING
        or trial.outcome.least < 0
        or trial.outcome.most > 1
    ]
    return Gate(
        "within_ball", not out, "; ".join(out) or "every change is as small as it must be, and pixels lie within [0, 1]"
    )


def beats_chance(evidence: Evidence) -> Gate | None:
    """An attack by gradients does more than signs drawn at random."""
    worse, asked = [], False
    for radius in evidence.radii:
        trials = evidence.at(radius)
        chance = [trial for trial in trials if trial.is_random]
        by_gradients = [trial for trial in trials if trial.has_gradients]
        asked = asked or bool(chance and by_gradients)
        worse += [
            f"{_name(trial)} leaves {trial.share:.4f}, random signs {each.share:.4f}"
            for trial in by_gradients
            for each in chance
            if trial.share > each.share
        ]
    said = "; ".join(worse) or "no attack by gradients leaves more than random signs"
    return Gate("beats_chance", not worse, said) if asked else None


def nothing_found_blindly(evidence: Evidence) -> Gate | None:
    """An attack without gradients finds nothing that those with gradients overlook: else the model hides them."""
    found, asked = [], False
    for radius in evidence.radii:
        trials = evidence.at(radius)
        blindly = [trial for trial in trials if not trial.has_gradients and not trial.is_random]
        by_gradients = [trial for trial in trials if trial.has_gradients]
        if not blindly or not by_gradients:
            continue
        asked = True
        overlooked = torch.stack([trial.is_right for trial in by_gradients]).all(dim=0)
        unseen = overlooked & ~torch.stack([trial.is_right for trial in blindly]).all(dim=0)
        share = float(unseen.double().mean())
        if share > MOST_UNSEEN:
            names = ", ".join(trial.label for trial in blindly)
            found.append(f"at {radius:g}, {names} alone breaks {share:.4f} of the samples")
    said = "; ".join(found) or f"attacks without gradients alone break at most {MOST_UNSEEN} of the samples"
    return Gate("nothing_found_blindly", not found, said) if asked else None


GATES = (
    zero_radius,
    not_above_clean,
    falls_with_radius,
    nothing_left_unbounded,
    gradients_are_there,
    within_ball,
    beats_chance,
    nothing_found_blindly,
)


def _left(trials: Sequence[Trial]) -> int:
    return int(torch.stack([trial.is_right for trial in trials]).all(dim=0).sum())


def _name(trial: Trial) -> str:
    return f"{trial.label} at {trial.radius:g}"
