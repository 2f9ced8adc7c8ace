"""Supervised contrast among images that the model takes for the same, changed ones included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations_with_replacement
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vlp.ground.draws import uniform
from vlp.objectives.base import Term, terms
from vlp.pairs import LSE, TOPK, WSUM, Axis, Mask, Pairs, Side, Stats, nearness, pair_stats

Selection = Literal["soft", "leaked", "all"]
CODE_LENGTH = 64  # signs; those of two labels agree in nine tenths of them once in 10^11 times
SALT, BOTH = 0x5CA1AB1E, 0x9E3779B1
EQUAL = 1e-4  # a kernel this sharp is 1 for equal codes and 0 for others


@terms.register("ascl")
class AdversarialSupervisedTerm(Term):
    """Pull images of one label together, and push others away that the model takes for the same.

    Adversarial supervised contrast with the local selection of Bui et al. 2021, section 3 (arXiv:2101.10027): negatives
    that are far already would only blur what is near. The label of an image is its caption, and what the model takes it
    for is the nearest caption of the batch, in place of a classifier's guess. All image views take part, each with a
    guess of its own: with `strategies.adversarial_images` a changed image is one of them. For data whose captions are
    names of classes; beside a term that compares images with texts.

    Formula: mean_a [lse_{c in P, N} z_ac - mean_{p in P} z_ap], 0 where P is empty; a, c, p image views, z scale *
    cosine; P others of a's label (leaked: of its guess too), N those of other labels and of a's guess (all: any guess)

    Args:
        selection: `leaked` leaves images of the same label alone too where the model takes them for something else, in
            which the authors found most robustness; `soft` does not; `all` selects nothing (Khosla et al. 2020,
            arXiv:2004.11362).
    """

    needs = frozenset({"caption_ids"})
    discriminates = False
    reads_views = True
    nearest = TOPK("row", 1, mask="none")
    requests = {"image_text": (nearest,)}

    def __init__(self, *, selection: Selection = "soft"):
        super().__init__()
        self.selection = selection
        self.within = _asked("row", "pair", selection)
        self.rows, self.columns = _asked("row", "twin", selection), _asked("column", "twin", selection)

    def plan(self, pairs: Pairs, /) -> Mapping[str, Sequence[TOPK]]:
        return {f"{view}_text": (self.nearest,) for view in pairs.image_names}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        everyones = pairs.gather(pairs.caption_ids)
        guesses = [everyones[stats[f"{view}_text", self.nearest][:, 0]] for view in pairs.image_names]
        keys = [guess * BOTH * (self.selection == "leaked") + pairs.caption_ids for guess in guesses]
        sides = [
            replace(
                pairs.side_of(pairs.view(view), {"guess": code(guess, pairs.image), "right": code(key, pairs.image)}),
                labels=everyones,
            )
            for view, guess, key in zip(pairs.image_names, guesses, keys, strict=True)
        ]
        losses = [
            torch.where(number > 0, everything - right / number.clamp(min=1), 0)
            for (everything, right), number in zip(self._sums(pairs, sides), _num_right(pairs, keys), strict=True)
        ]
        return pairs.mean(torch.stack(losses).mean(dim=0))

    def _sums(self, pairs: Pairs, sides: Sequence[Side]) -> list[tuple[Tensor, Tensor]]:
        """Return, for each view, log-sum-exps over all that is selected, and sums over what is right."""
        couples = list(combinations_with_replacement(range(len(sides)), 2))
        blocks = {f"{one}_{other}": pairs.block_of(sides[one], sides[other]) for one, other in couples}
        wanted = {f"{one}_{other}": self.within if one == other else self.rows + self.columns for one, other in couples}
        found = pair_stats(blocks, wanted, pairs.group)
        sums: list[list[Tensor]] = [[] for _ in sides]
        rights: list[list[Tensor]] = [[] for _ in sides]
        for one, other in couples:
            asked = {one: self.within} if one == other else {one: self.rows, other: self.columns}
            for view, (wrong, right, right_sum) in asked.items():
                sums[view] += [found[f"{one}_{other}", request] for request in (wrong, right)]
                rights[view].append(found[f"{one}_{other}", right_sum])
        return [
            (torch.stack(each).logsumexp(dim=0), torch.stack(right).sum(dim=0))
            for each, right in zip(sums, rights, strict=True)
        ]


def _asked(axis: Axis, mask: Mask, selection: Selection) -> tuple[LSE, LSE, WSUM]:
    """Return the requests for what is wrong and taken for the same, and for what is right.

    Args:
        mask: Of what is right.
    """
    guess = None if selection == "all" else nearness(EQUAL, of="guess")
    right = nearness(EQUAL, of="right")
    return LSE(axis, kernel=guess, mask="label"), LSE(axis, kernel=right, mask=mask), WSUM(axis, right, mask)


def _num_right(pairs: Pairs, keys: Sequence[Int64[Tensor, " n"]]) -> list[Int64[Tensor, " n"]]:
    """Return, for each view, how many other images have its key; twins of a sample are none."""
    everyone = pairs.gather(torch.stack(list(keys), dim=1)).flatten()
    twins = everyone * BOTH + pairs.gather(pairs.ids).repeat_interleave(len(keys))
    found = []
    for key in keys:
        own = torch.stack([key == other for other in keys]).sum(dim=0)
        found.append(_count(everyone, key) - _count(twins, key * BOTH + pairs.ids) + own - 1)
    return found


def _count(everyone: Int64[Tensor, " m"], wanted: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    ordered = everyone.sort().values
    first, last = (torch.searchsorted(ordered, wanted, right=right) for right in (False, True))
    return last - first


def code(labels: Int64[Tensor, " n"], like: Tensor) -> Float[Tensor, "n r"]:
    """Return a direction for each label, the same for equal labels and another one for others."""
    signs = (uniform(labels, 0, SALT, CODE_LENGTH) < 0.5).to(like.dtype) * 2 - 1
    return signs / CODE_LENGTH**0.5
