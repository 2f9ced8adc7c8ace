"""Read the tensors of any file: safetensors, torch's archives old and new, TorchScript; no code in it runs."""

from __future__ import annotations

import io
import json
import math
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

from vlp.ground.errors import first_line
from vlp.ground.pieces import pieces_of, read_whole
from vlp.ground.types import RecipeError

# Where the weights lie in what trainers save: open_clip, Lightning and timm; fairseq and others; DeepSpeed.
CONTAINERS = ("state_dict", "model_state_dict", "model", "module", "net", "weights")
INDEX = ".index.json"  # of weights that transformers spreads over several files
DEPTH = 100  # of modules in modules
MOST_REPEATED = 1 << 20  # numbers of a tensor that repeats fewer: a few bytes could ask for all memory
STORAGES = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16,
    "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool, "UntypedStorage": torch.uint8,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128,
}  # fmt: skip
PLAIN = {
    ("collections", "OrderedDict"): OrderedDict,
    **{(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (set, frozenset)},
}
OF_TORCHSCRIPT = ("input_resolution", "context_length", "vocab_size")  # numbers among the tensors of OpenAI's archives


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, on the CPU, out of whatever they are wrapped in.

    Objects of unknown classes become empty shells, so that a checkpoint with settings or a whole module in it can be
    read, and no code of the file is ever called.

    Raises:
        RecipeError: The file cannot be read, or holds no tensors.
    """
    try:
        if pieces_of(path):
            return read_whole(path)
        with path.open("rb") as file:
            head = file.read(16)
        found = _read(path, head)
    except RecipeError:
        raise
    except Exception as error:  # of bytes that anybody may have written
        raise RecipeError(f"'{path}' cannot be read as weights: {first_line(error, kind=True)}"[:400]) from error
    if not found:
        raise RecipeError(f"'{path}' holds no tensors with names")
    return found


def _read(path: Path, head: bytes) -> dict[str, Tensor]:
    if path.name.endswith(INDEX):
        return _read_parts(path)
    if head[8:9] == b"{":
        return read_whole(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            whole = partial(_record, archive, path.stat().st_size)
            return {name: value.tensor(whole) for name, value in _named(_unpickle_archive(archive, whole))}
    with path.open("rb") as file:
        content, numbers = _unpickle_old(file, path.stat().st_size)
        return {name: value.tensor(numbers) for name, value in _named(content)}


def _read_parts(path: Path) -> dict[str, Tensor]:
    """Read the files that an index of transformers names."""
    names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    found: dict[str, Tensor] = {}
    for name in names:
        found |= read_tensors(path.parent / Path(name).name)
    return found


# ---------------------------------------- shells for what is not known
class Shell:
    """An object of a class that is not ours to make: it takes whatever is stored in it, and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Shell:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update({str(key): value for key, value in state.items()})

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__dict__[str(key)] = value

    def append(self, _: Any) -> None:
        """Take an element of a list."""

    def extend(self, _: Any) -> None:
        """Take elements of a list."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, not read yet: optimizers' states are larger than the weights."""

    record: str
    dtype: torch.dtype
    count: int
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def tensor(self, read: Callable[[str], bytes]) -> Tensor:
        """Read it.

        Args:
            read: Returns the bytes of a record.

        Raises:
            ValueError: It reaches beyond what is stored, or repeats it without end.
        """
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        width = self.dtype.itemsize
        if not math.prod(self.size):
            return torch.empty(self.size, dtype=self.dtype)
        if min(self.offset, *self.stride, 0) < 0 or last >= self.count:
            raise ValueError(f"{self.record}: a tensor reaches beyond its numbers")
        if math.prod(self.size) > max(self.count, MOST_REPEATED):
            raise ValueError(f"{self.record}: a tensor of {math.prod(self.size):,} numbers repeats {self.count:,}")
        raw = bytearray(read(self.record))
        if len(raw) < self.count * width:
            raise ValueError(f"{self.record}: {len(raw)} bytes for {self.count} numbers of {width}")
        flat = torch.frombuffer(raw, dtype=self.dtype, count=self.count)
        return flat.as_strided(self.size, self.stride, self.offset).contiguous()


# ---------------------------------------- archives: since torch 1.6, and TorchScript
class _Unpickler(pickle._Unpickler):
    """Makes shells of what is not known.

    It is Python's own: that of C makes room at once for as many objects as a file claims to have.
    """

    def load(self) -> Any:
        try:
            return super().load()
        except Exception as error:  # of whatever an operation meets among wrong bytes
            raise pickle.UnpicklingError(f"its pickle is damaged ({first_line(error, kind=True)})") from error

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if module in ("torch._utils", "torch._tensor") and name in _BUILDERS:
            return _BUILDERS[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) == ("torch", "Size"):
            return tuple
        return PLAIN.get((module, name)) or type("Shell", (Shell,), {})


def _record(archive: zipfile.ZipFile, size: int, name: str) -> bytes:
    """Return a record; the archive's checksum is verified on the way.

    Args:
        size: Of the whole file: torch packs nothing, and what is packed may unpack to anything.
    """
    if archive.getinfo(name).file_size > size:
        raise ValueError(f"{name}: is packed; save it again with torch")
    return archive.read(name)


def _unpickle_archive(archive: zipfile.ZipFile, read: Callable[[str], bytes]) -> Any:
    pickles = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
    if not pickles:
        raise RecipeError(f"'{archive.filename}' is a zip archive, but none of torch")
    folder = pickles[0].removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in archive.namelist() and read(order).decode() != sys.byteorder:
        raise RecipeError(f"'{archive.filename}' was written on a machine of another byte order")
    return _ArchiveUnpickler(folder, io.BytesIO(read(pickles[0]))).load()


class _ArchiveUnpickler(_Unpickler):
    def __init__(self, folder: str, file: io.BytesIO):
        super().__init__(file, encoding="utf-8", errors="replace")
        self.folder = folder

    def persistent_load(self, pid: Any) -> Any:
        _, dtype, key, _, count = pid
        if not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"numbers of an unknown kind: {dtype}")
        return f"{self.folder}data/{key}", dtype, int(count)


