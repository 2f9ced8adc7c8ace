"""The Triton kernels against whole matrices, in Triton's interpreter, which wants a process of its own.

On a machine with CUDA: `pytest tests/pairs/test_triton.py -m gpu`.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch

from tests.pairs.dense import COLUMNS, REQUESTS, ROWS, blocks_of, leaves, mix
from tests.pairs.test_processes import SIZE, local_blocks, weighted
from tests.pairs.test_walk import EXTREMES, NEGATIVES, dense_stats, gradients
from tests.processes import run_processes
from vlp.pairs import (
    HIST,
    KMEAN,
    LSE,
    MAP,
    SOFTPLUS,
    TOPK,
    WMEAN,
    WSUM,
    Block,
    affinity,
    nearness,
    pair_stats,
    tilt,
)
from vlp.pairs.engine import fused, matrix
from vlp.pairs.engine.fused_plan import has_kernel
from vlp.pairs.kernel_blocks import SINGLE

MIXED = [
    ROWS,
    NEGATIVES[1],
    LSE("row", factor=2.0, mask="label"),
    LSE("row", fixed_scale=4.0),
    MAP(SOFTPLUS, "pair"),
    WMEAN("column", factor=0.5, mask="pair"),
    KMEAN("row", nearness(0.2)),
    LSE("column", kernel=tilt(2.0)),
    WSUM("column", affinity(), mask="label"),
]
FUSED = {
    name: requests
    for name, requests in REQUESTS.items()
    if all(has_kernel(request) for each in requests.values() for request in each)
} | {"all": {"image_text": MIXED, "image_image": [MAP(SOFTPLUS), *NEGATIVES[:1]], "text_text": [LSE("row")]}}
SHARED_OUT = [name for name in REQUESTS if name not in FUSED]
each_request = pytest.mark.parametrize("name", FUSED)
each_half = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def start(initializer):
    return ProcessPoolExecutor(1, get_context("spawn"), initializer)


def interpret():
    """Triton looks once, when it is imported."""
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="module")
def interpreter():
    with start(interpret) as pool:
        yield lambda function, *args: pool.submit(function, *args).result()


@pytest.fixture(scope="module")
def device():
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA, which `pytest -m gpu` alone sees")
    with start(None) as pool:
        yield lambda function, *args: pool.submit(function, *args, "cuda").result()


def on_device(blocks, device):
    """Return the blocks on a device; sides stay shared where they are."""
    moved = {}
    for side in (side for block in blocks.values() for side in (block.rows, block.columns)):
        found = {name: getattr(side, name) for name in ("local", "labels", "scales", "ids")}
        parts = {name: values.to(device) for name, values in found.items() if values is not None}
        parts["references"] = {name: features.to(device) for name, features in side.references.items()}
        parts["gather"] = partial(side.everyone.to, device)
        moved.setdefault(id(side), replace(side, **parts))
    return {
        name: Block(moved[id(b.rows)], moved[id(b.columns)], b.scale.to(device), b.bias.to(device))
        for name, b in blocks.items()
    }


def fused_stats(inputs, requests, device="cpu"):
    stats = pair_stats(on_device(blocks_of(*inputs), device), requests, backend="triton")
    assert all(isinstance(answers.grad_fn.path, fused.FusedWalk) for answers in stats.values() if answers.requires_grad)
    return {key: answers.cpu() for key, answers in stats.items()}


def exact_copy(inputs):
    return [leaf.detach().double().requires_grad_() for leaf in inputs]


def compare(name, size, dim, panel_size, device="cpu"):
    """Float32 rounds a logit of 10 by 5e-7, and the hardware's exponential is no better; tiles are as exact."""
    requests, inputs = FUSED[name], leaves(size, dim, dtype=torch.float32)
    exact = exact_copy(inputs)
    with patch.object(fused, "PANEL_SIZE", {"row": panel_size, "column": panel_size}):
        ours = fused_stats(inputs, requests, device)
        found = gradients(mix(ours), inputs)
    dense = dense_stats(blocks_of(*exact), requests)
    assert ours.keys() == dense.keys()
    for key, values in dense.items():
        torch.testing.assert_close(ours[key].double(), values, rtol=5e-6, atol=5e-6)
    for gradient, wanted in zip(found, gradients(mix(dense), exact), strict=True):
        largest = max(1.0, wanted.abs().max().item())
        torch.testing.assert_close(gradient.double(), wanted, rtol=5e-6, atol=5e-6 * largest)


