"""What a machine has of what training needs: devices, processes, versions, the hub, the disk; and a recipe's needs."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import torch

from vlp.ground import files
from vlp.ground.cores import quota, usable_cores
from vlp.ground.provenance import commit, machine, versions
from vlp.ground.types import RecipeError
from vlp.recipe.compose import load_recipe
from vlp.recipe.model import build_model
from vlp.recipe.schema import Recipe
from vlp.run.near_cores import cores_beside
from vlp.run.ready import check_ready
from vlp.run.subject import DEFAULT_TASKS
from vlp.run.trackers import PACKAGES

GIB = 2**30
FEW_FILES = 4096  # open at once: shards, sockets and libraries of many processes
PATIENCE = 5.0  # seconds for a server to answer
MEET = """
import sys, torch, torch.distributed as dist
from datetime import timedelta
rank, backend, file = int(sys.argv[1]), sys.argv[2], sys.argv[3]
if backend == "nccl": torch.cuda.set_device(rank)
dist.init_process_group(backend, init_method=f"file://{file}", rank=rank, world_size=2, timeout=timedelta(seconds=60))
dist.barrier()
dist.destroy_process_group()
"""


@dataclass(frozen=True)
class Look:
    """What one look found.

    Args:
        subject: What was looked at.
        said: What is so.
        level: `ok`, `note` (something is missing that not everybody needs) or `wrong`.
    """

    subject: str
    said: str
    level: str = "ok"

    @property
    def is_wrong(self) -> bool:
        """Whether training would fail, or go wrong."""
        return self.level == "wrong"

    def __str__(self) -> str:
        return f"{self.level:5}  {self.subject:10}  {self.said}"


def examine(recipe: str | None = None, overrides: Sequence[str] = ()) -> list[Look]:
    """Look at everything, and print each finding as it comes.

    Args:
        recipe: Name or path of a recipe whose needs are looked at too.
    """
    settings = load_recipe(recipe, overrides) if recipe else None
    folder = Path(settings.runs if settings else "runs")
    looks: list[Callable[[], Iterator[Look]]] = [
        look_at_versions, look_at_devices, look_at_processes, lambda: look_at_disk(folder), look_at_hub,
        look_at_trackers,
    ]  # fmt: skip
    if settings is not None:
        looks.append(lambda: look_at_recipe(settings))
    found = []
    for look in looks:
        for finding in look():
            print(finding, flush=True)
            found.append(finding)
    wrong = sum(finding.is_wrong for finding in found)
    print(f"{wrong} of {len(found)} are wrong" if wrong else "nothing is wrong")
    return found


def look_at_versions() -> Iterator[Look]:
    """Which code and libraries."""
    found = dict(versions())
    yield Look("versions", f"vlp {found.pop('vlp')} ({commit()}), python {found.pop('python')}")
    absent = [name for name, version in found.items() if version == "absent"]
    yield Look("versions", ", ".join(f"{name} {version}" for name, version in found.items() if version != "absent"))
    if absent:
        yield Look("versions", f"not installed: {', '.join(absent)}", "wrong")


def look_at_devices() -> Iterator[Look]:
    """Processor and GPUs, and what they can do."""
    limited = "" if quota() == math.inf else f", of which a container may use {quota():.3g}"
    yield Look("processor", f"{machine()}, {usable_cores()} usable by this process{limited}")
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        has_driver = shutil.which("nvidia-smi") is not None
        if has_driver and built is None:
            yield Look("devices", "a GPU driver is here, but this torch is built without CUDA", "wrong")
        else:
            yield Look("devices", "no GPU: training runs on the processor", "note")
        return
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        level = "ok" if free > 0.9 * total else "note"
        memory = f"{total / GIB:.0f} GiB, {free / GIB:.0f} free"
        beside = cores_beside(torch.device("cuda", number))
        memory += f", {len(beside)} cores beside it" if beside else ""
        yield Look("devices", f"GPU {number}: {facts.name}, {memory}, sm_{facts.major}{facts.minor}", level)
    if not torch.cuda.is_bf16_supported():
        yield Look("devices", "no bfloat16 here: set train.precision=float16 or float32", "note")
    if find_spec("triton") is None:
        yield Look("devices", "triton is missing: the fused kernels of the losses fall back to tiles", "note")


def look_at_processes() -> Iterator[Look]:
    """Whether two processes meet, and how many files one may open."""
    backends = ["gloo"] + (["nccl"] if torch.cuda.device_count() > 1 else [])
    for backend in backends:
        with tempfile.TemporaryDirectory() as folder:
            yield _let_two_meet(backend, Path(folder) / "meet")
    with contextlib.suppress(ImportError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        level = "ok" if soft >= FEW_FILES or soft == resource.RLIM_INFINITY else "note"
        advice = "" if level == "ok" else f"; many processes and shards need more: ulimit -n {min(hard, 65536)}"
        yield Look("processes", f"a process may open {soft:,} files{advice}", level)
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        level = "ok" if free > GIB else "note"
        advice = "" if level == "ok" else ": containers need more, such as docker run --shm-size=8g"
        yield Look("processes", f"{free / GIB:.3g} GiB of shared memory for batches{advice}", level)


def _let_two_meet(backend: str, file: Path) -> Look:
    keep = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    words = [[sys.executable, "-c", MEET, str(rank), backend, str(file)] for rank in range(2)]
    running = [
        subprocess.Popen(each, env=keep, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for each in words
    ]
    said = []
    for process in running:
        try:
            _, errors = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            errors = f"no answer in two minutes\n{process.communicate()[1]}"
        if process.returncode:
            said.append((errors.strip().splitlines() or [f"ended with {process.returncode}"])[-1])
    if said:
        host = socket.gethostname()
        return Look("processes", f"two processes do not meet by {backend}: {said[0]} (host name: {host})", "wrong")
    return Look("processes", f"two processes meet by {backend}")


def look_at_disk(folder: Path) -> Iterator[Look]:
    """Whether the folder of runs can be written, synced and held, and what room it has."""
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())
    free = shutil.disk_usage(place).free
    yield Look("disk", f"{free / GIB:.3g} GiB free for {folder}", "ok" if free > GIB else "note")
    probe = files.beside(place / "probe")
    try:
        probe.mkdir()
        files.write_text(probe / "file", "x")
        if not files.hold(probe / "held", 0.0):
            yield Look("disk", f"{place}: files cannot be held: two runs could train in one folder", "note")
        yield Look("disk", f"{place}: files are written, synced and renamed")
    except OSError as error:
        yield Look("disk", f"{place}: cannot be written ({error}); set runs=FOLDER", "wrong")
    finally:
        files.remove(probe)


def look_at_hub() -> Iterator[Look]:
    """Whether the hub answers, and whether it knows who asks."""
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        yield Look("hub", "HF_HUB_OFFLINE is set: weights and tokenizers come from the cache alone", "note")
        return
    from huggingface_hub import get_token

    parts = urlsplit(address)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        with socket.create_connection((parts.hostname or "", port), PATIENCE):
            pass
    except OSError as error:
        said = f"{address} does not answer ({error}): set HF_HUB_OFFLINE=1 to be told at once what is not in the cache"
        yield Look("hub", said, "note")
        return
    known = "a token is set" if get_token() else "no token: public models can be read, nothing can be pushed"
    yield Look("hub", f"{address} answers; {known}")


def look_at_trackers() -> Iterator[Look]:
    """Which trackers could be used."""
    there = [name for name, packages in PACKAGES.items() if any(find_spec(package) for package in packages)]
    yield Look("trackers", f"installed: {', '.join(there)}" if there else "none; metrics.jsonl is there")


def look_at_recipe(recipe: Recipe) -> Iterator[Look]:
    """Whether a recipe's needs are met: its sets, trackers, folder, weights and tokenizer."""
    tasks = ", ".join(recipe.evaluation.tasks) or f"no tasks (vlp eval takes {', '.join(DEFAULT_TASKS[:2])}, ...)"
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            check_ready(recipe)
            yield Look("recipe", f"{recipe.name}: its folder can be written; evaluates {tasks}")
            towers = build_model(recipe.model)
            _ = towers.tokenizer
        count = sum(value.numel() for value in towers.parameters())
        yield Look("recipe", f"towers of {count / 1e6:.3g} million parameters, tokenizer fits")
        yield from (Look("recipe", str(found)) for found in towers.loaded)
        yield from (Look("recipe", str(each.message), "note") for each in said)
    except RecipeError as error:
        yield Look("recipe", str(error), "wrong")
