"""Index one tar of an evaluation set: where each sample lies. Nothing in a tar is ever executed or unpickled."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vlp.ground.types import RecipeError

IMAGE_SUFFIXES = ("webp", "png", "jpg", "jpeg")


@dataclass(frozen=True)
class EvaluationSample:
    """Where one image lies, and the bytes that stand beside it (its class, captions or label vector)."""

    key: str
    shard: Path
    offset: int
    size: int
    label: bytes

    def image_bytes(self) -> bytes:
        """Read the encoded image."""
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def read_shard(shard: Path, label_suffix: str) -> list[EvaluationSample]:
    """List the samples of one tar in its order.

    Args:
        label_suffix: `cls`, `txt` or `npy`; members with other names are never opened.

    Raises:
        RecipeError: The tar is cut or damaged, or a sample lacks its image or its label.
    """
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, bytes] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                key, suffix = _split_name(member.name)
                if not member.isfile() or suffix not in (*IMAGE_SUFFIXES, label_suffix):
                    continue
                if key in (labels if suffix == label_suffix else images):
                    raise RecipeError(f"{shard}: sample '{key}' has two members of the kind '.{suffix}'")
                if suffix == label_suffix:
                    content = tar.extractfile(member)
                    assert content is not None
                    labels[key] = content.read()
                else:
                    images[key] = (member.offset_data, member.size)
            end = tar.offset
    except (tarfile.TarError, EOFError) as error:
        raise RecipeError(f"{shard}: not a whole tar ({error}); fetch it again") from error
    _check_end(shard, end)
    for key in images.keys() ^ labels.keys():
        missing = f".{label_suffix}" if key in images else "image"
        raise RecipeError(f"{shard}: sample '{key}' has no {missing}")
    return [EvaluationSample(key, shard, offset, size, labels[key]) for key, (offset, size) in images.items()]


def _split_name(name: str) -> tuple[str, str]:
    path = PurePosixPath(name)
    stem, _, suffix = path.name.partition(".")
    return str(path.parent / stem), suffix.lower()


def _check_end(shard: Path, end: int) -> None:
    """Python's tarfile stops at a cut or garbled header without a word; a whole tar ends with a block of zeros."""
    with shard.open("rb") as file:
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or any(block):
        raise RecipeError(f"{shard}: the tar is cut or damaged at byte {end}; fetch it again")
