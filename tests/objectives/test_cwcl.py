"""CwclTerm against a slow reading of the paper, its limits, and its known weakness."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import draw_leaves, gradients_of, pairs_of, share_of, unit, value_of
from vlp.objectives.clip import ClipTerm
from vlp.objectives.cwcl import CwclTerm

VARIANTS = [
    {"kernel": "exp", "kernel_temperature": 0.3, "mix": 0.4, "reduction": "mean"},
    {"kernel": "exp", "anchor": "text"},
    {"anchor": "text"},
    {"kernel": "topk", "k": 3},
    {"kernel": "topk", "k": 50, "anchor": "text", "mix": 0.4},
]

KERNELS = {
    "linear": lambda cosine: (1 + cosine) / 2,
    "exp": lambda cosine: math.exp((cosine - 1) / 0.3),
}


def targets_by_hand(reference, kernel, mix=1.0):
    """Share of anchor i's target on sample j."""
    size = len(reference)
    weights = [[KERNELS[kernel](float(reference[i] @ reference[j])) for j in range(size)] for i in range(size)]
    return [[(1 - mix) * (i == j) + mix * weights[i][j] / sum(weights[i]) for j in range(size)] for i in range(size)]


def nearest_targets_by_hand(reference, num_nearest, mix=1.0):
    """Linear weights of the nearest references only, the sample itself among them."""
    size, targets = len(reference), []
    for i in range(size):
        cosines = [float(reference[i] @ reference[j]) for j in range(size)]
        kept = sorted(range(size), key=lambda j: -cosines[j] - 9 * (j == i))[:num_nearest]
        weights = [(1 + cosines[j]) / 2 * (j in kept) for j in range(size)]
        targets.append([(1 - mix) * (i == j) + mix * weights[j] / sum(weights) for j in range(size)])
    return targets


def one_direction(anchors, others, scale, targets):
    """Mean cross-entropy of softmax over `others` to soft targets, one combination at a time."""
    size, total = len(anchors), 0.0
    for i in range(size):
        logits = [scale * float(anchors[i] @ other) for other in others]
        log_sum = math.log(sum(math.exp(logit) for logit in logits))
        total -= sum(targets[i][j] * (logits[j] - log_sum) for j in range(size))
    return total / size


def hard(size):
    return [[float(i == j) for j in range(size)] for i in range(size)]


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("kernel", ["linear", "exp"])
@pytest.mark.parametrize("anchor", ["image", "text"])
@pytest.mark.parametrize("mix", [1.0, 0.3])
def test_matches_paper(size, kernel, anchor, mix):
    image, text, reference = unit(size, 6, 1), unit(size, 6, 2), unit(size, 4, 3)
    targets = targets_by_hand(reference, kernel, mix)
    anchors, others = (image, text) if anchor == "image" else (text, image)
    expected = one_direction(anchors, others, 10.0, targets) + one_direction(others, anchors, 10.0, hard(size))
    settings = {"kernel_temperature": 0.3} if kernel == "exp" else {}
    term = CwclTerm(kernel=kernel, anchor=anchor, mix=mix, **settings)
    assert value_of(term, image, text, reference=reference) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("k", [1, 2, 4, 20])
@pytest.mark.parametrize("anchor", ["image", "text"])
@pytest.mark.parametrize("mix", [1.0, 0.3])
def test_truncated_kernel_matches_a_slow_reading(size, k, anchor, mix):
    image, text, reference = unit(size, 6, 1), unit(size, 6, 2), unit(size, 4, 3)
    anchors, others = (image, text) if anchor == "image" else (text, image)
    targets = nearest_targets_by_hand(reference, k, mix)
    expected = one_direction(anchors, others, 10.0, targets) + one_direction(others, anchors, 10.0, hard(size))
    term = CwclTerm(kernel="topk", k=k, anchor=anchor, mix=mix)
    assert value_of(term, image, text, reference=reference) == pytest.approx(expected, rel=1e-9)


def test_all_neighbours_make_it_the_linear_kernel():
    leaves, more = draw_leaves(7), {"reference": unit(7, 4, 3)}
    linear, truncated = CwclTerm(), CwclTerm(kernel="topk", k=7)
    assert share_of(truncated, pairs_of(*leaves, **more)).item() == pytest.approx(
        share_of(linear, pairs_of(*leaves, **more)).item(), rel=1e-10
    )
    torch.testing.assert_close(gradients_of(truncated, leaves, **more), gradients_of(linear, leaves, **more))


def test_mean_is_half_the_sum():
    image, text, reference = unit(7, 6, 1), unit(7, 6, 2), unit(7, 4, 3)
    total, mean = (value_of(CwclTerm(reduction=r), image, text, reference=reference) for r in ("sum", "mean"))
    assert mean == pytest.approx(total / 2)


@pytest.mark.parametrize(
    "settings", [{"mix": 0.0}, {"kernel": "exp", "kernel_temperature": 1e-3}, {"kernel": "topk", "k": 1}]
)
def test_without_soft_targets_it_is_clip(settings):
    """Mix 0, or a kernel so sharp that only the pair itself has weight."""
    image, text, reference = unit(7, 6, 1), unit(7, 6, 2), unit(7, 32, 3)
    value = value_of(CwclTerm(reduction="mean", **settings), image, text, reference=reference)
    assert value == pytest.approx(value_of(ClipTerm(), image, text), rel=1e-10)


def test_references_all_alike_pull_towards_the_mean_logit():
    image, text, reference = unit(7, 6, 1), unit(7, 6, 2), unit(1, 4, 3).repeat(7, 1)
    logits = 10 * image @ text.T
    expected = (logits.logsumexp(1) - logits.mean(1) + logits.logsumexp(0) - logits.diagonal()).mean().item()
    assert value_of(CwclTerm(), image, text, reference=reference) == pytest.approx(expected, rel=1e-10)


def test_entropy_of_the_targets_is_a_lower_bound():
    image, text, reference = unit(7, 6, 1), unit(7, 6, 2), unit(7, 4, 3)
    targets = targets_by_hand(reference, "linear")
    entropy = -sum(t * math.log(t) for row in targets for t in row) / 7
    weighted = value_of(CwclTerm(), image, text, reference=reference) - value_of(ClipTerm(text_share=1.0), image, text)
    assert weighted > entropy


def test_the_bound_is_reached_where_logits_are_log_weights():
    reference = unit(7, 4, 3)
    weights = (1 + reference @ reference.T) / 2
    image, text = weights.log(), torch.eye(7).double()
    targets = targets_by_hand(reference, "linear")
    entropy = -sum(t * math.log(t) for row in targets for t in row) / 7
    value = value_of(CwclTerm(), image, text, scale=1.0, reference=reference)
    assert value - value_of(ClipTerm(text_share=1.0), image, text, scale=1.0) == pytest.approx(entropy, rel=1e-9)


def test_the_linear_kernel_asks_for_a_gap_of_log_2_only():
    """Unrelated references: the optimum of the weighted direction has p = 2 / (n + 1) for the pair."""
    targets = targets_by_hand(torch.eye(9).double(), "linear")
    assert targets[0][0] == pytest.approx(2 / 10)
    assert math.log(targets[0][0] / targets[0][1]) == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    "settings",
    [
        {"mix": 1.5},
        {"kernel_temperature": 0.1},
        {"kernel": "exp", "kernel_temperature": 0.0},
        {"k": 3},
        {"kernel": "exp", "k": 3},
        {"kernel": "topk", "k": 0},
    ],
)
def test_settings_without_sense_are_refused(settings):
    with pytest.raises(ValueError, match=r"must|no effect"):
        CwclTerm(**settings)
