"""MarginTerm against a slow reading of the paper, and what it is without a margin."""

import math

import pytest

from tests.objectives.batches import unit, value_of
from vlp.objectives.clip import ClipTerm
from vlp.objectives.margin import MarginTerm

VARIANTS = [{"margin": 0.0}]


def READING(batch, margin=0.3):
    """The formula on whole matrices, where rows of one sample are no negatives of each other."""
    total = 0.0
    for logits in (batch.logits, batch.logits.T):
        ahead = (logits - logits.diagonal()[:, None] + batch.scale * margin).exp()
        total = total + (ahead * batch.others).sum(1).log1p().mean()
    return total / 2


def margin_by_hand(image, text, scale, margin):
    """Equation 4, one pair at a time, in both directions."""
    size, total = len(image), 0.0
    for i in range(size):
        for own, other in ((image, text), (text, image)):
            right = math.exp(scale * (float(own[i] @ other[i]) - margin))
            wrong = sum(math.exp(scale * float(own[i] @ other[j])) for j in range(size) if j != i)
            total -= math.log(right / (right + wrong))
    return total / (2 * size)


@pytest.mark.parametrize("size", [2, 7])
def test_matches_paper(size):
    image, text = unit(size, 6, 1), unit(size, 6, 2)
    assert value_of(MarginTerm(), image, text) == pytest.approx(margin_by_hand(image, text, 10.0, 0.3))


def test_without_a_margin_it_is_clip():
    image, text = unit(7, 6, 1), unit(7, 6, 2)
    assert value_of(MarginTerm(margin=0.0), image, text) == pytest.approx(value_of(ClipTerm(), image, text))
