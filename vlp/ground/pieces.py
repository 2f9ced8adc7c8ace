"""Tensors that several files hold together: `model-00001-of-00002.safetensors` and others for `model.safetensors`.

Headers say where pieces belong, in the words of torch's `HuggingFaceStorageReader`, which can read them too.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

SUFFIX = ".safetensors"
PIECE = re.compile(r"(.+)-\d{5}-of-\d{5}\.safetensors")
IN_PIECES = "in pieces"  # the key that stands for a tensor in a state whose tensors lie in files with pieces
HEADER, OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"


def split(state: Any, name: str, shards: dict[str, Tensor]) -> Any:
    """Return a state with names in the place of sharded tensors, and put these into `shards`; called by all processes.

    Args:
        name: Where the state lies, as `PART/NAME`.
    """
    if isinstance(state, DTensor):
        if any(placement.is_partial() for placement in state.placements):  # sums that are still to be added up
            return state.full_tensor()
        shards[name] = state
        return {IN_PIECES: name.partition("/")[2]}
    if isinstance(state, dict):
        return type(state)((key, split(value, f"{name}/{key}", shards)) for key, value in state.items())
    if isinstance(state, list | tuple):
        return type(state)(split(value, f"{name}/{number}", shards) for number, value in enumerate(state))
    return state


def joined(state: Any, pieces: Mapping[str, Tensor]) -> Any:
    """Return a state that was split, with its tensors in their places."""
    if isinstance(state, dict):
        if state.keys() == {IN_PIECES}:
            return pieces[state[IN_PIECES]]
        return type(state)((key, joined(value, pieces)) for key, value in state.items())
    if isinstance(state, list | tuple):
        return type(state)(joined(value, pieces) for value in state)
    return state


def piece_name(part: str, number: int, count: int) -> str:
    """Return what the file with a process's pieces of `part` is called.

    Args:
        number: Of the process, from 0.
        count: Of processes.
    """
    return f"{part}-{number + 1:05d}-of-{count:05d}{SUFFIX}"


def whole_name(name: str) -> str:
    """Return the name of the file that `name` is a piece of, and that of any other file as it is."""
    found = PIECE.fullmatch(name)
    return name if found is None else f"{found[1]}{SUFFIX}"


def pieces_of(path: Path) -> list[Path]:
    """Return the files with the pieces of `path`, in their order; none where it is whole, or not there at all."""
    if path.exists() or path.suffix != SUFFIX or not path.parent.is_dir():
        return []
    return sorted(file for file in path.parent.glob(f"*{SUFFIX}") if whole_name(file.name) == path.name != file.name)


def write_pieces(path: Path, tensors: Mapping[str, Tensor], offsets: Mapping[str, Sequence[int]]) -> None:
    """Write a file with pieces.

    Args:
        offsets: By name, where in the whole tensor the piece begins, along each axis.
    """
    header = {name: {OFFSETS: list(offset)} for name, offset in offsets.items()}
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, {HEADER: json.dumps(header)})


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a file, or in its pieces, from the headers alone."""
    found: dict[str, tuple[int, ...]] = {}
    for file in pieces_of(path) or [path]:
        with safe_open(file, framework="pt") as opened:
            for name, offset, size in _places(opened):
                reach = [begin + length for begin, length in zip(offset, size, strict=True)]
                known = found.get(name, (0,) * len(reach))
                found[name] = tuple(max(pair) for pair in zip(known, reach, strict=True))
    return found


def read_whole(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, or put them together from its pieces.

    Raises:
        ValueError: The pieces do not make up whole tensors.
        Exception: Whatever safetensors raises of bytes that are damaged.
    """
    wholes, files = shapes(path), pieces_of(path) or [path]
    _check_complete(path, wholes, files)
    found: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name, offset, size in _places(opened):
                piece = opened.get_tensor(name)
                if size == wholes[name]:
                    found[name] = piece
                    continue
                whole = found.setdefault(name, torch.empty(wholes[name], dtype=piece.dtype))
                for axis, begin in enumerate(offset):
                    whole = whole.narrow(axis, begin, size[axis])
                whole.copy_(piece)
    return found


def _check_complete(path: Path, wholes: Mapping[str, tuple[int, ...]], files: Sequence[Path]) -> None:
    """Refuse pieces with a gap, before memory is taken for what they claim to be."""
    held = dict.fromkeys(wholes, 0)
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name, _, size in _places(opened):
                held[name] += math.prod(size)
    odd = [name for name, shape in wholes.items() if held[name] != math.prod(shape)]
    if odd:
        raise ValueError(f"the pieces of {path.name} do not make up '{odd[0]}' of shape {wholes[odd[0]]}")


def _places(opened: Any) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Yield name, offset and shape of each piece in a file."""
    header = json.loads((opened.metadata() or {}).get(HEADER, "{}"))
    for name in opened.keys():  # noqa: SIM118 - no mapping
        size = tuple(opened.get_slice(name).get_shape())
        yield name, tuple(header[name][OFFSETS]) if name in header else (0,) * len(size), size
