"""MochiTerm against a slow reading of the paper with its own draws, and the identities of its settings."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from tests.objectives.batches import draw_leaves, gradients_of, pairs_of, share_of, unit, value_of
from vlp.ground.draws import uniform
from vlp.objectives.clip import ClipTerm
from vlp.objectives.mochi import SALTS, MochiTerm

VARIANTS = [{"hardest": 2, "mixes": 3, "anchor_mixes": 2}, {"mixes": 0, "anchor_mixes": 0}, {"queue": 7}]


def mochi_by_hand(image, text, scale, hardest, mixes, anchor_mixes):
    """One anchor at a time: sort its negatives, mix, normalise, sum exponentials; ids are positions, the step is 0."""
    size, total = len(image), 0.0
    for axis, own, other in (("row", image, text), ("column", text, image)):
        for i in range(size):
            negatives = sorted((j for j in range(size) if j != i), key=lambda j: -(own[i] @ other[j]).item())[:hardest]
            draws = uniform(torch.tensor([i]), 0, SALTS[axis], 3 * mixes + 2 * anchor_mixes)[0].tolist()
            shares, ranks = draws[: mixes + anchor_mixes], draws[mixes + anchor_mixes :]
            picks = [other[negatives[int(rank * len(negatives))]] for rank in ranks]
            made = [shares[m] * picks[m] + (1 - shares[m]) * picks[mixes + m] for m in range(mixes)] + [
                shares[mixes + m] / 2 * own[i] + (1 - shares[mixes + m] / 2) * picks[2 * mixes + m]
                for m in range(anchor_mixes)
            ]
            made = [functional.normalize(mix, dim=0).detach() for mix in made]
            candidates = [*other, *made]
            logits = torch.stack([scale * own[i] @ candidate for candidate in candidates])
            total = total + logits.logsumexp(0) - logits[i]
    return total / (2 * size)


@pytest.mark.parametrize(("size", "hardest"), [(2, 1), (9, 1), (9, 2), (16, 4)])
@pytest.mark.parametrize(("mixes", "anchor_mixes"), [(5, 0), (0, 3), (4, 2)])
def test_matches_paper(size, hardest, mixes, anchor_mixes):
    leaves = draw_leaves(size)
    term = MochiTerm(hardest=hardest, mixes=mixes, anchor_mixes=anchor_mixes)
    slow = mochi_by_hand(*leaves[:3], hardest, mixes, anchor_mixes)
    assert share_of(term, pairs_of(*leaves)).item() == pytest.approx(slow.item(), rel=1e-9)
    theirs = torch.autograd.grad(slow, leaves[:3])
    torch.testing.assert_close(gradients_of(term, leaves)[:3], list(theirs))


@pytest.mark.parametrize(("size", "used"), [(3, 1), (9, 2), (16, 4)])
def test_a_quarter_of_the_batch_is_hard_at_most(size, used):
    leaves = draw_leaves(size)
    slow = mochi_by_hand(*leaves[:3], used, 4, 2)
    ours = share_of(MochiTerm(hardest=64, mixes=4, anchor_mixes=2), pairs_of(*leaves))
    assert ours.item() == pytest.approx(slow.item(), rel=1e-9)


@pytest.mark.parametrize("settings", [{"mixes": 0, "anchor_mixes": 0}, {"first_step": 5}])
def test_without_mixes_it_is_clip(settings):
    leaves = draw_leaves(9)
    ours, clip = (share_of(term, pairs_of(*leaves, step=4)) for term in (MochiTerm(**settings), ClipTerm()))
    assert ours.item() == pytest.approx(clip.item(), rel=1e-12)


def with_queue_by_hand(image, text, past, ids, step, scale, hardest, mixes):
    """One anchor at a time, over the batch and what is queued of (images, texts, ids); a sample's own past left out."""
    size, total = len(image), 0.0
    for axis, own, other, old in (("row", image, text, past[1]), ("column", text, image, past[0])):
        for i in range(size):
            batch = [other[j] for j in range(size) if j != i]
            queued = [row for row, kept in zip(old, past[2], strict=True) if kept != ids[i]]
            nearest = sorted(batch, key=lambda row: -(own[i] @ row).item())[: max(1, min(hardest, size // 4))]
            nearest += sorted(queued, key=lambda row: -(own[i] @ row).item())[:hardest]
            nearest = sorted(nearest, key=lambda row: -(own[i] @ row).item())[:hardest]
            draws = uniform(torch.tensor([ids[i]]), step, SALTS[axis], 3 * mixes)[0].tolist()
            picks = [nearest[int(rank * len(nearest))] for rank in draws[mixes:]]
            made = [draws[m] * picks[m] + (1 - draws[m]) * picks[mixes + m] for m in range(mixes)]
            candidates = [other[i], *batch, *queued, *(functional.normalize(mix, dim=0) for mix in made)]
            logits = torch.stack([scale * own[i] @ candidate for candidate in candidates])
            total = total + logits.logsumexp(0) - logits[0]
    return float(total / (2 * size))


def test_what_is_queued_joins_negatives_and_mixes():
    """Three batches of 4 through a queue of 6: some of the first are dropped, and a sample meets its own past."""
    term = MochiTerm(hardest=3, mixes=4, queue=6)
    term.create(6)
    seen = []
    for step, ids in enumerate(([1, 2, 3, 4], [5, 6, 7, 8], [9, 6, 1, 11])):
        image, text = unit(4, 6, 2 * step + 1), unit(4, 6, 2 * step + 2)
        old = [torch.cat([each[k] for each in seen])[-6:].float().double() if seen else image[:0] for k in (0, 1)]
        past = (*old, [i for each in seen for i in each[2]][-6:])
        expected = with_queue_by_hand(image, text, past, ids, step, 10.0, 3, 4)
        found = share_of(term, pairs_of(image, text, ids=torch.tensor(ids), step=step)).item()
        assert found == pytest.approx(expected, rel=1e-6)
        seen.append((image, text, ids))
    assert term.queue.ids.tolist() == [7, 8, 9, 6, 1, 11]


def test_anchors_learn_from_what_is_queued():
    term = MochiTerm(mixes=0, queue=8)
    term.create(6)
    share_of(term, pairs_of(unit(4, 6, 5), unit(4, 6, 6), ids=torch.arange(4)))
    leaves = draw_leaves(4)
    first = gradients_of(term, leaves, ids=torch.arange(4) + 4)
    term.load_state_dict({"queue.rows": torch.zeros(2, 8, 6), "queue.ids": torch.full((8,), -1)})
    empty = gradients_of(term, leaves, ids=torch.arange(4) + 4)
    assert not torch.allclose(first[0], empty[0])
    plain = gradients_of(MochiTerm(mixes=0), leaves, ids=torch.arange(4) + 4)
    for ours, theirs in zip(empty, plain, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_mixes_of_equal_negatives_are_that_negative():
    """All negatives alike: m of them gain exactly log((m + s) / m) on their part of the sum."""
    image, text = unit(1, 6, 1).repeat(8, 1), unit(1, 6, 2).repeat(8, 1)
    logit = 10 * float(image[0] @ text[0])
    value = value_of(MochiTerm(hardest=2, mixes=5), image, text)
    assert value == pytest.approx(math.log(math.exp(logit) + (7 + 5) * math.exp(logit)) - logit, rel=1e-9)


def test_a_draw_that_rounds_to_one_picks_the_last_negative():
    """These ids have such a draw at this step; as an index it once was past the end, and for ever after a resume."""
    leaves = draw_leaves(256, dim=8, dtype=torch.float32)
    ids = torch.arange(3700, 3956)
    draws = uniform(ids, 13, SALTS["row"], 3 * 64), uniform(ids, 13, SALTS["column"], 3 * 64)
    assert any(bool((some.float() == 1).any()) for some in draws)
    assert all(bool(part.isfinite().all()) for part in gradients_of(MochiTerm(), leaves, ids=ids, step=13))


def test_mixes_change_with_the_step():
    image, text = unit(9, 6, 1), unit(9, 6, 2)
    values = {value_of(MochiTerm(hardest=2, mixes=2), image, text, step=step) for step in range(3)}
    assert len(values) == 3


@pytest.mark.parametrize(
    "settings", [{"hardest": 0}, {"mixes": -1}, {"anchor_mixes": -1}, {"first_step": -1}, {"queue": -1}]
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        MochiTerm(**settings)