def compare_shared_out(name):
    inputs = leaves(11, dtype=torch.float32)
    exact = exact_copy(inputs)
    with patch.object(fused, "_runs_on", lambda device: True):
        found = pair_stats(blocks_of(*inputs), REQUESTS[name])
    dense = dense_stats(blocks_of(*exact), REQUESTS[name])
    ours = {key: found[key] for key in dense}
    assert any(isinstance(values.grad_fn.path, fused.FusedWalk) for values in ours.values() if values.requires_grad)
    for key, values in dense.items():
        torch.testing.assert_close(ours[key].to(values.dtype), values, rtol=5e-6, atol=5e-6)
    for gradient, wanted in zip(gradients(mix(ours), inputs), gradients(mix(dense), exact), strict=True):
        largest = max(1.0, wanted.abs().max().item())
        torch.testing.assert_close(gradient.double(), wanted, rtol=5e-6, atol=5e-6 * largest)


def compare_extremes(name, scale, device="cpu"):
    """The tolerances are those of the tiles."""
    exact = [leaf.detach().requires_grad_() for leaf in (*EXTREMES[name](24), *torch.tensor([scale, -10.0]).double())]
    rounded = [leaf.detach().float().requires_grad_() for leaf in exact]
    requests = {"image_text": [ROWS, COLUMNS, *NEGATIVES, MAP(SOFTPLUS, mask="pair")]}
    ours, dense = fused_stats(rounded, requests, device), dense_stats(blocks_of(*exact), requests)
    for key, values in dense.items():
        torch.testing.assert_close(ours[key].double(), values, rtol=3e-6, atol=1e-6 * scale)
    losses = [sum(values.mean() for values in stats.values()) for stats in (ours, dense)]
    for gradient, wanted in zip(gradients(losses[0], rounded), gradients(losses[1], exact), strict=True):
        assert bool(gradient.isfinite().all())
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-3, atol=2e-5 * scale)


def compare_half(dtype, size, dim, device="cpu"):
    """Products of halves are exact in float32; gradients are rounded to halves at the end."""
    inputs = leaves(size, dim, dtype=dtype)
    exact = exact_copy(inputs)
    requests = {"image_text": [ROWS, COLUMNS, MAP(SOFTPLUS)]}
    ours, dense = fused_stats(inputs, requests, device), dense_stats(blocks_of(*exact), requests)
    for key, values in dense.items():
        assert ours[key].dtype == torch.float32
        torch.testing.assert_close(ours[key].double(), values, rtol=3e-6, atol=3e-6)
    for gradient, wanted in zip(gradients(mix(ours), inputs), gradients(mix(dense), exact), strict=True):
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-2, atol=1e-2)


def compare_subset(wanted):
    inputs = leaves(9, dtype=torch.float32)
    for k, leaf in enumerate(inputs):
        leaf.requires_grad_(k in wanted)
    chosen = [inputs[k] for k in wanted]
    streamed, dense = fused_stats(inputs, FUSED["all"]), dense_stats(blocks_of(*inputs), FUSED["all"])
    for ours, theirs in zip(gradients(mix(streamed), chosen), gradients(mix(dense), chosen), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=5e-6 * max(1.0, theirs.abs().max().item()))


def compare_small_softplus(device="cpu"):
    inputs = leaves(20, bias=-30.0, dtype=torch.float32)
    exact = exact_copy(inputs)
    requests = {"image_text": [MAP(SOFTPLUS)]}
    ours, dense = fused_stats(inputs, requests, device), dense_stats(blocks_of(*exact), requests)
    for key, values in dense.items():
        torch.testing.assert_close(ours[key].double(), values, rtol=1e-5, atol=0)


