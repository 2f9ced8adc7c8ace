"""Files of embeddings: parts of some thousand samples each, and what they all hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlp.ground import files
from vlp.ground.types import RecipeError

MANIFEST = "embeddings.json"
SINCE = ("configuration",)  # of which older folders say nothing
Side = Literal["images", "texts"]
Format = Literal["parquet", "npy"]
Kind = Literal["float16", "float32"]
Found = tuple[NDArray[np.int64], NDArray[np.floating]]


@dataclass
class Part:
    """The embeddings of some samples in a row; samples that cannot be read are left out.

    Args:
        ids: Number of each sample in the data set.
        keys: Its key in its shard.
        captions: Its first caption.
        faults: One line for each sample that is left out.
    """

    ids: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    faults: list[dict[str, str | int]] = field(default_factory=list)
    images: NDArray[np.float32] | None = None
    texts: NDArray[np.float32] | None = None


def check_format(file_format: Format) -> None:
    """Refuse a format that cannot be written here.

    Raises:
        RecipeError: Its library is not installed.
    """
    if file_format == "parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise RecipeError("parquet needs pyarrow: pip install 'vlp[data]', or choose --format npy") from error


def has_part(stem: Path) -> bool:
    """Whether a part was written to its end."""
    return stem.with_suffix(".json").exists()


def write_part(stem: Path, part: Part, file_format: Format, kind: Kind) -> None:
    """Write a part, its note last.

    Args:
        stem: Path of its files without their suffixes.

    Raises:
        OSError: The folder cannot be written.
    """
    WRITERS[file_format](stem, part, np.dtype(kind))
    note = {"samples": len(part.ids), "faults": part.faults}
    files.write_text(stem.with_suffix(".json"), json.dumps(note) + "\n")


def claim_folder(folder: Path, manifest: Mapping[str, Any], file: str = MANIFEST) -> None:
    """Begin a folder, or go on with it.

    Args:
        file: Name of the manifest.

    Raises:
        RecipeError: It was written for something else.
    """
    path = folder / file
    if not path.exists():
        if folder.exists() and any(folder.glob("part-*")):
            raise RecipeError(f"{folder} holds parts and no {file}; choose another folder")
        files.write_text(path, json.dumps(manifest, indent=2) + "\n")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecipeError(f"{path}: {error}; choose another folder") from error
    before = {name: manifest[name] for name in SINCE if name in manifest} | before
    different = [name for name in manifest if before.get(name) != manifest[name]]
    if different:
        name = different[0]
        raise RecipeError(
            f"{folder} was written with another {name}: {before.get(name)}, not {manifest[name]}; choose another folder"
        )
    files.remove_leftovers(folder)


def finish_folder(folder: Path) -> tuple[int, int]:
    """List the samples that are left out; return how many there are, and how many those."""
    notes = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("part-*.json"))]
    faults = [fault for note in notes for fault in note["faults"]]
    if faults:
        files.write_text(folder / "faults.jsonl", "".join(json.dumps(fault) + "\n" for fault in faults))
    return sum(note["samples"] for note in notes), len(faults)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what a folder of embeddings says that it holds.

    Raises:
        RecipeError: It is none.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"{folder / MANIFEST}: cannot be read ({error}); vlp embed MODEL DATA --to {folder}"
        ) from error
    return manifest


def read_embeddings(folder: Path, side: Side = "images") -> Found:
    """Return the ids of the samples, ascending, and their embeddings as they were written.

    Args:
        folder: What `vlp embed` wrote.
        side: `images` or `texts`.

    Raises:
        RecipeError: It holds no embeddings, not all of them yet, or not of that side.
    """
    parts = list(parts_of(folder, side))
    return np.concatenate([ids for ids, _ in parts]), np.concatenate([rows for _, rows in parts])


def parts_of(folder: Path, side: Side = "images", *, order: np.random.Generator | None = None) -> Iterator[Found]:
    """Yield the ids of some samples in a row and their embeddings, for what need not be in memory as a whole.

    Args:
        folder: What `vlp embed` wrote.
        side: `images` or `texts`.
        order: Shuffles the parts; None takes them as they come.

    Raises:
        RecipeError: It holds no embeddings, not all of them yet, or not of that side.
    """
    parts = WholeParts(folder, side)
    numbers = range(len(parts)) if order is None else order.permutation(len(parts))
    yield from (parts.read(number, side) for number in numbers)


class WholeParts:
    """The parts of a folder of embeddings, all of them, to be read by their numbers.

    Args:
        folder: What `vlp embed` wrote.
        sides: Which are wanted, `images` or `texts`.

    Raises:
        RecipeError: It holds no embeddings, not all of them yet, or not of these sides.
    """

    def __init__(self, folder: Path, *sides: Side):
        self.manifest = read_manifest(folder)
        for side in sides:
            if side not in self.manifest["sides"]:
                raise RecipeError(
                    f"{folder} holds no embeddings of {side}, only of {', '.join(self.manifest['sides'])}"
                )
        num_parts = -(-self.manifest["samples"] // self.manifest["samples_per_part"])
        self._stems = [folder / f"part-{number:05d}" for number in range(num_parts)]
        missing = [stem.name for stem in self._stems if not has_part(stem)]
        if missing:
            raise RecipeError(
                f"{folder}: {len(missing)} of {num_parts} parts are missing; run vlp embed again to go on"
            )

    def __len__(self) -> int:
        return len(self._stems)

    def read(self, number: int, side: Side) -> Found:
        """Return the ids of the samples of a part, ascending, and their embeddings of a side."""
        return READERS[self.manifest["format"]](self._stems[number], side)

    def captions(self, number: int) -> list[str]:
        """Return the captions of the samples of a part, where texts were embedded."""
        return CAPTIONS[self.manifest["format"]](self._stems[number])


def _write_npy(stem: Path, part: Part, kind: np.dtype[Any]) -> None:
    for name, rows in (("images", part.images), ("texts", part.texts), ("ids", np.array(part.ids, dtype=np.int64))):
        if rows is not None:
            with files.write_whole(stem.with_suffix(f".{name}.npy")) as file:
                np.save(file, rows if name == "ids" else rows.astype(kind), allow_pickle=False)
    keys = [{"key": key, "caption": caption} for key, caption in zip(part.keys, part.captions, strict=True)]
    files.write_text(stem.with_suffix(".keys.jsonl"), "".join(json.dumps(row) + "\n" for row in keys))


def _write_parquet(stem: Path, part: Part, kind: np.dtype[Any]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = {"id": pa.array(part.ids, pa.int64()), "key": pa.array(part.keys, pa.string())}
    if part.texts is not None:
        columns["caption"] = pa.array(part.captions, pa.string())
    for name, rows in (("images", part.images), ("texts", part.texts)):
        if rows is not None:
            flat = pa.array(rows.astype(kind).reshape(-1))
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
    with files.write_whole(stem.with_suffix(".parquet")) as file:
        parquet.write_table(pa.table(columns), file)


def _read_npy(stem: Path, side: Side) -> Found:
    return np.load(stem.with_suffix(".ids.npy")), np.load(stem.with_suffix(f".{side}.npy"))


def _captions_beside_npy(stem: Path) -> list[str]:
    with stem.with_suffix(".keys.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line)["caption"] for line in lines]


def _captions_in_parquet(stem: Path) -> list[str]:
    from pyarrow import parquet

    found: list[str] = parquet.read_table(stem.with_suffix(".parquet"), columns=["caption"])["caption"].to_pylist()
    return found


def _read_parquet(stem: Path, side: Side) -> Found:
    from pyarrow import parquet

    table = parquet.read_table(stem.with_suffix(".parquet"), columns=["id", side])
    rows = table[side].combine_chunks()
    width = rows.type.list_size
    return table["id"].to_numpy(), rows.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)


WRITERS = {"npy": _write_npy, "parquet": _write_parquet}
READERS = {"npy": _read_npy, "parquet": _read_parquet}
CAPTIONS = {"npy": _captions_beside_npy, "parquet": _captions_in_parquet}
