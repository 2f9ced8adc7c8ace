"""The verbs of statistics: they come in the documented order on every path, and going back leaves the answers alone."""

from __future__ import annotations

import re

import pytest
import torch

from tests.pairs.dense import COLUMNS, REQUESTS, ROWS, blocks_of, leaves, mix
from tests.pairs.test_walk import EXTREMES
from vlp.pairs import KMEAN, LSE, MAP, SOFTPLUS, WMEAN, nearness, pair_stats
from vlp.pairs.engine import plain_sums, softmax_sums
from vlp.pairs.engine.statistic import Statistic

KINDS = (
    softmax_sums.LogSumExp,
    softmax_sums.SoftmaxMean,
    plain_sums.PointwiseSum,
    plain_sums.KernelSum,
    plain_sums.TopK,
    plain_sums.Histogram,
)
LETTERS = {
    "begin_forward": "F",
    "add": "a",
    "add_and_differentiate": "a",
    "merge_processes": "m",
    "is_exact": "e",
    "results": "r",
    "saved_for_backward": "s",
    "begin_backward": "B",
    "to_derivative": "d",
    "exponentials_to_derivative": "d",
}
ONE_WALK = "Fa+m"
ORDER = re.compile(f"{ONE_WALK}(e({ONE_WALK})?)?[rs]+(Bd*)*")
"""The walk may come twice; what is answered and saved comes after it, and any number of ways back after that."""


@pytest.fixture
def said(monkeypatch):
    """Record what every statistic is told by others, one letter for each verb."""
    record, running = {}, []
    for kind in KINDS:
        for verb, letter in LETTERS.items():
            if hasattr(kind, verb):
                monkeypatch.setattr(kind, verb, noting(getattr(kind, verb), letter, record, running))
    return record


def noting(verb, letter, record, running):
    """Wrap a verb; what a statistic says to itself meanwhile is not noted."""

    def noted(self, *args):
        if not running:
            record.setdefault(self, []).append(letter)
        running.append(verb)
        try:
            return verb(self, *args)
        finally:
            running.pop()

    return noted


def walk(inputs, requests, backwards=2, **options):
    stats = pair_stats(blocks_of(*inputs), requests, tile_size=4, **options)
    loss = mix(stats)
    for _ in range(backwards):
        torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)


def test_every_statistic_is_listed():
    found = {
        kind
        for module in (plain_sums, softmax_sums)
        for kind in vars(module).values()
        if isinstance(kind, type) and hasattr(kind, "to_derivative")
    }
    assert found == set(KINDS) | {plain_sums.Plain} & found
    verbs = {name for name in vars(Statistic) if not name.startswith("_") and callable(getattr(Statistic, name))}
    assert verbs <= LETTERS.keys()


@pytest.mark.parametrize("kept_bytes", [0, 2**20])
@pytest.mark.parametrize("name", REQUESTS)
def test_verbs_come_in_order(said, name, kept_bytes):
    walk(leaves(9), REQUESTS[name], kept_bytes=kept_bytes)
    assert said
    for statistic, letters in said.items():
        assert ORDER.fullmatch("".join(letters)), (type(statistic), "".join(letters))


def test_a_walk_that_lost_digits_begins_again(said):
    """Nothing is left of exponentials whose bound lies 400 above them."""
    image, text = EXTREMES["opposed"](16)
    numbers = torch.tensor([200.0, -10.0])
    walk([leaf.float().requires_grad_() for leaf in (image, text, *numbers)], {"image_text": [ROWS]})
    ((_, letters),) = said.items()
    assert re.fullmatch(f"{ONE_WALK}e{ONE_WALK}[rs]+(Bd+)+", "".join(letters))


@pytest.mark.parametrize(
    ("block", "request_"),
    [
        ("image_text", ROWS),
        ("image_extra", ROWS),
        ("image_extra", COLUMNS),
        ("image_image", LSE("row", mask="pair")),
        ("image_text", WMEAN("row")),
        ("image_image", WMEAN("row")),
        ("image_text", KMEAN("row", nearness(0.2))),
        ("image_text", MAP(SOFTPLUS)),
    ],
)
def test_going_back_changes_nothing_of_what_was_answered(said, block, request_):
    inputs = [leaf.float().detach().requires_grad_() for leaf in leaves(9, scale=100.0)]
    stats = pair_stats(blocks_of(*inputs), {block: [request_]}, tile_size=4)
    (statistic,) = said
    results, saved = ({a: v.clone() for a, v in x().items()} for x in (statistic.results, statistic.saved_for_backward))
    torch.autograd.grad(mix(stats), inputs, allow_unused=True)
    for before, after in ((results, statistic.results()), (saved, statistic.saved_for_backward())):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[axis], after[axis]) for axis in before)
