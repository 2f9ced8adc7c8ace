"""Phase A: which machine, which libraries, and how fast memory and matrix units are here."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Iterator
from importlib import metadata
from types import ModuleType

from benchmarks.gpu.cases import Case, Finding, Setting
from benchmarks.gpu.feed import from_the_ring
from benchmarks.gpu.timing import H100, MILLI, median, seconds_of
from vlp.ground.provenance import LIBRARIES, machine, versions

# what the trainer imports, by the names under which it is installed
NEEDED = ("open_clip", "pydantic", "ruamel.yaml", "simplejpeg", "webdataset", "ftfy", "jaxtyping", "timm", "accelerate")
COPY_BYTES, TOY_COPY_BYTES = 2_000_000_000, 20_000_000
SIDE, TOY_SIDE = 8192, 512
IMAGES = (1024, 224, 224, 3)


def cases(setting: Setting) -> Iterator[Case]:
    """Yield what is found out about the machine."""
    cuda = "" if setting.device == "cuda" else "CUDA"
    yield Case("versions", lambda: find_versions(setting), "all that the trainer imports is there")
    yield Case("copy 2 GB", lambda: copy(setting), f"{H100.copy / 1e12:.1f} TB/s read and written")
    for name, reached in (("bfloat16", H100.bfloat16), ("tf32", H100.tf32), ("float32", H100.float32)):
        yield Case(
            f"matmul 8192 {name}",
            lambda name=name, reached=reached: multiply(setting, name, reached),
            f"{reached / 1e12:.0f} TFLOP/s",
            needs=cuda if name == "tf32" else "",
        )
    yield Case("host to device, 1,024 images", upload, "3 to 6 ms from pinned memory", needs=cuda)
    words = "as fast, out of the memory that decoders fill; the host goes on"
    yield Case("host to device, the ring", lambda: from_the_ring(setting), words)
    yield Case("Triton adds", lambda: add(setting), "right", alone=True)


def find_versions(setting: Setting) -> Finding:
    """Import everything, and note what came."""
    problems = [f"{name}: {problem}" for name in NEEDED if (problem := _import_problem(name))]
    found = dict(versions()) | {name: _version(name) for name in ("triton", "pydantic", "pydantic_core", "simplejpeg")}
    torch = importlib.import_module("torch")
    device, more = machine(), {}
    if setting.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        device = f"{card.name}, {os.cpu_count()} cores"
        more = {
            "cuda": torch.version.cuda,
            "memory_gb": round(card.total_memory / 1e9, 1),
            "multiprocessors": card.multi_processor_count,
            "capability": f"{card.major}.{card.minor}",
        }
    numbers = {"device": device, "host": machine(), "system": platform.platform(), "versions": found, **more}
    absent = [name for name in LIBRARIES if name != "vlp" and found[name] == "absent"]
    notes = (f"without version: {', '.join(absent)}",) if absent else ()
    shown = f"{device}; torch {torch.__version__}, triton {found['triton']}, open_clip {found['open_clip_torch']}"
    return Finding(shown, numbers, problems=tuple(problems), notes=notes)


def copy(setting: Setting) -> Finding:
    """Copy within the device's memory."""
    import torch

    size = TOY_COPY_BYTES if setting.is_toy else COPY_BYTES
    source = torch.ones(size // 4, device=setting.device)
    target = torch.empty_like(source)
    seconds = median(seconds_of(lambda: target.copy_(source), device=setting.device, repeats=20))
    rate = 2 * size / seconds
    return _speed(setting, f"{rate / 1e12:.2f} TB/s", {"bytes_per_second": rate}, rate / H100.copy)


def multiply(setting: Setting, name: str, reached: float) -> Finding:
    """Multiply two square matrices."""
    import torch

    side = TOY_SIDE if setting.is_toy else SIDE
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
    left, right = (torch.randn(side, side, device=setting.device).to(dtype) for _ in range(2))
    seconds = median(seconds_of(lambda: left @ right, device=setting.device, repeats=10))
    rate = 2 * side**3 / seconds
    return _speed(setting, f"{rate / 1e12:,.2f} TFLOP/s", {"flops": rate}, rate / reached)


def upload() -> Finding:
    """Copy a batch of images from page-locked memory."""
    import torch

    pixels = torch.zeros(IMAGES, dtype=torch.uint8).pin_memory()
    seconds = median(seconds_of(lambda: pixels.to("cuda", non_blocking=True), device="cuda", repeats=10))
    rate = pixels.numel() / seconds
    return Finding(f"{seconds / MILLI:.1f} ms, {rate / 1e9:.0f} GB/s", {"seconds": seconds}, missed=seconds > 6 * MILLI)


def add(setting: Setting) -> Finding:
    """Compile and launch the smallest kernel; on the CPU in Triton's interpreter."""
    import torch

    hello: ModuleType = importlib.import_module("benchmarks.gpu.triton_hello")
    one = torch.arange(1000, dtype=torch.float32, device=setting.device)
    total = hello.add(one, 2 * one)
    right = torch.equal(total, 3 * one)
    return Finding("right" if right else "wrong", problems=() if right else ("sums differ from torch's",))


def _speed(setting: Setting, shown: str, numbers: dict[str, float], share: float) -> Finding:
    """Return a speed beside the one that is expected of the card."""
    if setting.is_toy:
        return Finding(shown, numbers)
    return Finding(shown, numbers, share=share, missed=share < 0.9)


def _import_problem(name: str) -> str:
    try:
        importlib.import_module(name)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
