"""A few samples in pictures and words: what the model found before an attack, and what it finds after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float32
from torch import Tensor

from vlp.robust.findings import Outcome
from vlp.robust.goal import Goal
from vlp.robust.stage import Stage

FIRST = 3


def pictures(stage: Stage, clean: Float32[Tensor, "n d"], outcome: Outcome) -> list[dict[str, Any]]:
    """Return the samples that are shown, as plain JSON: pictures, what is right, what was found and what is."""
    shown = sorted(map(int, outcome.pictures))
    before, after = (first_found(stage.goal, rows[shown]) for rows in (clean, outcome.rows))
    return [
        {
            "key": stage.data.samples[place].key,
            "right": right_names(stage.goal, place),
            "before": before[number],
            "after": after[number],
            **outcome.pictures[str(place)],
        }
        for number, place in enumerate(shown)
    ]


def rewritten(stage: Stage, outcome: Outcome) -> list[dict[str, Any]]:
    """Return the first captions of the samples that are shown, before and after, and where their images stood."""
    texts, owners = stage.evaluator.texts, stage.image_of_text.tolist()
    places = [owners.index(image) for image in sorted(stage.shown)]
    assert stage.captions is not None
    ranks = [stage.captions.ranks(rows).tolist() for rows in (stage.shared.texts(texts), outcome.rows)]
    return [
        {
            "before": texts[place],
            "after": outcome.texts[place],
            "rank_before": ranks[0][place],
            "rank_after": ranks[1][place],
        }
        for place in places
    ]


def first_found(goal: Goal, rows: Float32[Tensor, "k d"]) -> list[list[str]]:
    """Return what scores most for each query, each name once."""
    if not len(rows):
        return []
    order = (rows.to(goal.candidates.device) @ goal.candidates.T).argsort(dim=1, descending=True, stable=True)
    return [list(dict.fromkeys(goal.names[place] for place in each))[:FIRST] for each in order.tolist()]


def right_names(goal: Goal, place: int) -> list[str]:
    """Return what a query should find, each name once."""
    kinds = goal.kinds.tolist()
    right: Sequence[int] = goal.right[place]
    return list(dict.fromkeys(goal.names[number] for number, kind in enumerate(kinds) if kind in right))
