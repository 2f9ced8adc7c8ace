"""Write captions for pictures: files, folders of them, or a data set."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from PIL.Image import Image
from tqdm import tqdm

from vlp.data.faults import BadSampleError
from vlp.data.pixels.decode import decode_image
from vlp.data.samples import SampleSet
from vlp.data.shards.cards import load_card
from vlp.embeddings.parts import claim_folder
from vlp.evaluators.shared import decode_ahead
from vlp.ground import dist, files
from vlp.ground.bits import checksum
from vlp.ground.offers import offers
from vlp.ground.paths import is_hidden
from vlp.ground.randomness import mix
from vlp.ground.types import Captioner, RecipeError
from vlp.run.launch import check_same, join_evaluation
from vlp.run.subject import find_subject
from vlp.towers.writing import Writing

PICTURES_PER_PART = 256
MANIFEST, TOGETHER = "captions.json", "captions.jsonl"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class Pictures(Protocol):
    """Pictures by number."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """Return what to call a picture."""

    def bytes_of(self, number: int) -> bytes:
        """Read a picture.

        Raises:
            BadSampleError: It cannot be read.
        """


@dataclass(frozen=True)
class PictureFiles:
    """Files, in the order given; those of a folder by name."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, number: int) -> str:
        """Return the path; bytes that are no UTF-8 are written as `\\xff`."""
        return os.fsencode(self.paths[number]).decode("utf-8", "backslashreplace")

    def bytes_of(self, number: int) -> bytes:
        """Read the file."""
        try:
            return self.paths[number].read_bytes()
        except OSError as error:
            raise BadSampleError("missing_image", str(error)) from error


@dataclass(frozen=True)
class PicturesOfCard:
    """The images of a data set."""

    samples: SampleSet

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, number: int) -> str:
        """Return the key of the sample, also of one that cannot be read."""
        return self.samples.fault(number, "shard_error", "").key

    def bytes_of(self, number: int) -> bytes:
        """Read the image from its shard."""
        return self.samples[number].read_image()


def write_captions(
    model: str,
    images: Sequence[str],
    folder: Path | None,
    writing: Mapping[str, Any],
    *,
    batch_size: int = 64,
) -> Iterator[dict[str, str]]:
    """Yield the caption of each picture, or its fault, in their order.

    With a folder they are kept in parts, and what is there is not written again; started by torchrun or `accelerate
    launch`, the processes share the parts. In the end, `captions.jsonl` has them all.

    Args:
        model: As `vlp eval` takes it; it must have a decoder.
        images: Image files, folders that are searched for them, or one data card by name or path.
        folder: Where they are kept; None keeps nothing, and takes one process.
        writing: Settings of `Writing`.
        batch_size: Pictures per forward.

    Raises:
        RecipeError: No such model, card or file, a model that writes none, or a folder with other captions.
    """
    device = join_evaluation()
    with dist.together():
        how = Writing(**writing)
        pictures, about = find_pictures(images)
        subject = find_subject(model)
        told = float(checksum(subject.tensors()))
        encoder = subject.encoder(device, batch_size=batch_size)
        if not offers(encoder, Captioner):
            raise RecipeError(f"'{model}' gives embeddings alone and writes no captions: name a CoCa")
    check_same("the model", f"{told} of {subject.name}")
    if folder is None:
        for numbers in _parts(len(pictures)):
            yield from _part(encoder, pictures, numbers, how)
        return
    manifest = {
        "model": subject.name, "weights": subject.weights, "checksum": told, "writing": vars(how),
        "configuration": subject.configuration, "pictures_per_part": PICTURES_PER_PART, **about,
    }  # fmt: skip
    dist.on_main(partial(claim_folder, folder, manifest, MANIFEST))
    with dist.together():
        _write_parts(encoder, pictures, folder, how)
    yield from dist.on_main(partial(_join, folder, len(pictures)))


def find_pictures(images: Sequence[str]) -> tuple[Pictures, dict[str, Any]]:
    """Return the pictures that paths or a card stand for, and what tells them from others.

    Raises:
        RecipeError: There are none.
    """
    paths = [Path(image).expanduser() for image in images]
    if len(images) == 1 and (paths[0].suffix in (".yaml", ".yml") or not paths[0].exists()):
        card = load_card(images[0])
        return PicturesOfCard(SampleSet({card.name: card})), {"data": card.name, "fingerprint": card.fingerprint}
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise RecipeError(f"'{missing[0]}': no such file or folder; a data card stands alone")
    found = tuple(dict.fromkeys(each for path in paths for each in _files_in(path)))
    if not found:
        raise RecipeError(f"{', '.join(images)}: no image there ({', '.join(SUFFIXES)})")
    told = hashlib.sha256("\n".join(map(_mark, found)).encode("utf-8", "surrogateescape")).hexdigest()
    return PictureFiles(found), {"pictures": len(found), "files": told}


def _mark(path: Path) -> str:
    """Return what tells a file from another one of its name: its size and time."""
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def _files_in(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = (each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file())
    return sorted(each for each in found if not is_hidden(each.relative_to(path)))


def _parts(count: int) -> list[range]:
    starts = range(0, count, PICTURES_PER_PART)
    return [range(start, min(start + PICTURES_PER_PART, count)) for start in starts]


def _write_parts(encoder: Captioner, pictures: Pictures, folder: Path, how: Writing) -> None:
    mine = list(enumerate(_parts(len(pictures))))[dist.rank() :: dist.world_size()]
    with tqdm(total=len(pictures), desc="captions", unit=" images", disable=not dist.is_main()) as bar:
        for number, numbers in mine:
            path = _part_file(folder, number)
            if not path.exists():
                lines = [json.dumps(line, ensure_ascii=False) for line in _part(encoder, pictures, numbers, how)]
                files.write_text(path, "".join(f"{line}\n" for line in lines))
            bar.update(min(len(numbers) * dist.world_size(), len(pictures) - bar.n))


def _part(encoder: Captioner, pictures: Pictures, numbers: range, how: Writing) -> list[dict[str, str]]:
    """Write captions for pictures in a row; draws follow from their numbers, not from who writes them."""
    found: list[dict[str, str]] = []

    def read(number: int) -> tuple[str, Image | BadSampleError]:
        try:
            return pictures.name(number), decode_image(pictures.bytes_of(number))
        except BadSampleError as error:
            return pictures.name(number), error

    def sound() -> Iterator[Image]:
        for name, image in decode_ahead(read, numbers):
            found.append({"image": name})
            if isinstance(image, BadSampleError):
                found[-1]["fault"] = f"{image.reason}: {image.detail}"
            else:
                yield image

    captions = iter(encoder.caption_images(sound(), how.with_seed(mix(how.seed + numbers.start) >> 1)))
    return [line if "fault" in line else line | {"caption": next(captions)} for line in found]


def _part_file(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.jsonl"


def _join(folder: Path, count: int) -> list[dict[str, str]]:
    texts = [_part_file(folder, number).read_text(encoding="utf-8") for number, _ in enumerate(_parts(count))]
    files.write_text(folder / TOGETHER, "".join(texts))
    return [json.loads(line) for text in texts for line in text.split("\n")[:-1]]  # names may have other ends of lines
