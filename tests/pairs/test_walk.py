"""pair_stats against whole matrices: values, every gradient, extremes, and what it must not allocate."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.pairs.dense import COLUMNS, REQUESTS, ROWS, blocks_of, dense_stat, leaves, mix, unit
from vlp.pairs import HIST, KMEAN, LSE, MAP, SOFTPLUS, TOPK, WMEAN, Block, Side, TileMemory, nearness, pair_stats
from vlp.pairs.engine.tiles import Rectangle

NEGATIVES = [LSE("row", mask="pair"), LSE("column", mask="pair")]


def dense_stats(blocks, requests):
    return {(name, request): dense_stat(blocks[name], request) for name in requests for request in requests[name]}


def gradients(loss, inputs):
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, inputs, strict=True)]


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize(("size", "tile_size"), [(1, 4), (2, 1), (2, 4), (7, 3), (13, 4), (13, 13), (16, 8)])
def test_equals_dense(name, size, tile_size):
    inputs = leaves(size)
    requests = REQUESTS[name]
    streamed = pair_stats(blocks_of(*inputs), requests, tile_size=tile_size)
    dense = dense_stats(blocks_of(*inputs), requests)
    assert streamed.keys() == dense.keys()
    for key, values in dense.items():
        torch.testing.assert_close(streamed[key], values, rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(gradients(mix(streamed), inputs), gradients(mix(dense), inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", REQUESTS)
def test_without_a_bound_equals_dense(name, monkeypatch):
    """The way an accelerator goes, where reading the bound would wait."""
    monkeypatch.setattr("vlp.pairs.engine.matrix.bound_of_cosines", lambda *_: None)
    test_equals_dense(name, 13, 4)


@pytest.mark.parametrize("length", [0.2, 3.0])
@pytest.mark.parametrize("name", ["both", "negatives", "fixed", "means", "rectangular"])
def test_rows_of_any_length_are_exact_at_a_large_scale(name, length):
    """Their products exceed 1: the bound must grow with them, or exponentials overflow."""
    image, text, scale, bias = (leaf.detach() for leaf in leaves(13, scale=100.0))
    inputs = [leaf.requires_grad_() for leaf in (length * image, length * text, scale, bias)]
    streamed = pair_stats(blocks_of(*inputs), REQUESTS[name], tile_size=4)
    dense = dense_stats(blocks_of(*inputs), REQUESTS[name])
    for key, values in dense.items():
        torch.testing.assert_close(streamed[key], values, rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(gradients(mix(streamed), inputs), gradients(mix(dense), inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (0, 2), (1, 2), (2, 3)])
def test_any_subset_of_gradients(wanted):
    inputs = leaves(9)
    for k, leaf in enumerate(inputs):
        leaf.requires_grad_(k in wanted)
    chosen = [inputs[k] for k in wanted]
    for requests in (REQUESTS["all"], {"image_text": [ROWS, COLUMNS, MAP(SOFTPLUS)]}):
        streamed = mix(pair_stats(blocks_of(*inputs), requests, tile_size=4))
        dense = mix(dense_stats(blocks_of(*inputs), requests))
        for ours, theirs in zip(gradients(streamed, chosen), gradients(dense, chosen), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_gradcheck():
    inputs = leaves(5, scale=3.0)
    assert torch.autograd.gradcheck(
        lambda *leaf: mix(pair_stats(blocks_of(*leaf), REQUESTS["all"], tile_size=2)), inputs
    )


EXTREMES = {
    "random": lambda n: (unit(n, 16, 1), unit(n, 16, 2)),
    "converged": lambda n: (torch.eye(n, 32).double(), torch.eye(n, 32).double()),
    "duplicated": lambda n: (unit(1, 16, 1).repeat(n, 1), unit(1, 16, 1).repeat(n, 1)),
    "opposed": lambda n: (unit(1, 16, 1).repeat(n, 1), -unit(1, 16, 1).repeat(n, 1)),
    "one row far off": lambda n: (unit(1, 16, 1).repeat(n, 1) * torch.tensor([-1.0] + [1.0] * (n - 1))[:, None],) * 2,
}


@pytest.mark.parametrize("scale", [1.0, 14.0, 100.0, 200.0])
@pytest.mark.parametrize("name", EXTREMES)
def test_float32_is_exact_and_finite_at_extremes(name, scale):
    exact = [leaf.detach().requires_grad_() for leaf in (*EXTREMES[name](24), *torch.tensor([scale, -10.0]).double())]
    rounded = [leaf.detach().float().requires_grad_() for leaf in exact]
    requests = {"image_text": [ROWS, COLUMNS, *NEGATIVES, MAP(SOFTPLUS, mask="pair")]}
    dense = dense_stats(blocks_of(*exact), requests)
    streamed = pair_stats(blocks_of(*rounded), requests, tile_size=10)
    for key, values in dense.items():
        assert streamed[key].dtype == torch.float32
        # a float32 logit of size 200 is rounded by up to 1e-5
        torch.testing.assert_close(streamed[key].double(), values, rtol=2e-6, atol=1e-6 * scale)
    loss = sum(values.mean() for values in streamed.values())
    wanted = gradients(sum(values.mean() for values in dense.values()), exact)
    for ours, theirs in zip(gradients(loss, rounded), wanted, strict=True):
        assert bool(ours.isfinite().all())
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=2e-5 * scale)


# One request or one walk's worth of them: what keeps exponentials instead of logits.
ALONE = {
    "rows": ("image_text", [ROWS]),
    "columns": ("image_text", [COLUMNS]),
    "both": ("image_text", [ROWS, COLUMNS]),
    "negatives": ("image_text", NEGATIVES),
    "rows of a rectangle": ("image_extra", [ROWS]),
    "columns of a rectangle": ("image_extra", [COLUMNS]),
    "both of a rectangle": ("image_extra", [ROWS, COLUMNS]),
    "within": ("image_image", [ROWS]),
    "negatives within": ("image_image", [LSE("row", mask="pair")]),
}


@pytest.mark.parametrize("kept_bytes", [0, 2**12, 2**26])
@pytest.mark.parametrize("scale", [100.0, 200.0])
@pytest.mark.parametrize("cloud", ["random", "opposed", "one row far off"])
@pytest.mark.parametrize("name", ALONE)
def test_one_request_alone_is_exact_at_extremes(name, cloud, scale, kept_bytes):
    """Kept tiles hold exponentials at one shift, which may turn out too coarse, or be another one going back."""
    block, requests = ALONE[name]
    exact = [leaf.detach().requires_grad_() for leaf in (*EXTREMES[cloud](32), *torch.tensor([scale, -10.0]).double())]
    rounded = [leaf.detach().float().requires_grad_() for leaf in exact]
    dense = dense_stats(blocks_of(*exact), {block: requests})
    streamed = pair_stats(blocks_of(*rounded), {block: requests}, tile_size=10, kept_bytes=kept_bytes)
    for key, values in dense.items():
        torch.testing.assert_close(streamed[key].double(), values, rtol=2e-6, atol=1e-6 * scale)
    for ours, theirs in zip(gradients(mix(streamed), rounded), gradients(mix(dense), exact), strict=True):
        assert bool(ours.isfinite().all())
        error, size = (ours.double() - theirs).norm(), theirs.norm()
        assert error <= 1e-3 * size + 2e-5 * scale


def test_a_sum_that_lost_its_small_addends_is_not_trusted():
    """At this row's shift half of its sum lies below the smallest normal number, which processors may take for 0."""
    size, scale = 1024, 100.0
    shift = 1.001 * scale - (math.log(torch.finfo(torch.float32).max) - math.log(size) - 1)
    cosines = torch.full((size,), (shift - 87.6) / scale, dtype=torch.float64)
    cosines[0] = (shift - 80.3) / scale
    image = torch.tensor([[0.0, 1.0]], dtype=torch.float64).repeat(size, 1)
    image[0] = torch.tensor([1.0, 0.0])
    text = torch.stack([cosines, (1 - cosines.square()).sqrt()], dim=1)
    exact = (scale * image[:1] @ text.T).logsumexp(dim=1)
    numbers = torch.tensor(scale), torch.tensor(0.0)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor keeps numbers below the smallest normal one")
    try:
        sides = [Side(side.float(), side.float) for side in (image, text)]
        found = pair_stats({"b": Block(*sides, *numbers)}, {"b": [ROWS]})["b", ROWS]
    finally:
        torch.set_flush_denormal(False)
    assert found[0].item() == pytest.approx(exact.item(), abs=1e-3)  # the sum would lack 40 %