def repeat(device):
    """Two runs over several panels are equal to the last bit."""
    inputs = leaves(1000, 64, dtype=torch.float32)
    with patch.object(fused, "PANEL_SIZE", {"row": 128, "column": 256}):
        first, second = (
            [*stats.values(), *gradients(mix(stats), inputs)]
            for stats in (fused_stats(inputs, FUSED["all"], device) for _ in range(2))
        )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@each_request
@pytest.mark.parametrize(("size", "dim"), [(1, 5), (2, 1), (7, 16), (33, 40)])
def test_equals_dense(interpreter, name, size, dim):
    interpreter(compare, name, size, dim, 4096)


@pytest.mark.parametrize("name", SHARED_OUT)
def test_kernels_and_tiles_share_what_is_asked(interpreter, name):
    interpreter(compare_shared_out, name)


@each_request
def test_panels_add_up(interpreter, name):
    interpreter(compare, name, 33, 5, 16)


@pytest.mark.parametrize("scale", [1.0, 100.0, 200.0])
@pytest.mark.parametrize("name", EXTREMES)
def test_float32_is_exact_and_finite_at_extremes(interpreter, name, scale):
    interpreter(compare_extremes, name, scale)


@each_half
def test_half_inputs_accumulate_in_float32(interpreter, dtype):
    interpreter(compare_half, dtype, 40, 6)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (0, 2), (2, 3)])
def test_any_subset_of_gradients(interpreter, wanted):
    interpreter(compare_subset, wanted)


def test_small_sums_of_softplus_keep_their_digits(interpreter):
    interpreter(compare_small_softplus)


