"""Captions without padding, in one kernel for any lengths, beside groups of them that are padded to their longest."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from benchmarks.gpu.cases import Finding, Setting
from benchmarks.gpu.steps import draw_batch
from benchmarks.gpu.timing import MILLI, median, seconds_of
from vlp.towers.base import image_towers, text_towers
from vlp.towers.dual import DualEncoder
from vlp.towers.text import GROUPS
from vlp.towers.unpadded_attention import can_attend_unpadded

CAPTIONS, WIDTH, HEADS = 1024, 512, 8
WITHOUT = "auto"
LIKE_GROUPS = 1.5
"""Times the error that groups have in the same number format."""


def has_kernel(device: str) -> bool:
    """Whether captions need no padding here."""
    return can_attend_unpadded(torch.device(device), torch.bfloat16, WIDTH // HEADS)


def compare_layouts(setting: Setting) -> Finding:
    """Compare embeddings and gradients with those of float32, both ways, and the time of forward and backward."""
    towers = _towers().to(setting.device)
    batch = draw_batch(towers, CAPTIONS).to(setting.device)
    tokens, lengths = batch.tokens[0], batch.lengths[0]
    direction = torch.randn(CAPTIONS, towers.embed_dim, generator=torch.Generator().manual_seed(1)).to(setting.device)

    def step(groups: int | str, number_format: torch.dtype | None) -> torch.Tensor:
        towers.text_buckets = groups  # type: ignore[assignment]
        towers.zero_grad()
        with torch.autocast(setting.device, number_format) if number_format else nullcontext():
            rows = towers.embed_tokens(tokens, lengths)
        (rows * direction).sum().backward()
        gradients = [value.grad.flatten() for value in towers.core.text.parameters() if value.grad is not None]
        return torch.cat([rows.detach().flatten(), *gradients])

    exact = step(GROUPS, None)
    errors, seconds = {}, {}
    for groups in (GROUPS, WITHOUT):
        found = step(groups, torch.bfloat16)
        errors[str(groups)] = float((found - exact).norm() / exact.norm())
        seconds[str(groups)] = median(seconds_of(lambda g=groups: step(g, torch.bfloat16), device=setting.device))
    ours, theirs = errors[WITHOUT], errors[str(GROUPS)]
    problems = () if ours <= LIKE_GROUPS * theirs else (f"the error is {ours:.1e}, with padding it is {theirs:.1e}",)
    ratio = seconds[str(GROUPS)] / seconds[WITHOUT]
    shown = f"{seconds[WITHOUT] / MILLI:.1f} ms, {ratio:.2f} x as fast as {GROUPS} groups; error {ours:.1e}"
    return Finding(shown, {"errors": errors, "seconds": seconds}, problems=problems, missed=ratio < 1)


def _towers() -> DualEncoder:
    image = {"layers": 1, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 32}
    text = {"layers": 12, "width": WIDTH, "heads": HEADS}
    torch.manual_seed(0)
    return DualEncoder(image_towers.build("vit", image), text_towers.build("transformer", text), embed_dim=WIDTH)
