"""Phase B: does it train here, alone, wrapped, sharded, in fewer bits, in pieces, after a kill, and compiled?"""

from __future__ import annotations

import faulthandler
import importlib.util
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as torch_dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.gpu.cases import Case, Finding, Setting
from benchmarks.gpu.reference import losses as reference_losses
from benchmarks.gpu.runs import SIZES, losses_of, smoke, watched_run
from benchmarks.gpu.steps import compiling
from benchmarks.gpu.unpadded import LIKE_GROUPS, compare_layouts, has_kernel
from benchmarks.gpu.waits import in_words
from vlp.recipe.model import build_model
from vlp.run import assemble
from vlp.run.distributing import copies_of, distribute
from vlp.run.float8_fit import CAPABILITY
from vlp.towers.blocks import blocks_of
from vlp.towers.dual import DualEncoder
from vlp.towers.float8 import Scales, multiply_in_float8

ALONE = "float32"
LIKE_CPU, LIKE_HALF, LIKE_ALONE, LIKE_RESUMED = 1e-4, 2e-2, 1e-5, 1e-6
LIKE_FLOAT8 = 0.2
COMPILERS = ("cc", "gcc", "clang")


def cases(setting: Setting) -> Iterator[Case]:
    """Yield every way to train."""
    device = setting.device
    like_cpu = f"losses of the CPU run to {LIKE_CPU:g}"
    workers = () if setting.is_toy else ("data.workers=2",)

    def trained(name: str, *overrides: str, tf32: bool = False) -> Counter[str]:
        return watched_run(smoke(device, _folder(setting), name, *workers, *overrides), device, tf32=tf32)

    def against_cpu(name: str, tolerance: float, *overrides: str, tf32: bool = False) -> Finding:
        places = trained(name, *overrides, tf32=tf32)
        return _compare(setting, name, reference_losses(device), tolerance, places)

    def wrapped(name: str, wrapper: Callable[[Setting], Any]) -> Finding:
        with wrapper(setting):
            return against_cpu(name, LIKE_CPU)

    def in_pieces() -> Finding:
        places = trained("pieces", "train.micro_batches=4")
        return _compare(setting, "pieces", _losses(setting, ALONE), LIKE_ALONE, places)

    def compiled() -> Finding:
        with compiling(device):
            return against_cpu("compiled", LIKE_CPU, "train.compile=true")

    yield Case(ALONE, lambda: against_cpu(ALONE, LIKE_CPU), f"{like_cpu}; no wait", alone=True)
    yield Case("data parallel, group of one", lambda: wrapped("ddp", _data_parallel), like_cpu, alone=True)
    yield Case("sharded, group of one", lambda: wrapped("fsdp2", _sharded), like_cpu, alone=True)
    for dtype in ("bfloat16", "float16"):
        yield Case(
            dtype,
            lambda dtype=dtype: against_cpu(dtype, LIKE_HALF, f"train.precision={dtype}"),
            f"losses of the CPU run to {LIKE_HALF:g}",
            alone=True,
        )
    yield Case(
        "float32 with TF32",
        lambda: against_cpu("tf32", LIKE_HALF, tf32=True),
        f"losses of the CPU run to {LIKE_HALF:g}",
        alone=True,
        needs="" if device == "cuda" else "CUDA",
    )
    yield Case(
        "deterministic",
        lambda: against_cpu("deterministic", LIKE_CPU, "train.deterministic=true"),
        like_cpu,
        alone=True,
    )
    yield Case("four micro-batches", in_pieces, f"losses of {ALONE} to {LIKE_ALONE:g}", alone=True)
    yield Case(
        "killed and resumed",
        lambda: _resumed(setting, workers),
        f"losses of {ALONE} to {LIKE_RESUMED:g}",
        alone=True,
    )
    yield Case(
        "compiled",
        compiled,
        like_cpu,
        seconds=60,
        alone=True,
        needs="" if any(map(shutil.which, COMPILERS)) else "a C compiler",
    )
    yield Case(
        "captions without padding",
        lambda: compare_layouts(setting),
        f"errors within {LIKE_GROUPS} x those of groups, and faster",
        needs="" if has_kernel(device) else "CUDA and torch's attention for captions of any lengths",
    )
    for scales, capability in CAPABILITY.items():
        yield Case(
            f"float8 {scales}",
            lambda scales=scales: float8_error(setting, scales),
            f"gradients of float32 to {LIKE_FLOAT8:g}",
            needs="" if _multiplies(device, capability) else "torchao and compute capability {}.{}".format(*capability),
        )


