"""What a measured process does: draw embeddings, run one objective forward and backward, say what that cost."""

from __future__ import annotations

import datetime
import math
import os
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as torch_dist
from torch import Tensor
from torch.nn import functional

from vlp.ground import dist
from vlp.ground.types import Embeddings, Teacher
from vlp.objectives.base import Objective, terms
from vlp.pairs import Numerics, Pairs
from vlp.pairs.engine.tiles import TILE_SIZE

DIM = 512
SCALE, BIAS = 1 / 0.07, -10.0
WORDS = 16  # of a caption
VOCABULARY = 50
GRID = (2, 3)  # places of a map
SMALL_PAIRS = 64  # of the step that loads kernels before anything is measured
ENOUGH_SECONDS = 5.0  # a process stops after the step that reaches them
MAX_MEMORY_SHARE = 0.9  # of what is free: a case that needs more fails by itself, and takes nothing else with it
OUT_OF_MEMORY, NOT_INSTALLED = "out of memory", "not installed"
RENDEZVOUS = datetime.timedelta(minutes=5)
Step = Callable[[], object]
Parts = Mapping[str, tuple[str, dict[str, Any]]]

OURS: dict[str, Parts] = {
    "uniformity_image": {"uniformity": ("uniformity", {"modality": "image"})},
    "combination": {
        "clip": ("clip", {}),
        "alignment": ("alignment", {}),
        "uniformity of images": ("uniformity", {"modality": "image"}),
        "uniformity of texts": ("uniformity", {"modality": "text"}),
        "cross_uniformity": ("cross_uniformity", {}),
        "cwcl": ("cwcl", {}),
    },
    "widths": {label: ("clip", {}) for label in ("clip", "clip@64", "clip@128", "clip@256")},
}
"""Cases beside the registered terms with their default settings; behind an @ stands a width."""


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Args:
        name: A term, a key of `OURS`, of `PEERS` or of `PRODUCTS`.
        pairs: Of the global batch.
        processes: Among which the batch is spread.
        dtype: Of the embeddings.
    """

    name: str
    pairs: int
    processes: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    numerics: Numerics = "exact"

    @property
    def num_steps(self) -> int:
        """How many steps one process times at most: about as long for every batch size."""
        if self.name in PRODUCTS:
            return 64
        return 10 if self.device == "cuda" else min(20, max(1, round((8192 / self.pairs) ** 2)))


@dataclass(frozen=True)
class Cost:
    """What the steps of one process cost, in seconds and MB; `problem` where they could not be run.

    Args:
        cpu: User and system time of each step; on an accelerator, the time between two events on it.
        peak_mb: Beyond inputs and gradients, at the worst moment of all steps.
    """

    cpu: list[float]
    wall: list[float]
    peak_mb: float
    problem: str = ""


def measure(case: Case, rank: int = 0, meeting: str = "") -> Cost:
    """Measure one case; meant for a process of its own, `case.processes` of which meet at the file `meeting`."""
    torch.set_num_threads(1)
    if case.device == "cpu":
        _limit_memory()
    if case.processes > 1:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(case.processes))
        torch_dist.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=case.processes, timeout=RENDEZVOUS
        )
    try:
        return _measure_cuda(case) if case.device == "cuda" else _measure_cpu(case, rank)
    except ImportError as error:
        return Cost([], [], 0.0, f"{NOT_INSTALLED}: {error.name}")
    except torch.OutOfMemoryError:
        return Cost([], [], 0.0, OUT_OF_MEMORY)
    except Exception as error:
        if "allocate memory" in str(error):
            return Cost([], [], 0.0, OUT_OF_MEMORY)
        return Cost([], [], 0.0, f"{type(error).__name__}: {error}".splitlines()[0][:200])
    finally:
        if case.processes > 1:
            torch_dist.destroy_process_group()


def _measure_cpu(case: Case, rank: int) -> Cost:
    small, _ = make_step(Case(case.name, SMALL_PAIRS * case.processes, case.processes), rank)
    small()
    step, leaves = make_step(case, rank)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before = _memory_mb("VmRSS")
    cpu, wall = [], []
    for _ in range(case.num_steps):
        _forget_gradients(leaves)
        dist.barrier()
        start, start_cpu = time.perf_counter(), _cpu_seconds()
        step()
        cpu.append(_cpu_seconds() - start_cpu)
        wall.append(time.perf_counter() - start)
        if sum(cpu) > ENOUGH_SECONDS and case.processes == 1:
            break
    return Cost(cpu, wall, max(0.0, _memory_mb("VmHWM") - before - _gradient_mb(leaves)))


def _measure_cuda(case: Case) -> Cost:
    torch.set_float32_matmul_precision("high")  # all sides multiply in TF32
    step, leaves = make_step(case, 0)
    for _ in range(3):
        _forget_gradients(leaves)
        step()
    _forget_gradients(leaves)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    seconds, wall = [], []
    for _ in range(case.num_steps):
        _forget_gradients(leaves)
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start = time.perf_counter()
        first.record()
        step()
        last.record()
        torch.cuda.synchronize()
        wall.append(time.perf_counter() - start)
        seconds.append(first.elapsed_time(last) / 1e3)
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    return Cost(seconds, wall, max(0.0, peak - _gradient_mb(leaves)))


def make_step(case: Case, rank: int) -> tuple[Step, list[Tensor]]:
    """Return a forward and backward pass, and all that gets a gradient from it.

    Raises:
        ValueError: A term needs what this benchmark does not draw.
    """
    if case.name in PRODUCTS:
        return PRODUCTS[case.name](), []
    num_local = case.pairs // case.processes
    dtype = getattr(torch, case.dtype)
    image, text = (unit(num_local, 10 * rank + k, case.device).to(dtype).requires_grad_() for k in range(2))
    leaves = [image, text]
    leaves += [torch.tensor(number, device=case.device).requires_grad_() for number in (SCALE, BIAS)]
    if case.name in PEERS:
        loss_of = PEERS[case.name]()
        return lambda: loss_of(*leaves).backward(), leaves
    objective = build(case.name, numerics=case.numerics).to(case.device)
    embeddings, more = embeddings_of(leaves, objective.needs, 10 * rank)
    ids = torch.arange(rank * num_local, (rank + 1) * num_local, device=case.device)

    def step() -> None:
        loss, _ = objective(Pairs(embeddings, ids, ids), 0)
        loss.backward()

    return step, [*leaves, *more, *objective.parameters()]


def build(name: str, dim: int = DIM, numerics: Numerics = "exact") -> Objective:
    """Return the objective of a case, every term at weight 1."""
    parts: Parts = OURS.get(name, {name: (name, {})})
    built = {label: (terms.build(term, own), lambda _: 1.0) for label, (term, own) in parts.items()}
    widths = {label: int(label.partition("@")[2]) for label in parts if "@" in label}
    objective = Objective(built, widths, numerics=numerics)
    objective.create(dim, map_channels=dim, vocabulary=VOCABULARY)
    return objective


def unit(rows: int, seed: int, device: str = "cpu", dim: int = DIM) -> Tensor:
    """Draw unit-norm rows."""
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(rows, dim, generator=generator), dim=1).to(device)


def embeddings_of(leaves: list[Tensor], needs: frozenset[str], seed: int) -> tuple[Embeddings, list[Tensor]]:
    """Add to images, texts, scale and bias what the terms need, and say what else gets a gradient.

    Raises:
        ValueError: A term needs what this benchmark does not draw.
    """
    size, dim = leaves[0].shape
    more: dict[str, Any] = {}
    gradients: list[Tensor] = []

    def drawn(k: int) -> Tensor:
        return unit(size, seed + k, dim=dim).to(leaves[0].device, torch.promote_types(leaves[0].dtype, torch.float32))

    def places(k: int) -> Tensor:
        rows = unit(size * math.prod(GRID), seed + k, dim=dim).view(size, -1, dim)
        return rows.to(leaves[0].device, torch.promote_types(leaves[0].dtype, torch.float32))

    for need in sorted(needs - {"ids", "caption_ids"}):
        if need == "reference":
            more["reference"] = drawn(2)
        elif need == "teacher":
            more["teacher"] = Teacher(drawn(3), drawn(4))
        elif need == "negatives":
            wrong = drawn(5)[:, None].requires_grad_()
            more["negatives"] = wrong
            gradients.append(wrong)
        elif need == "caption_losses":
            losses = (5.0 * drawn(6)[:, 0].abs()).requires_grad_()
            more["caption_losses"] = losses
            more["caption_words"] = torch.full((size,), WORDS)
            gradients.append(losses)
        elif need == "region_losses":
            losses = (5.0 * drawn(13)[:, :4].abs()).requires_grad_()
            more["region_losses"], more["region_words"] = losses, torch.full((size, 4), WORDS)
            gradients.append(losses)
        elif need == "pixel_changes":
            more["pixel_changes"] = (5.0 * drawn(14)[:, 0].abs()).requires_grad_()
            gradients.append(more["pixel_changes"])
        elif need == "maps":
            more["image_maps"] = tuple(places(7 + view).unflatten(1, GRID).requires_grad_() for view in range(2))
            gradients.extend(more["image_maps"])
        elif need == "taught_maps":
            more["taught_maps"] = tuple(places(9 + view).unflatten(1, GRID) for view in range(2))
            whole = torch.tensor([0.0, 0.0, 100.0, 100.0, 0.0], device=leaves[0].device)
            more["image_cuts"] = (whole.expand(size, 5), (0.9 * whole).expand(size, 5))
        elif need == "hidden_patches":
            more["hidden_patches"], more["taught_patches"] = places(11).requires_grad_(), places(12)
            gradients.append(more["hidden_patches"])
        elif need == "tokens":
            more["tokens"] = (torch.arange(size * WORDS, device=leaves[0].device) % VOCABULARY).view(size, WORDS)
            more["token_counts"] = torch.full((size,), WORDS)
        else:
            raise ValueError(f"this benchmark draws no '{need}'")
    image, text, scale, bias = leaves
    return Embeddings(image, text, scale, bias, **more), gradients


def _open_clip(name: str) -> Callable[..., Tensor]:
    from open_clip.loss import ClipLoss, SigLipLoss

    if name == "ClipLoss":
        clip = ClipLoss()
        return lambda image, text, scale, _: clip(image, text, scale)
    siglip = SigLipLoss()
    return lambda image, text, scale, bias: siglip(image, text, scale, bias)


def _inf_cl() -> Callable[..., Tensor]:
    from inf_cl import cal_inf_loss

    def loss(image: Tensor, text: Tensor, scale: Tensor, _: Tensor) -> Tensor:
        return (cal_inf_loss(image, text, scale=scale) + cal_inf_loss(text, image, scale=scale)) / 2

    return loss


def _dense_uniformity() -> Callable[..., Tensor]:
    def loss(image: Tensor, *_: Tensor) -> Tensor:
        squared_distances = 2 - 2 * image @ image.T
        kernel = torch.exp(-2 * squared_distances)
        return ((kernel.sum() - kernel.trace()) / (len(image) * (len(image) - 1))).log()

    return loss


PEERS: dict[str, Callable[[], Callable[..., Tensor]]] = {
    "open_clip.ClipLoss": lambda: _open_clip("ClipLoss"),
    "open_clip.SigLipLoss": lambda: _open_clip("SigLipLoss"),
    "dense_uniformity_image": _dense_uniformity,
    "inf_cl": _inf_cl,
}


def _logits_product() -> Step:
    rows, columns, tile = unit(TILE_SIZE, 0), unit(TILE_SIZE, 1), torch.empty(TILE_SIZE, TILE_SIZE)
    return lambda: torch.mm(rows, columns.t(), out=tile)


def _gradient_product() -> Step:
    features, tile, total = unit(TILE_SIZE, 0), torch.rand(TILE_SIZE, TILE_SIZE), torch.zeros(TILE_SIZE, DIM)
    return lambda: total.addmm_(tile, features)


PRODUCTS: dict[str, Callable[[], Step]] = {"tile_mm": _logits_product, "tile_addmm": _gradient_product}
"""The matrix products that no way around leads: logits of one tile, and gradients from one tile."""


def _forget_gradients(leaves: list[Tensor]) -> None:
    for leaf in leaves:
        leaf.grad = None


def _gradient_mb(leaves: list[Tensor]) -> float:
    return sum(leaf.grad.numel() * leaf.grad.element_size() for leaf in leaves if leaf.grad is not None) / 2**20


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _memory_mb(field: str, file: str = "/proc/self/status") -> float:
    lines = Path(file).read_text().splitlines()
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith(field))


def _limit_memory() -> None:
    limit = int(MAX_MEMORY_SHARE * _memory_mb("MemAvailable", "/proc/meminfo") * 2**20)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))