def fused_on(rank, world_size):
    interpret()
    rows = slice(rank * SIZE // world_size, (rank + 1) * SIZE // world_size)
    answers = {}
    for name, requests in FUSED.items():
        image, text, scale, bias = leaves(SIZE, dtype=torch.float32)
        local = [leaf.detach().requires_grad_() for leaf in (image[rows], text[rows], scale, bias)]
        with patch.object(matrix, "FEWEST_OWN", 1):
            loss = weighted(pair_stats(local_blocks(*local), requests, backend="triton"), rows)
        answers[name] = [loss.item(), *(gradient.numpy() for gradient in gradients(loss, local))]
    return answers


@pytest.mark.processes
def test_two_processes_add_up_to_one():
    parts = run_processes(fused_on, 2, fresh=True)
    for name, requests in FUSED.items():
        inputs = leaves(SIZE)
        loss = mix(dense_stats(blocks_of(*inputs), requests))
        losses, images, texts, scales, biases = zip(*(part[name] for part in parts), strict=True)
        assert sum(losses) == pytest.approx(loss.item(), rel=1e-5)
        together = [torch.cat([torch.as_tensor(p) for p in pieces]) for pieces in (images, texts)]
        together += [torch.as_tensor(sum(scales)), torch.as_tensor(sum(biases))]
        for ours, theirs in zip(together, gradients(loss, inputs), strict=True):
            largest = max(1.0, theirs.abs().max().item())
            torch.testing.assert_close(ours.double(), theirs, rtol=5e-6, atol=5e-6 * largest, msg=name)


def without_device(capability):
    """Return kernels that compile what a walk would launch and launch nothing, and the list that they leave it in."""
    import triton
    from triton.backends.compiler import GPUTarget

    from vlp.pairs.engine import triton_kernels

    target = GPUTarget("cuda", capability, 32)
    driver = SimpleNamespace(
        get_current_device=lambda: 0, get_current_stream=lambda device: 0, get_current_target=lambda: target
    )
    triton.runtime.driver.set_active(driver)
    compiled = []

    class Compiler:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            return lambda *args, **options: compiled.append(self.kernel.warmup(*args, grid=grid, **options))

    return SimpleNamespace(
        forward=Compiler(triton_kernels.forward), backward=Compiler(triton_kernels.backward)
    ), compiled


def texts_of(compiled):
    """Return name, bytes of shared memory and assembly."""
    return [(kernel.metadata.name, kernel.metadata.shared, kernel.asm["ptx"]) for kernel in compiled]


def compile_for(capability):
    """Compile kernels for each way to multiply float32."""
    kernels, compiled = without_device(capability)
    for precision in ("tf32x3", "tf32", "ieee"):
        with (
            patch.object(fused, "blocks_for", lambda _: SINGLE),
            patch.object(fused, "precision_of", lambda *_, chosen=precision: chosen),
            patch.object(fused, "_kernels", lambda: kernels),
        ):
            mix(fused_stats(leaves(16, 16, dtype=torch.float32), {"image_text": MIXED})).backward()
    return texts_of(compiled)


@pytest.mark.long
@pytest.mark.parametrize(("capability", "unit"), [(80, "mma.sync"), (90, "wgmma.mma_async")])
def test_kernels_compile_for_matrix_units_without_a_device(capability, unit, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    with start(None) as pool:
        compiled = pool.submit(compile_for, capability).result()
    assert [name for name, _, _ in compiled] == ["forward", "backward"] * 3
    exact, fast, plain = ([text.count(unit) for _, _, text in compiled[at : at + 2]] for at in (0, 2, 4))
    assert exact == [3 * number for number in fast] and min(fast) > 0 and plain == [0, 0]
    assert max(shared for _, shared, _ in compiled) < 99 * 1024  # what the smallest of these devices have


def no_triton():
    raise ImportError("no triton")


def test_without_cuda_nobody_imports_triton(monkeypatch):
    monkeypatch.setattr(fused, "_kernels", no_triton)
    stats = pair_stats(blocks_of(*leaves(4, dtype=torch.float32)), REQUESTS["both"])
    assert not isinstance(stats["image_text", ROWS].grad_fn.path, fused.FusedWalk)


def test_auto_needs_a_device_that_triton_knows_and_triton(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(fused, "_kernels", lambda: None)
    for capability, runs in (((9, 0), True), ((8, 0), True), ((7, 5), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert fused._runs_on(cuda) == runs
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(fused, "_kernels", no_triton)
    assert not fused._runs_on(cuda)
    assert not fused._runs_on(torch.device("cpu"))


def test_a_request_without_a_kernel_alone_goes_to_the_tiles(monkeypatch):
    monkeypatch.setattr(fused, "_runs_on", lambda device: True)
    block = blocks_of(*leaves(4, dtype=torch.float32))["image_text"]
    known, unknown = [ROWS, WMEAN("column"), LSE("row", kernel=nearness(0.1))], [TOPK("row", 2), HIST(5)]
    assert fused.share_out("auto", block, known) == {True: known}
    assert fused.share_out("auto", block, [*unknown, *known]) == {True: known, False: unknown}
    assert fused.share_out("tiles", block, known) == {False: known}
    assert fused.share_out("auto", blocks_of(*leaves(4))["image_text"], [ROWS]) == {False: [ROWS]}


@pytest.mark.parametrize(("request_", "dtype"), [(TOPK("row", 2), torch.float32), (ROWS, torch.float64)])
def test_what_has_no_kernel_is_refused_where_triton_is_asked_for(request_, dtype):
    with pytest.raises(ValueError, match="backend 'triton' answers"):
        pair_stats(blocks_of(*leaves(4, dtype=dtype)), {"image_text": [request_]}, backend="triton")


@pytest.mark.gpu
@each_request
@pytest.mark.parametrize(("size", "dim", "panel_size"), [(1, 5, 4096), (33, 40, 4096), (1000, 512, 256)])
def test_device_equals_dense(device, name, size, dim, panel_size):
    device(compare, name, size, dim, panel_size)


@pytest.mark.gpu
@pytest.mark.parametrize("name", EXTREMES)
def test_device_is_exact_and_finite_at_extremes(device, name):
    device(compare_extremes, name, 100.0)


@pytest.mark.gpu
@each_half
def test_device_accumulates_halves_in_float32(device, dtype):
    device(compare_half, dtype, 1000, 512)


@pytest.mark.gpu
def test_device_keeps_the_digits_of_small_sums_of_softplus(device):
    device(compare_small_softplus)


@pytest.mark.gpu
def test_device_repeats_bit_for_bit(device):
    device(repeat)
