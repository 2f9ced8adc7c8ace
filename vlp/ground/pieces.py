"""Tensors that several files hold together: `model-00001-of-00002.safetensors` and others for `model.safetensors`.

Headers say where pieces belong, in the words of torch's `HuggingFaceStorageReader`, which can read them too.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from operator import gt, index
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from vlp.ground.errors import first_line

SUFFIX = ".safetensors"
PIECE = re.compile(r"(.+)-\d{5}-of-(\d{5})\.safetensors")
IN_PIECES = "in pieces"  # the key that stands for a tensor in a state whose tensors lie in files with pieces
HEADER, OFFSETS, WHOLE = "DCP_SHARDING_INFO", "saved_offsets", "whole_shape"  # the last one is ours


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


def holds_tensors(path: Path) -> bool:
    """Whether there is such a file, or the pieces of one."""
    return path.is_file() or bool(pieces_of(path))


def write_pieces(
    path: Path,
    tensors: Mapping[str, Tensor],
    offsets: Mapping[str, Sequence[int]],
    wholes: Mapping[str, Sequence[int]],
) -> None:
    """Write a file with pieces.

    Args:
        offsets: By name, where in the whole tensor the piece begins, along each axis.
        wholes: By name, the shape of the whole tensor, by which a piece is missed.
    """
    header = {name: {OFFSETS: list(offset), WHOLE: list(wholes[name])} for name, offset in offsets.items()}
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, {HEADER: json.dumps(header)})


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a file, or in its pieces, from the headers alone.

    Raises:
        ValueError: The pieces do not make up whole tensors.
        Exception: Whatever safetensors raises of bytes that are damaged.
    """
    return {name: _shape(path, name, places) for name, places in _places(path).items()}


def read_whole(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, or put them together from its pieces.

    Raises:
        ValueError: The pieces do not make up whole tensors.
        Exception: Whatever safetensors raises of bytes that are damaged.
    """
    wholes = shapes(path)  # refuses a gap before memory is taken for what pieces claim to be
    found: dict[str, Tensor] = {}
    for file in pieces_of(path) or [path]:
        with safe_open(file, framework="pt") as opened:
            for name, place in _places_in(opened, file).items():
                piece = opened.get_tensor(name)
                if place.size == wholes[name]:
                    found[name] = piece
                    continue
                whole = found.setdefault(name, torch.empty(wholes[name], dtype=piece.dtype))
                for axis, begin in enumerate(place.begin):
                    whole = whole.narrow(axis, begin, place.size[axis])
                whole.copy_(piece)
    return found


class _Place(NamedTuple):
    """Where a piece begins and ends in its tensor; and what its file says of the whole, None where others wrote it."""

    begin: tuple[int, ...]
    end: tuple[int, ...]
    kind: str
    whole: tuple[int, ...] | None

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(end - begin for begin, end in zip(self.begin, self.end, strict=True))

    def meets(self, other: _Place) -> bool:
        """Whether both hold the same number."""
        sides = zip(self.begin, self.end, other.begin, other.end, strict=True)
        return all(begin < its_end and its_begin < end for begin, end, its_begin, its_end in sides)


def _shape(path: Path, name: str, places: Sequence[_Place]) -> tuple[int, ...]:
    """Return the shape of a tensor; refuse pieces with gaps, over each other, or of different tensors."""
    odd = f"the pieces of {path.name} do not make up '{name}'"
    for what, told in (
        ("numbers of axes", {len(at.begin) for at in places}),
        ("types", {at.kind for at in places}),
        ("wholes", {at.whole for at in places}),
    ):
        if len(told) > 1:
            raise ValueError(f"{odd}: they are of different {what} ({', '.join(sorted(map(str, told)))})")
    whole = places[0].whole or tuple(max(ends) for ends in zip(*(at.end for at in places), strict=True))
    if sum(math.prod(at.size) for at in places) != math.prod(whole) or _any_meet(places):
        raise ValueError(f"{odd} of shape {whole}: some are missing, or there twice")
    return whole


def _any_meet(places: Sequence[_Place]) -> bool:
    ordered = sorted(at for at in places if math.prod(at.size))
    for number, at in enumerate(ordered):
        for other in ordered[number + 1 :]:
            if other.begin[0] >= at.end[0]:  # and so are all behind it
                break
            if at.meets(other):
                return True
    return False


def _places(path: Path) -> dict[str, list[_Place]]:
    """Return where all pieces of each tensor lie."""
    found: dict[str, list[_Place]] = {}
    for file in pieces_of(path) or [path]:
        with safe_open(file, framework="pt") as opened:
            if file == path != path.with_name(whole_name(path.name)) and HEADER in (opened.metadata() or {}):
                raise ValueError(f"it is one of the pieces of {whole_name(path.name)}: name that, and all are read")
            for name, place in _places_in(opened, file).items():
                found.setdefault(name, []).append(place)
    _check_all_there(path, all(at.whole is not None for places in found.values() for at in places))
    return found


def _check_all_there(path: Path, tells_wholes: bool) -> None:
    """Refuse pieces of two writings, and a part of those whose tensors tell nobody how large they are."""
    pieces = pieces_of(path)
    counts = sorted({int(found[2]) for file in pieces if (found := PIECE.fullmatch(file.name))})
    if len(counts) > 1:
        raise ValueError(f"{path.name}: pieces of {' and of '.join(map(str, counts))} files lie together")
    if not tells_wholes and counts not in ([], [len(pieces)]):
        raise ValueError(f"{path.name}: {len(pieces)} of its {counts[0]} pieces are there")


def _places_in(opened: Any, file: Path) -> dict[str, _Place]:
    """Return where each piece in a file lies; without a header, tensors are whole.

    Raises:
        ValueError: The header is not one of pieces.
    """
    try:
        header = json.loads((opened.metadata() or {}).get(HEADER, "{}"))
        found = {}
        for name in opened.keys():  # noqa: SIM118 - no mapping
            part = opened.get_slice(name)
            size, said = tuple(part.get_shape()), header.get(name, {})
            begin = tuple(map(index, said.get(OFFSETS, (0,) * len(size))))
            end = tuple(first + length for first, length in zip(begin, size, strict=True))
            whole = tuple(map(index, said[WHOLE])) if WHOLE in said else None
            outside = whole is not None and (len(whole) != len(end) or any(map(gt, end, whole)))
            if outside or min(begin, default=0) < 0:
                raise ValueError(f"'{name}' from {begin} to {end} of {whole}")
            found[name] = _Place(begin, end, str(part.get_dtype()), whole)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file.name}: its {HEADER} does not say where pieces lie ({first_line(error)})") from error
    return found
