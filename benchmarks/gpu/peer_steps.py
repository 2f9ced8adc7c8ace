"""open_clip's own training loop, `open_clip_train.train.train_one_epoch`, on one synthetic batch again and again."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import open_clip
import torch
from torch import Tensor

CONTEXT, WORDS = 77, 49_408
SIDE = 224
TOY: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": CONTEXT, "vocab_size": WORDS, "width": 64, "heads": 2, "layers": 2},
}


class PeerEpoch:
    """What `python -m open_clip_train.main` sets up for one process with its defaults and `--precision amp_bf16`.

    TF32 and cuDNN's benchmark are on, as its `main` has them; AdamW is fused, which its `main` does not ask for. Images
    lie normalised on the device already.

    Args:
        towers: A name that open_clip knows; None for a toy.
        fused: Whether AdamW is one kernel; otherwise it is as torch has it by default.
    """

    def __init__(self, towers: str | None, batch_size: int, device: str, *, fused: bool = True):
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.deterministic = False
        torch.manual_seed(0)
        with torch.device(device):  # its weights are drawn there, for speed
            self.model = (
                open_clip.CLIP(**TOY, output_dict=True)
                if towers is None
                else open_clip.create_model(towers, device=device, output_dict=True)
            )
        side = TOY["vision_cfg"]["image_size"] if towers is None else SIDE
        self.device = device
        self.images = torch.randn(batch_size, 3, side, side, device=device)
        self.texts = torch.randint(1, WORDS - 1, (batch_size, CONTEXT), device=device)
        self.texts[:, -1] = WORDS - 1
        self.loss = open_clip.ClipLoss()
        self.optimizer = torch.optim.AdamW(self._groups(), lr=5e-4, betas=(0.9, 0.98), eps=1e-6, fused=fused or None)
        self.settings = Namespace(
            device=device,
            precision="fp32" if device == "cpu" else "amp_bf16",
            distill=False,
            accum_freq=1,
            skip_scheduler=True,
            horovod=False,
            grad_clip_norm=None,
            log_every_n_steps=1_000_000,
            batch_size=batch_size,
            world_size=1,
            rank=0,
            local_rank=0,
            log_local=False,
            wandb=False,
            trackio=False,
            distributed=False,
        )

    def _groups(self) -> list[dict[str, Any]]:
        named = list(self.model.named_parameters())
        gains = [value for name, value in named if _is_gain(name, value)]
        rest = [value for name, value in named if not _is_gain(name, value)]
        return [{"params": gains, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.2}]

    def train(self, steps: int) -> list[Any]:
        """Train so many steps; return a mark from before each of them, and from before the end of the loop."""
        from open_clip_train import train

        has_tasks = hasattr(train, "TrainState")  # since its version 4
        batch = {"image": self.images, "text": self.texts} if has_tasks else (self.images, self.texts)
        batches = _Batches(batch, steps, self.device)
        data = {"train": SimpleNamespace(set_epoch=lambda _: None, dataloader=batches)}
        if has_tasks:
            task = open_clip.task.CLIPTask(self.model, loss=self.loss, device=torch.device(self.device), verbose=False)
            train.train_one_epoch(train.TrainState(task=task, optimizer=self.optimizer), data, self.settings)
        else:
            train.train_one_epoch(self.model, data, self.loss, 0, self.optimizer, None, None, None, self.settings)
        return batches.marks

    def seconds(self, warm_up: int, steps: int) -> list[float]:
        """Return how long each step took, after some that do not count."""
        marks = self.train(warm_up + steps)[warm_up:]
        if self.device == "cpu":
            return [later - earlier for earlier, later in pairwise(marks)]
        torch.cuda.synchronize()
        return [earlier.elapsed_time(later) / 1e3 for earlier, later in pairwise(marks)]


class _Batches:
    """A loader that gives the same batch, and marks the moments when it is asked."""

    def __init__(self, batch: Any, steps: int, device: str):
        images = batch["image"] if isinstance(batch, dict) else batch[0]
        self.batch, self.num_batches, self.num_samples = batch, steps, steps * len(images)
        self.device = device
        self.marks: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.num_batches):
            self._mark()
            yield self.batch
        self._mark()

    def _mark(self) -> None:
        if self.device == "cpu":
            self.marks.append(time.perf_counter())
            return
        mark = torch.cuda.Event(enable_timing=True)
        mark.record()
        self.marks.append(mark)


def _is_gain(name: str, value: Tensor) -> bool:
    return value.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name