def _rebuild(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Stored:
    record, dtype, count = storage
    return Stored(record, dtype, count, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


def _rebuild_untyped(
    storage: Any, offset: int, size: Any, stride: Any, _: Any, __: Any, dtype: Any, *___: Any
) -> Stored:
    record, _, count = storage
    return _rebuild((record, dtype, count // dtype.itemsize), offset, size, stride)


def _first(value: Any, *_: Any) -> Any:
    return value


def _rebuild_as(function: Any, _: Any, arguments: Any, *__: Any) -> Any:
    return function(*arguments) if function in _BUILDERS.values() else Shell()


_BUILDERS: dict[str, Callable[..., Any]] = {
    "_rebuild_tensor": _rebuild,
    "_rebuild_tensor_v2": _rebuild,
    "_rebuild_tensor_v3": _rebuild_untyped,
    "_rebuild_parameter": _first,
    "_rebuild_parameter_with_state": _first,
    "_rebuild_from_type_v2": _rebuild_as,
}


# ---------------------------------------- files of torch before 1.6
def _unpickle_old(file: BinaryIO, size: int) -> tuple[Any, Callable[[str], bytes]]:
    """Return what an old file holds, its tensors not read yet, and what reads their numbers.

    Such a file is a row of pickles: two numbers that say what it is, the machine, the content, and the names of what
    follows: the numbers of each tensor, behind their count.
    """
    if [_OldUnpickler(file).load() for _ in range(2)] != [MAGIC_NUMBER, PROTOCOL_VERSION]:
        raise ValueError("neither safetensors nor written by torch")
    if _OldUnpickler(file).load().get("little_endian") != (sys.byteorder == "little"):
        raise ValueError("written on a machine of another byte order")
    content = _OldUnpickler(file)
    loaded, places = content.load(), {}
    for key in _OldUnpickler(file).load():
        dtype, declared = content.kinds[str(key)]
        (count,) = struct.unpack("<q", file.read(8))
        place, length = file.tell(), count * dtype.itemsize
        if count != declared or place + length > size:
            raise ValueError(f"storage {key}: {declared:,} numbers, where there are {count:,} in {size:,} bytes")
        places[str(key)] = place
        file.seek(place + length)

    def numbers(record: str) -> bytes:
        key, first, last = content.parts[record]
        file.seek(places[key] + first)
        return file.read(last - first)

    return loaded, numbers


class _OldUnpickler(_Unpickler):
    """Remembers which numbers there are.

    Attributes:
        kinds: Kind and count of each storage.
        parts: Storage, first byte and last of each record: of a storage, or of a part that was seen as one.
    """

    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding="utf-8", errors="replace")
        self.kinds: dict[str, tuple[torch.dtype, int]] = {}
        self.parts: dict[str, tuple[str, int, int]] = {}

    def persistent_load(self, pid: Any) -> Any:
        kind, what, *rest = pid
        if kind == "module":  # a class, beside its source
            return what
        key, _, count, *view = rest
        if kind != "storage" or not isinstance(what, torch.dtype):
            raise pickle.UnpicklingError(f"neither a class nor numbers of a known kind: {kind}")
        self.kinds[str(key)] = what, int(count)
        name, first, number = view[0] if view and view[0] else (key, 0, count)
        self.parts[str(name)] = str(key), int(first) * what.itemsize, (int(first) + int(number)) * what.itemsize
        return str(name), what, int(number)


# ---------------------------------------- tensors by name
def _named(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield the weights of what was stored: a mapping, one inside another, or a whole module."""
    if isinstance(content, Shell):
        yield from ((name, value) for name, value in _walk(content, "", DEPTH) if name not in OF_TORCHSCRIPT)
        return
    if not isinstance(content, Mapping):
        return
    tensors = [(str(name), value) for name, value in content.items() if isinstance(value, Stored)]
    inner = next((content[name] for name in CONTAINERS if isinstance(content.get(name), Mapping | Shell)), None)
    if inner is not None and not any("." in name for name, _ in tensors):
        yield from _named(inner)
    else:
        yield from tensors


def _walk(thing: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of a module: attributes in TorchScript, three mappings in Python."""
    if depth == 0:
        return
    values = vars(thing) if isinstance(thing, Shell) else thing
    named = values.get("_non_persistent_buffers_set")  # such as masks, which no state has
    unsaved = named if isinstance(named, set) else set()
    for name, value in values.items():
        if isinstance(value, Stored):
            yield f"{prefix}{name}", value
        elif name in ("_parameters", "_buffers", "_modules") and isinstance(value, Mapping):
            saved = {key: part for key, part in value.items() if name != "_buffers" or key not in unsaved}
            yield from _walk(saved, prefix, depth - 1)
        elif isinstance(value, Shell):
            yield from _walk(value, f"{prefix}{name}.", depth - 1)
