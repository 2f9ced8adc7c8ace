"""Products in parts of which matrix units read the leading bits have the digits of float32."""

from __future__ import annotations

import pytest
import torch

from tests.pairs.dense import blocks_of, leaves
from vlp.ground.float32 import tf32, whole_float32
from vlp.pairs import LSE
from vlp.pairs.engine import split_products, walk
from vlp.pairs.engine.split_products import add_product_, leading, parts_of, transposed
from vlp.recipe.compose import load_recipe
from vlp.recipe.named_parts import build_objective

SIZES = (64, 300, 48)


def draw(spread=1.0):
    generator = torch.Generator().manual_seed(0)
    height, depth, width = SIZES
    left, right = torch.randn(height, depth, generator=generator), torch.randn(depth, width, generator=generator)
    return left * torch.exp(spread * torch.randn(left.shape, generator=generator)), right


def as_tf32(values):
    """Round to the nearest number of eleven bits, as the units do."""
    bits = values.contiguous().view(torch.int32)
    return ((bits + (1 << 12)) & -(1 << 13)).view(torch.float32)


def add_in_tf32(target, left, right):
    """Add a product of what is read, itself exact, as units do that add up in float32."""
    target += (as_tf32(left).double() @ as_tf32(right).double()).float()


def split(matrix):
    return leading(matrix), matrix - leading(matrix)


def error_of(found, left, right):
    exact = left.double() @ right.double()
    return float((found.double() - exact).abs().max() / (left.double().abs() @ right.double().abs()).max())


@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
def test_three_products_have_the_digits_of_float32(spread):
    left, right = draw(spread)
    once, thrice = torch.zeros(SIZES[0], SIZES[2]), torch.zeros(SIZES[0], SIZES[2])
    add_product_(once, (left,), (right,), add_in_tf32)
    add_product_(thrice, split(left), split(right), add_in_tf32)
    assert error_of(once, left, right) > 1e-5
    assert error_of(thrice, left, right) < 4e-7
    assert error_of(thrice, left, right) < 4 * error_of(left @ right, left, right) + 1e-7


def test_a_matrix_is_the_sum_of_its_parts():
    left, _ = draw(4.0)
    upper, rest = split(left)
    assert torch.equal(upper + rest, left)
    assert torch.equal(as_tf32(upper), upper)
    assert float((rest / left).abs().max()) < 2**-10
    for part, other in zip(transposed((upper, rest)), split(left.t().contiguous()), strict=True):
        assert torch.equal(part, other)


def test_on_the_cpu_matrices_stay_whole():
    left, right = draw()
    assert parts_of(left, "exact") == (left,)
    target = torch.ones(SIZES[0], SIZES[2])
    add_product_(target, (left,), (right,))
    torch.testing.assert_close(target, 1 + left @ right)


def test_the_setting_reaches_the_engine(monkeypatch):
    seen = []
    monkeypatch.setattr(walk, "matrix_of", lambda *_, numerics, **__: seen.append(numerics) or 1 / 0)
    for numerics in ("exact", "fast"):
        recipe = load_recipe("vitb32_clip", [f"train.numerics={numerics}"])
        objective = build_objective(recipe)
        assert objective.numerics == numerics
        with pytest.raises(ZeroDivisionError):
            walk.pair_stats(blocks_of(*leaves(4)), {"image_text": [LSE("row")]}, numerics=objective.numerics)
    assert seen == ["exact", "fast"]


def test_units_are_asked_for_and_given_back():
    matmul = torch.backends.cuda.matmul
    for outer in (False, True):
        matmul.allow_tf32 = outer
        with tf32():
            assert matmul.allow_tf32
            with whole_float32():
                assert not matmul.allow_tf32
            assert matmul.allow_tf32
        assert matmul.allow_tf32 == outer
    matmul.allow_tf32 = False


def test_there_are_two_ways():
    assert set(split_products.Numerics.__args__) == {"exact", "fast"}
