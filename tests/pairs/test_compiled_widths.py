"""Several widths in one walk of the kernels, compiled: without a device, and on one.

On a machine with CUDA: `pytest tests/pairs/test_compiled_widths.py -m gpu`.
"""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch

from tests.pairs.dense import COLUMNS, ROWS, leaves, mix
from tests.pairs.test_fused_widths import WIDTHS, compare, fused_stats, several, split
from tests.pairs.test_triton import start, texts_of, without_device
from vlp.pairs.engine import fused
from vlp.pairs.kernel_blocks import SINGLE


@pytest.fixture(scope="module")
def device():
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA, which `pytest -m gpu` alone sees")
    with start(None) as pool:
        yield lambda function, *args: pool.submit(function, *args, "cuda").result()


def compile_for(capability):
    """Compile what walks over one width and over four would launch."""
    kernels, compiled = without_device(capability)
    for widths in ((384,), (50, 96, 192, 384)):
        with (
            patch.object(fused, "blocks_for", lambda _: SINGLE),
            patch.object(fused, "precision_of", lambda *_: "tf32x3"),
            patch.object(fused, "_kernels", lambda: kernels),
            split(),
        ):
            inputs = leaves(16, widths[-1], dtype=torch.float32)
            mix(fused_stats(inputs, several({"image_text": [ROWS, COLUMNS]}, widths), widths)).backward()
    return texts_of(compiled)


@pytest.mark.long
@pytest.mark.parametrize(("capability", "unit"), [(80, "mma.sync"), (90, "wgmma.mma_async")])
def test_widths_compile_without_a_device(capability, unit, tmp_path, monkeypatch):
    """Each width has the loop of one over coordinates of its own, in the same memory, and the exponentials of one."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    with start(None) as pool:
        compiled = pool.submit(compile_for, capability).result()
    assert [name for name, _, _ in compiled] == ["forward", "backward"] * 2
    for one, four in zip(compiled[:2], compiled[2:], strict=True):
        for word in (unit, "ex2.approx"):
            assert four[2].count(word) == 4 * one[2].count(word) > 0
        assert four[1] == one[1] < 99 * 1024


@pytest.mark.gpu
@pytest.mark.parametrize(("size", "panel_size"), [(208, 64), (1008, 4096)])
def test_device_equals_dense(device, size, panel_size):
    """Of a kind whose compiled kernels both can use: compiling takes most of the time."""
    device(compare, "three", size, WIDTHS["dividing none"], panel_size, False, None)
