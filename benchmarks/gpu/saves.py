"""How long a checkpoint that is written in the background keeps the training waiting."""

from __future__ import annotations

import time

from benchmarks.gpu.cases import Finding, Setting
from benchmarks.gpu.steps import TINY, synthetic_parts
from benchmarks.gpu.timing import MILLI, median, wait
from vlp import train
from vlp.run.saving import save

TOWERS, PAIRS = "ViT-L-14", 32
TOY_PAIRS = 8
SAVES = 3
MOST_SECONDS = 1.0  # 5 GB of weights and moments at 25 GB/s, and a margin for the first, which pins memory


def in_the_background(setting: Setting) -> Finding:
    """Save between steps, as the trainer does; the second save finds the memory that the first has pinned."""
    towers = TINY if setting.is_toy else (f"model.image.name={TOWERS}", f"model.text.name={TOWERS}")
    parts, batch = synthetic_parts(
        "vitb32_clip",
        setting.scratch / "saves",
        TOY_PAIRS if setting.is_toy else PAIRS,
        setting.device,
        [*towers, f"train.precision={'float32' if setting.is_toy else 'bfloat16'}", "checkpoint.keep=1"],
        label="saves",
    )
    held, behind = [], []
    with parts.writer:
        for step in range(1, SAVES + 1):
            train.one_step(parts, batch, step)
            wait(setting.device)
            began = time.perf_counter()
            save(parts, step=step, position=step * len(batch), background=True)
            held.append(time.perf_counter() - began)
            train.one_step(parts, batch, step)
            wait(setting.device)
            began = time.perf_counter()
            parts.writer.settle()
            behind.append(time.perf_counter() - began)
    later = median(held[1:])
    size = sum(value.numel() * value.element_size() for value in parts.towers.parameters()) * 3
    missed = not setting.is_toy and later > MOST_SECONDS
    return Finding(
        f"training waits {held[0] / MILLI:,.0f} ms at the first, {later / MILLI:,.0f} ms later, for "
        f"{size / 1e9:.2f} GB; the disk ends {median(behind):.1f} s after the next step",
        {"held_seconds": held, "behind_seconds": behind, "bytes": size},
        missed=missed,
        notes=(f"a save holds the training for more than {MOST_SECONDS} s",) if missed else (),
    )
