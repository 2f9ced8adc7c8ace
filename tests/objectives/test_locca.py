"""LoccaTerm: three means over tokens, that of captions over all samples, those of regions over samples with one."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.batches import DIM, pairs_of, share_of, unit
from vlp.objectives.locca import LoccaTerm

NO_TOWER = [{}]
NO_NEGATIVES = "each image, its tokens and those of a region"
CAPTIONS = [[0.5, 1.5, 2.0], [4.0], [1.0, 1.0]]
EXPRESSIONS = [([1.0, 2.0], [3.0, 1.0, 0.5, 0.5]), ([], []), ([0.25], [1.0, 2.0, 3.0, 4.0])]  # captions, then boxes
GROUNDED = [([2.0, 2.0, 1.0, 1.0], [0.5, 0.75]), ([], []), ([1.0, 0.0, 0.0, 3.0], [6.0])]  # boxes, then captions


def locca_by_hand(aref, gcap, given):
    """One token at a time."""
    total = 0.0
    for weight, sequences in (
        (1.0, [([], caption) for caption in CAPTIONS]),
        (aref, EXPRESSIONS),
        (gcap, GROUNDED),
    ):
        lost, words = 0.0, 0.0
        for first, second in sequences:
            for share, tokens in ((given, first), (1.0, second)):
                for loss in tokens:
                    lost, words = lost + share * loss, words + share
        total += weight * lost / words
    return total


def fields():
    parts = [(*one, *other) for one, other in zip(EXPRESSIONS, GROUNDED, strict=True)]
    return {
        "caption_losses": torch.tensor([sum(caption) for caption in CAPTIONS], dtype=torch.float64),
        "caption_words": torch.tensor([len(caption) for caption in CAPTIONS]),
        "region_losses": torch.tensor([[float(sum(part)) for part in row] for row in parts], dtype=torch.float64),
        "region_words": torch.tensor([[len(part) for part in row] for row in parts]),
    }


def value(more, **settings):
    return share_of(LoccaTerm(**settings), pairs_of(unit(3, DIM, 1), unit(3, DIM, 2), **more))


@pytest.mark.parametrize(("aref", "gcap", "given"), [(1.0, 1.0, 1.0), (0.5, 2.0, 0.0), (1.0, 0.0, 0.25)])
def test_matches_paper(aref, gcap, given):
    found = value(fields(), aref=aref, gcap=gcap, given=given).item()
    assert found == pytest.approx(locca_by_hand(aref, gcap, given))


def test_a_batch_without_regions_is_captioned_alone():
    none = {name: torch.zeros_like(part) for name, part in fields().items() if name.startswith("region")}
    assert value(fields() | none).item() == pytest.approx(10.0 / 6)
    assert value(fields() | none, given=0.0).item() == pytest.approx(10.0 / 6)


def test_weights_below_zero_are_refused():
    with pytest.raises(ValueError, match=r"gcap -1\.0 must not be negative"):
        LoccaTerm(gcap=-1.0)
