"""ClipViewsTerm against a slow reading of the paper, and what it is with one view of each."""

from __future__ import annotations

import math

import pytest

from tests.objectives.batches import unit, value_of
from vlp.objectives.clip import ClipTerm
from vlp.objectives.clip_views import ClipViewsTerm

VARIANTS = [{"label_smoothing": 0.1}]


def READING(batch, label_smoothing=0.0):
    """The formula on whole matrices, where rows of one sample are no negatives of each other."""
    images, texts = (batch.image, *batch.image_views), (batch.text, *batch.text_views)
    total = 0.0
    for cosines in (image @ text.T for image in images for text in texts):
        for logits in (batch.scale * cosines, batch.scale * cosines.T):
            seen = logits.masked_fill(~batch.seen, -math.inf)
            spread = logits.masked_fill(~batch.seen, 0).sum(1) / batch.seen.sum(1)
            right = (1 - label_smoothing) * logits.diagonal() + label_smoothing * spread
            total = total + (seen.logsumexp(1) - right).mean()
    return total / (2 * len(images) * len(texts))


def smoothed_cross_entropy(queries, keys, scale, smoothing):
    """Mean over queries of -sum_j target_j log softmax_j, the target spread by `smoothing`."""
    total = 0.0
    for i, query in enumerate(queries):
        logits = [scale * float(query @ key) for key in keys]
        log_sum = math.log(sum(map(math.exp, logits)))
        for j, logit in enumerate(logits):
            target = smoothing / len(keys) + (1 - smoothing) * (i == j)
            total -= target * (logit - log_sum)
    return total / len(queries)


@pytest.mark.parametrize(("images", "texts"), [(1, 1), (2, 2), (3, 1), (1, 2)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_matches_paper(images, texts, smoothing):
    """CL2LLoss of the authors: each local image view against each local text view, both directions."""
    image, text = [unit(5, 6, k) for k in range(images)], [unit(5, 6, 10 + k) for k in range(texts)]
    losses = [
        (smoothed_cross_entropy(one, other, 10.0, smoothing) + smoothed_cross_entropy(other, one, 10.0, smoothing)) / 2
        for one in image
        for other in text
    ]
    term = ClipViewsTerm(label_smoothing=smoothing)
    value = value_of(term, image[0], text[0], image_views=tuple(image[1:]), text_views=tuple(text[1:]))
    assert value == pytest.approx(sum(losses) / len(losses), rel=1e-10)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_with_one_view_of_each_it_is_clip(smoothing):
    image, text = unit(7, 6, 1), unit(7, 6, 2)
    alone = value_of(ClipTerm(label_smoothing=smoothing), image, text)
    assert value_of(ClipViewsTerm(label_smoothing=smoothing), image, text) == pytest.approx(alone, rel=1e-12)


def test_smoothing_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="label_smoothing"):
        ClipViewsTerm(label_smoothing=1.5)