def test_the_series_of_softplus_keeps_float32_digits():
    """Where all logits lie just below the limit from which the series is used; one wrong term weighs 3e-7 there."""
    logits = torch.linspace(-4.2, -4.0, 4096)[None]
    exact = torch.nn.functional.softplus(logits.double(), threshold=100).sum(1)
    found = SOFTPLUS.row_sums(logits.clone(), torch.empty_like(logits))
    assert found.double().item() == pytest.approx(exact.item(), rel=1e-7)


def test_negatives_keep_their_digits_when_the_loss_is_tiny():
    """A converged batch at scale 100: the loss is near 1e-31, and so is its gradient; neither is noise."""
    image = torch.eye(24, 32).requires_grad_()
    scale = torch.tensor(100.0)
    block = Block(Side(image, image.detach), Side(image.detach(), image.detach), scale, torch.tensor(0.0))
    negatives = pair_stats({"b": block}, {"b": NEGATIVES})["b", NEGATIVES[0]]
    loss = torch.logaddexp(negatives - 100, torch.zeros(())).mean()
    (gradient,) = torch.autograd.grad(loss, image)
    tiny = 23 * torch.tensor(-100.0).double().exp()
    assert loss.item() == pytest.approx(tiny.item(), rel=1e-4)
    assert gradient[0, 1].item() == pytest.approx(100 / 24 * tiny.item() / 23, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_accumulate_in_float32(dtype):
    inputs = leaves(40, dtype=dtype)
    exact = [leaf.detach().double().requires_grad_() for leaf in inputs]
    streamed = pair_stats(blocks_of(*inputs), {"image_text": [ROWS, COLUMNS]}, tile_size=16)
    dense = dense_stats(blocks_of(*exact), {"image_text": [ROWS, COLUMNS]})
    for key, values in dense.items():
        torch.testing.assert_close(streamed[key].double(), values, rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(gradients(mix(streamed), inputs), gradients(mix(dense), exact), strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-2, atol=1e-2)


def test_autocast_around_it_changes_nothing():
    inputs = leaves(20, dtype=torch.float32)
    plain = mix(pair_stats(blocks_of(*inputs), REQUESTS["both"], tile_size=8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = mix(pair_stats(blocks_of(*inputs), REQUESTS["both"], tile_size=8))
        ours = gradients(inside, inputs)
    assert inside.item() == plain.item()
    for a, b in zip(ours, gradients(plain, inputs), strict=True):
        assert torch.equal(a, b)


class LargestTensor(TorchDispatchMode):
    """Record the element count of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        sizes = [leaf.untyped_storage().nbytes() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.numel = max([self.numel, *(size // 4 for size in sizes)])
        return result


def test_nothing_of_the_size_of_the_batch_squared_exists():
    size = 4096
    inputs = leaves(size, dim=16, dtype=torch.float32)
    requests = {
        "image_text": [
            *NEGATIVES,
            LSE("row", fixed_scale=4.0, mask="label"),
            MAP(SOFTPLUS),
            KMEAN("row", nearness(0.1)),
            WMEAN("column"),
            TOPK("row", 16),
            HIST(100),
        ],
        "image_image": [LSE("row", fixed_scale=4.0, mask="pair")],
    }
    blocks = blocks_of(*inputs)
    with LargestTensor() as largest:
        stats = pair_stats(blocks, requests)
        sum(values.double().mean() for values in stats.values()).backward()
    assert all(leaf.grad is not None for leaf in inputs)
    assert size * 16 <= largest.numel <= size * size // 16


@pytest.mark.parametrize("name", ["all", "both", "image_image"])
def test_kept_tiles_give_the_same_numbers_and_go_with_the_backward_pass(name):
    inputs = leaves(13)
    results = []
    for kept_bytes, kept_tiles in ((0, 0), (4 * 4 * 8 * 3, 3), (2**20, 16)):
        requests = {"image_image": [ROWS]} if name == "image_image" else REQUESTS[name]
        stats = pair_stats(blocks_of(*inputs), requests, tile_size=4, kept_bytes=kept_bytes)
        path = next(iter(stats.values())).grad_fn.path
        assert len(path.kept) == (min(kept_tiles, 10) if name == "image_image" else kept_tiles)
        loss = mix(stats)
        once = torch.autograd.grad(loss, inputs[:1], retain_graph=True)
        assert not path.kept
        results.append([loss, *once, *torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)])
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_processes", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize(("local_size", "tile_size"), [(4, 4), (7, 3), (8, 2), (1, 5)])
def test_processes_share_the_tiles_of_a_symmetric_matrix(num_processes, local_size, tile_size):
    size = num_processes * local_size
    side, seen, walked = Side(torch.zeros(local_size, 1), lambda: torch.zeros(size, 1)), torch.zeros(size, size), []
    for rank in range(num_processes):
        whole = Rectangle(
            side.local, side.everyone, rank * local_size, side, side, triangular=True, tile_size=tile_size
        )
        walked.append(0)
        for tile in whole.tiles():
            seen[tile.batch_rows, tile.columns] += 1
            walked[-1] += tile.logits.numel()
            if tile.mirrored:
                seen[tile.columns, tile.batch_rows] += 1
    assert bool((seen == 1).all())
    if (local_size, tile_size) == (8, 2):
        assert max(walked) == min(walked)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [-30.0, -3.0, 2.0])
@pytest.mark.parametrize("even", [True, False])
def test_a_pointwise_sum_alone_is_walked_once_where_rows_weigh_the_same(even, bias, dtype):
    inputs = leaves(13, dtype=dtype)
    with torch.no_grad():
        inputs[3].fill_(bias)
    exact = [leaf.detach().double().requires_grad_() for leaf in inputs]
    request = MAP(SOFTPLUS, mask="pair")
    weights = torch.full((13,), 0.5) if even else torch.linspace(0, 1, 13)
    values = pair_stats(blocks_of(*inputs), {"image_text": [request]}, tile_size=4)["image_text", request]
    wanted = dense_stat(blocks_of(*exact)["image_text"], request)
    rounding = 1e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(values.double(), wanted, rtol=10 * rounding, atol=0)
    loss = (values * weights).sum()
    with CountedProducts() as products:
        first = torch.autograd.grad(loss, inputs, retain_graph=True)
    assert (products.count == 0) == even
    right = torch.autograd.grad((wanted * weights).sum(), exact)
    for ours in (first, torch.autograd.grad(loss, inputs)):
        for mine, theirs in zip(ours, right, strict=True):
            torch.testing.assert_close(mine.double(), theirs, rtol=50 * rounding, atol=float(theirs.norm()) * rounding)


class CountedProducts(TorchDispatchMode):
    """Count matrix products."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in (torch.ops.aten.mm.out, torch.ops.aten.addmm_.default)
        return function(*args, **(kwargs or {}))


def test_memory_of_one_call_serves_the_next():
    inputs, memory = leaves(64), TileMemory()

    def call():
        with CountedTiles() as tiles:
            gradients(mix(pair_stats(blocks_of(*inputs), REQUESTS["all"], tile_size=32, memory=memory)), inputs)
        return tiles.count

    first, second = call(), call()
    assert first > 0
    assert second == 0


LOST = {
    "of another shift": ("image_extra", "random", 100.0),  # going back, rows alone want another one
    "too coarse": ("image_text", "opposed", 200.0),  # so that the walk is repeated
}


@pytest.mark.parametrize("name", LOST)
def test_kept_tiles_that_are_of_no_use_serve_the_next_call_too(name):
    block, cloud, scale = LOST[name]
    leaf = [side.float().requires_grad_() for side in EXTREMES[cloud](64)]
    leaf += [torch.tensor(number).requires_grad_() for number in (scale, -10.0)]
    memory, counts = TileMemory(), []
    for _ in range(2):
        with CountedTiles() as tiles:
            gradients(mix(pair_stats(blocks_of(*leaf), {block: [ROWS]}, tile_size=32, memory=memory)), leaf)
        counts.append(tiles.count)
    assert counts[0] > 1
    assert counts[1] == 0


class CountedTiles(TorchDispatchMode):
    """Count how often memory of the size of a tile of 32 x 32 is asked for."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.count += function is torch.ops.aten.new_empty.default and result.numel() == 32 * 32
        return result


def test_individual_scales_of_a_symmetric_block_are_refused():
    with pytest.raises(ValueError, match="individual scales"):
        pair_stats(blocks_of(*leaves(4)), {"image_image": [LSE("row", individual=True)]})


def test_the_largest_tensor_is_noticed():
    with LargestTensor() as largest:
        torch.randn(64, 2) @ torch.randn(2, 64)
    assert largest.numel >= 64 * 64


def test_nothing_outlives_the_loss():
    inputs = leaves(8)
    stats = pair_stats(blocks_of(*inputs), REQUESTS["all"])
    path = weakref.ref(stats["image_text", ROWS].grad_fn.path)
    gc.disable()
    try:
        del stats
        assert path() is None
    finally:
        gc.enable()


def test_equal_requests_are_computed_once():
    inputs = leaves(6)
    stats = pair_stats(blocks_of(*inputs), {"image_text": [LSE("row"), LSE("row"), LSE("row", factor=1.0)]})
    assert len(stats) == 1


def test_columns_of_a_symmetric_block_are_refused():
    with pytest.raises(ValueError, match="symmetric: ask for its rows"):
        pair_stats(blocks_of(*leaves(4)), {"image_image": [COLUMNS]})
