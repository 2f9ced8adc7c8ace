"""How large the tiles of the kernels are: what was fastest on this device (`vlp bench loss`), or what suits most."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vlp.ground.cache_folder import cache_folder
from vlp.ground.files import write_text


class Blocks(NamedTuple):
    """How much of a panel is one program's: a tile, and how many features at a time."""

    block_rows: int
    block_columns: int
    block_depth: int
    num_warps: int


SINGLE, HALF, INTERPRETED = Blocks(128, 64, 32, 8), Blocks(128, 64, 64, 8), Blocks(16, 16, 16, 1)
KERNELS = ("engine/triton_kernels.py", "engine/triton_tiles.py")


_tried: list[Blocks] = []


def blocks_for(features: Tensor) -> Blocks:
    """Return the tiles for features of a number format on a device."""
    return _tried[-1] if _tried else _chosen(features.device, features.dtype)


@cache
def _chosen(device: torch.device, number_format: torch.dtype) -> Blocks:
    """Return what was measured, or suits; asked for every panel, so that the device is asked once."""
    measured = known_blocks().get(key_of(device, number_format))
    if measured is not None:
        return measured
    return INTERPRETED if device.type != "cuda" else SINGLE if number_format == torch.float32 else HALF


@contextmanager
def use_blocks(blocks: Blocks) -> Iterator[None]:
    """Try tiles within the block."""
    _tried.append(blocks)
    try:
        yield
    finally:
        _tried.pop()


def key_of(device: torch.device, number_format: torch.dtype) -> str:
    """Return what a choice of tiles holds for: a device, a number format, a compiler, and these kernels."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"
    return f"{name}, {str(number_format).removeprefix('torch.')}, {_made_of()}"


def known_blocks() -> dict[str, Blocks]:
    """Return what was measured on this machine; nothing where that cannot be read."""
    try:
        known = json.loads(where_known().read_text(encoding="utf-8"))
        return {key: Blocks(*map(int, value)) for key, value in known.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def remember_blocks(key: str, blocks: Blocks | None) -> Path:
    """Keep a choice for this and later programs, or forget it; return the file.

    Raises:
        OSError: The cache cannot be written.
    """
    known = {each: value for each, value in known_blocks().items() if each != key}
    if blocks is not None:
        known[key] = blocks
    write_text(where_known(), json.dumps(known, indent=1) + "\n")
    forget_choices()
    return where_known()


def forget_choices() -> None:
    """Ask the file and the devices again, the next time that tiles are wanted."""
    _chosen.cache_clear()


def where_known() -> Path:
    """Return the file of what was measured."""
    return cache_folder("kernels") / "blocks.json"


def _made_of() -> str:
    """Return the version of Triton, and a checksum of the kernels."""
    text = b"".join((Path(__file__).parent / name).read_bytes() for name in KERNELS)
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        version = "absent"
    return f"triton {version}, kernels {hashlib.sha256(text).hexdigest()[:12]}"
