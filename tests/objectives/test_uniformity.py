"""UniformityTerm against a slow reading of the paper, and reference values."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from tests.objectives.batches import draw_leaves, gradients_of, unit, value_of
from vlp.objectives.cross_uniformity import CrossUniformityTerm
from vlp.objectives.uniformity import UniformityTerm

VARIANTS = [{"modality": "image", "sharpness": 3.0}]
ONE_TOWER = [{"modality": "image", "sharpness": 3.0}]


def kernel_by_hand(one, other, sharpness):
    """Log of the mean Gaussian kernel over all ordered pairs of different samples."""
    size = len(one)
    kernels = [
        math.exp(-sharpness * sum((float(a) - float(b)) ** 2 for a, b in zip(one[i], other[j], strict=True)))
        for i in range(size)
        for j in range(size)
        if i != j
    ]
    return math.log(sum(kernels) / (size * (size - 1)))


@pytest.mark.parametrize("size", [2, 7])
@pytest.mark.parametrize("sharpness", [0.5, 2.0])
def test_matches_paper(size, sharpness):
    image, text = unit(size, 6, 1), unit(size, 6, 2)
    of_images, of_texts = kernel_by_hand(image, image, sharpness), kernel_by_hand(text, text, sharpness)
    for modality, expected in (("image", of_images), ("text", of_texts), ("both", (of_images + of_texts) / 2)):
        term = UniformityTerm(modality=modality, sharpness=sharpness)
        assert value_of(term, image, text) == pytest.approx(expected, rel=1e-9)


def image_uniformity(points, sharpness=2.0):
    return value_of(UniformityTerm(modality="image", sharpness=sharpness), points, points)


def test_collapsed_points_have_uniformity_zero_and_no_gradient():
    point = unit(1, 6, 1).repeat(5, 1)
    assert image_uniformity(point) == pytest.approx(0, abs=1e-12)
    image, *_ = gradients_of(UniformityTerm(), [point.requires_grad_(), *draw_leaves(5)[1:]])
    along_the_sphere = image - (image * point).sum(1, keepdim=True) * point
    assert along_the_sphere.abs().max().item() < 1e-12


def test_antipodes_have_uniformity_minus_4t():
    point = unit(1, 6, 1)
    assert image_uniformity(torch.cat([point, -point]), sharpness=1.5) == pytest.approx(-6.0)


def test_simplex_has_the_lowest_uniformity():
    size = 6
    simplex = functional.normalize(torch.eye(size).double() - 1 / size, dim=1)
    assert image_uniformity(simplex) == pytest.approx(-4 * size / (size - 1))


def test_isotropic_points_in_512_dimensions():
    assert image_uniformity(unit(1000, 512, 1)) == pytest.approx(-4 + 8 / 512, abs=2e-3)


def test_rotation_changes_nothing():
    points = unit(9, 6, 1)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).double())
    assert image_uniformity(points @ rotation) == pytest.approx(image_uniformity(points), rel=1e-10)


def test_three_values_make_a_kernel_discrepancy():
    """MMD^2 with U-statistics and the paired diagonal left out = e^U(image) + e^U(text) - 2 e^XU."""
    image, text = unit(9, 6, 1), unit(9, 6, 2)
    kernel = [(-2 * torch.cdist(a, b) ** 2).exp() for a, b in ((image, image), (text, text), (image, text))]
    means = [(k.sum() - k.trace()).item() / 72 for k in kernel]
    values = [value_of(UniformityTerm(modality=m), image, text) for m in ("image", "text")]
    across = value_of(CrossUniformityTerm(), image, text)
    discrepancy = math.exp(values[0]) + math.exp(values[1]) - 2 * math.exp(across)
    assert discrepancy == pytest.approx(means[0] + means[1] - 2 * means[2], rel=1e-9)


def test_sharpness_must_be_positive():
    with pytest.raises(ValueError, match="sharpness 0"):
        UniformityTerm(sharpness=0)


def test_it_never_moves_the_scale():
    assert gradients_of(UniformityTerm(), draw_leaves(5))[2].item() == 0