def float8_error(setting: Setting, scales: Scales) -> Finding:
    """Compare gradients of an image tower with those of float32; products are emulated where this is a toy."""
    towers = build_model(smoke(setting.device, _folder(setting), f"float8_{scales}").model).to(setting.device)
    size = towers.image_size if isinstance(towers.image_size, tuple) else (towers.image_size,) * 2
    pixels = torch.randn(32, 3, *size, generator=torch.Generator().manual_seed(0)).to(setting.device)
    half = None if setting.is_toy else torch.bfloat16  # CPUs emulate convolutions in it, at length
    towers.eval()
    wanted, rounded = _gradients(towers, pixels, None), _gradients(towers, pixels, half)
    multiply_in_float8(blocks_of(towers.core.visual), scales=scales, emulate=setting.is_toy)
    found = _gradients(towers, pixels, half)
    off, off_before = (float((each - wanted).norm() / wanted.norm()) for each in (found, rounded))
    problems = (f"the error is {off:.1e}, at most {LIKE_FLOAT8:g} was expected",) if not off <= LIKE_FLOAT8 else ()
    numbers = {"relative_error": off, "of_bfloat16": off_before}
    return Finding(f"{off:.1e}, bfloat16 alone {off_before:.1e}", numbers, problems=problems)


def _gradients(towers: DualEncoder, pixels: torch.Tensor, number_format: torch.dtype | None) -> torch.Tensor:
    towers.zero_grad()
    with torch.autocast(pixels.device.type, number_format) if number_format else nullcontext():
        rows = towers.embed_images(pixels)
    rows.square()[:, 0].sum().backward()
    return torch.cat([value.grad.flatten() for value in towers.core.visual.parameters() if value.grad is not None])


def _multiplies(device: str, capability: tuple[int, int]) -> bool:
    """Whether there are products in float8 here."""
    has_torchao = importlib.util.find_spec("torchao") is not None
    return device == "cuda" and has_torchao and torch.cuda.get_device_capability() >= capability


def _folder(setting: Setting) -> Path:
    return setting.scratch / "runs"


def _losses(setting: Setting, name: str) -> list[float]:
    return losses_of(_folder(setting) / name)


def _compare(
    setting: Setting, name: str, wanted: list[float], tolerance: float, places: Counter[str] | None = None
) -> Finding:
    """Compare the losses of a run, relative to themselves, with those that it should have."""
    found = _losses(setting, name)
    problems = []
    if len(found) != len(wanted):
        problems.append(f"{len(found)} steps instead of {len(wanted)}")
    off = [abs(ours - theirs) / max(abs(theirs), 1.0) for ours, theirs in zip(found, wanted, strict=False)]
    worst = max(off, default=float("inf"))
    if not worst <= tolerance:
        problems.append(f"losses differ by {worst:.1e} at step {1 + off.index(max(off))}, {tolerance:g} is allowed")
    waits = in_words(places or {})
    if waits and setting.device == "cuda":
        problems += waits
    numbers = {"losses": found, "wanted": wanted, "worst": worst, "waits": dict(places or {})}
    shown = f"{found[0]:.4f} .. {found[-1]:.4f}, off by {worst:.1e}" if found else "no loss"
    if setting.device == "cuda":
        shown += f", {sum((places or {}).values())} waits"
    return Finding(shown, numbers, problems=tuple(problems))


@contextmanager
def _group_of_one(setting: Setting) -> Iterator[None]:
    """Let this process be the only one of a group, which speaks as many would."""
    meeting = setting.scratch / f"meeting_{os.getpid()}"
    backend = "nccl" if setting.device == "cuda" else "gloo"
    torch_dist.init_process_group(backend, init_method=f"file://{meeting}", rank=0, world_size=1)
    try:
        yield
    finally:
        torch_dist.destroy_process_group()


@contextmanager
def _data_parallel(setting: Setting) -> Iterator[None]:
    """Wrap by hand what Accelerate leaves alone with one process; device ids make PyTorch move all inputs."""

    def by_hand(accelerator: Any, towers: DualEncoder, *more: Any, **how: Any) -> nn.Module:
        alone = distribute(accelerator, towers, *more, **how)
        devices = [0] if setting.device == "cuda" else None
        return DistributedDataParallel(alone, device_ids=devices, **copies_of(towers).to_kwargs())

    with _group_of_one(setting), patch.object(assemble, "distribute", by_hand):
        yield


@contextmanager
def _sharded(setting: Setting) -> Iterator[None]:
    """Let the trainer shard, which it leaves alone with one process."""
    with _group_of_one(setting), patch.object(assemble, "is_sharded", lambda: True):
        yield


def _resumed(setting: Setting, workers: tuple[str, ...]) -> Finding:
    """Train in a process that is killed behind its checkpoint, go on in this one."""
    name, size = "resumed", SIZES[setting.device]
    killed_at = size.steps // 2 + 1
    recipe = smoke(setting.device, _folder(setting), name, *workers)

    def kill(step: int) -> None:
        if step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    faulthandler.cancel_dump_traceback_later()  # a forked process would wait for its thread, which it does not have
    child = os.fork()
    if child == 0:
        try:
            watched_run(recipe, setting.device, before_step=kill)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    steps: list[int] = []
    watched_run(recipe, setting.device, resume=True, before_step=steps.append)
    found = _compare(setting, name, _losses(setting, ALONE), LIKE_RESUMED)
    problems = [*found.problems]
    if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
        problems.append(f"the first process was not killed: its status is {status}")
    if steps[:1] != [size.steps // 2]:
        problems.append(f"resumed at step {steps[0] if steps else 'none'}, the checkpoint is of step {size.steps // 2}")
    return Finding(f"{found.shown}; killed at {killed_at}", found.numbers, problems=tuple(problems))
