"""Evaluation sets in CLIP_benchmark's folder layout, complete or refused."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict

from vlp.data.faults import BadSampleError
from vlp.data.pixels.decode import to_rgb
from vlp.data.shards.index import Entry
from vlp.data.shards.shard import Shard, open_shards
from vlp.evaluators.layout import CLASS_NAMES, IMAGES, LABEL_SUFFIX, TEMPLATES, SetFolder, find_root, read_lines
from vlp.ground import dist
from vlp.ground.files import sha256_of
from vlp.ground.paths import find_file
from vlp.ground.types import RecipeError

MAX_PIXELS = 100_000_000
READING = threading.Lock()  # the open files of shards are made for one thread


Pixels = Literal["training", "referee"]


class DataSource(BaseModel):
    """Where an evaluation set lies and what must be in it.

    Args:
        root: Folder of the set, or an address such as `hf://datasets/ORG/NAME`, `https://` or `s3://`; environment
            variables are expanded, and `data/...` is also looked up in the package.
        split: Folder of the shards.
        pixels: How images become RGB: as in training (16 bits are scaled to 8, transparent parts become white), or as
            with the referees, which leave it to Pillow (16 bits are clipped, transparency is dropped).
        samples: Number of images.
        captions: Number of captions, in a retrieval set.
        classes: Number of classes.
        class_names: File of class names to use instead of the set's own, relative to `eval/`.
        classes_without_samples: How many classes have no sample, where that is known and meant.
        sha256: Checksums by file name relative to the root.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: str
    split: str = "test"
    pixels: Pixels = "training"
    samples: int | None = None
    captions: int | None = None
    classes: int | None = None
    class_names: str | None = None
    classes_without_samples: int = 0
    sha256: dict[str, str] = {}


@dataclass(frozen=True)
class EvaluationSample:
    """Where one image lies, and the bytes that stand beside it (its class, captions or label vector)."""

    key: str
    shard: Shard
    image: Entry
    label: bytes

    def image_bytes(self) -> bytes:
        """Read the encoded image; threads may do so side by side.

        Raises:
            BadSampleError: It cannot be read any more.
        """
        with READING:
            return self.shard.read(self.image)

    @property
    def where(self) -> str:
        """Path or address of its tar."""
        return self.shard.location


@dataclass(frozen=True)
class EvaluationSet:
    """A complete set: every image with its label, in the order of the shards.

    Args:
        labels: Class of each image (classification only).
        captions: Captions of each image (retrieval only).
        label_matrix: Classes of each image as zeros and ones (multilabel only).
        pixels: How images become RGB.
        sha256: One checksum over the checksums of all files.
    """

    folder: SetFolder
    kind: str
    samples: tuple[EvaluationSample, ...]
    labels: tuple[int, ...]
    captions: tuple[tuple[str, ...], ...]
    label_matrix: np.ndarray | None
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    pixels: Pixels
    sha256: str

    def __len__(self) -> int:
        return len(self.samples)

    def image(self, index: int) -> Image.Image:
        """Decode one image to RGB.

        Raises:
            RecipeError: The image is broken or larger than 100 million pixels.
        """
        return self.decode(index)[0]

    def decode(self, index: int) -> tuple[Image.Image, bool]:
        """Decode one image to RGB, and say whether training and referees would see different pixels.

        Raises:
            RecipeError: The image is broken or larger than 100 million pixels.
        """
        sample = self.samples[index]
        try:
            with Image.open(io.BytesIO(sample.image_bytes())) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise RecipeError(f"{sample.where}: '{sample.key}' has {image.width}x{image.height} pixels")
                ours = to_rgb(image)
                if not (image.mode.startswith("I") or image.has_transparency_data):
                    return ours, False
                theirs = image.convert("RGB")
                return (ours if self.pixels == "training" else theirs), ours.tobytes() != theirs.tobytes()
        except (OSError, SyntaxError, Image.DecompressionBombError, BadSampleError) as error:
            raise RecipeError(f"{sample.where}: image of sample '{sample.key}' does not decode: {error}") from error


def open_set(source: DataSource) -> EvaluationSet:
    """Index a set and hold it against what its task declares; fails on all processes if it fails on one.

    Raises:
        RecipeError: Something is missing, too much, damaged or different; names the file.
    """
    with dist.together():
        folder = find_root(source.root)
        kind = folder.kind()
        shards = _open_shards(folder, source.split)
        mine = shards[dist.rank() :: dist.world_size()]
        digests = {shard.location.removeprefix(f"{folder.root}/"): sha256_of(shard.open()[0]) for shard in mine}
    digests = {name: digest for part in dist.gather_objects(digests) for name, digest in part.items()}
    with dist.together():
        lists = {name: content for name in (CLASS_NAMES, TEMPLATES) if (content := folder.content(name)) is not None}
        digests |= {name: hashlib.sha256(content).hexdigest() for name, content in lists.items()}
        _check_digests(folder, source, digests)
        names_file = _names_file(folder, source)
        samples = [sample for shard in shards for sample in _samples(shard, LABEL_SUFFIX[kind])]
        found = EvaluationSet(
            folder=folder,
            kind=kind,
            samples=tuple(samples),
            labels=tuple(_label(sample) for sample in samples) if kind == "classification" else (),
            captions=tuple(_captions(sample) for sample in samples) if kind == "retrieval" else (),
            label_matrix=_label_matrix(samples) if kind == "multilabel" else None,
            class_names=_class_names(folder, source),
            templates=folder.lines(TEMPLATES) or (),
            pixels=source.pixels,
            sha256=_digest_of(digests),
        )
        _check_counts(found, source)
        if names_file:
            _check_classes(found, source, names_file)
        _check_keys(samples)
    return found


def look(source: DataSource) -> SetFolder:
    """Return the folder of a set whose shards are all there; what is in them is not read.

    Raises:
        RecipeError: Something is missing or too much; names the file.
    """
    folder = find_root(source.root)
    folder.kind()
    folder.shards(source.split)
    _names_file(folder, source)
    return folder


def _open_shards(folder: SetFolder, split: str) -> list[Shard]:
    """Return the shards in the order of their numbers."""
    locations = folder.shards(split)
    opened = {shard.location: shard for shard in open_shards(folder.card(locations), locations=locations)}
    shards = [opened[location] for location in locations]
    for shard in shards:
        if shard.fault:
            raise RecipeError(f"{shard.location}: not a whole tar ({shard.fault}); fetch it again")
    return shards


def _samples(shard: Shard, label_suffix: str) -> Iterable[EvaluationSample]:
    """Yield the samples of one tar in its order; members of other kinds are never read.

    Args:
        label_suffix: `cls`, `txt` or `npy`.
    """
    for place in range(len(shard)):
        key = shard.key(place)
        try:
            members = shard.members(place)
            images = [name for name in IMAGES if name in members]
            if not images and label_suffix not in members:
                continue
            if len(images) != 1 or label_suffix not in members:
                what = f"no .{label_suffix}" if images else "no image"
                raise RecipeError(f"{shard.location}: sample '{key}' has {what if len(images) < 2 else 'two images'}")
            label = shard.read(members[label_suffix])
        except BadSampleError as error:
            raise RecipeError(f"{shard.location}: sample '{key}': {error}") from error
        yield EvaluationSample(key, shard, members[images[0]], label)


def _names_file(folder: SetFolder, source: DataSource) -> str | None:
    """Return where the names of the classes stand."""
    if source.class_names:
        return str(find_file("eval", source.class_names))
    return folder.locate(CLASS_NAMES) if folder.content(CLASS_NAMES) is not None else None


def _class_names(folder: SetFolder, source: DataSource) -> tuple[str, ...]:
    if source.class_names:
        return read_lines(find_file("eval", source.class_names))
    return folder.lines(CLASS_NAMES) or ()


def _check_digests(folder: SetFolder, source: DataSource, digests: dict[str, str]) -> None:
    for name, declared in source.sha256.items():
        if name not in digests:
            raise RecipeError(f"data.sha256 names '{name}', which is no file of {folder.root}")
        if digests[name] != declared:
            raise RecipeError(f"{folder.locate(name)}: sha256 is {digests[name]}, the task declares {declared}")


def _digest_of(digests: dict[str, str]) -> str:
    lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


def _label(sample: EvaluationSample) -> int:
    try:
        return int(sample.label)
    except ValueError as error:
        raise RecipeError(f"{sample.where}: class of sample '{sample.key}' is {sample.label[:20]!r}") from error


def _captions(sample: EvaluationSample) -> tuple[str, ...]:
    try:
        captions = tuple(sample.label.decode("utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise RecipeError(f"{sample.where}: captions of sample '{sample.key}' are not UTF-8") from error
    if not captions or not all(caption.strip() for caption in captions):
        raise RecipeError(f"{sample.where}: sample '{sample.key}' has a blank caption")
    return captions


def _label_matrix(samples: list[EvaluationSample]) -> np.ndarray:
    rows = []
    for sample in samples:
        try:
            rows.append(np.load(io.BytesIO(sample.label), allow_pickle=False).astype(np.int8).reshape(-1))
        except (ValueError, EOFError) as error:
            raise RecipeError(f"{sample.where}: labels of sample '{sample.key}' do not load: {error}") from error
        if len(rows[-1]) != len(rows[0]) or not np.isin(rows[-1], (0, 1)).all():
            raise RecipeError(f"{sample.where}: labels of sample '{sample.key}' are not {len(rows[0])} zeros and ones")
    return np.stack(rows)


def _check_counts(found: EvaluationSet, source: DataSource) -> None:
    folder = found.folder.locate(source.split)
    num_captions = sum(len(captions) for captions in found.captions)
    if not len(found):
        raise RecipeError(f"{folder}: the shards hold no sample")
    for noun, declared, actual in (
        ("samples", source.samples, len(found)),
        ("captions", source.captions, num_captions),
        ("classes", source.classes, len(found.class_names)),
    ):
        if declared is not None and declared != actual:
            raise RecipeError(f"{folder}: {actual} {noun}, but the task declares {declared}")


def _check_classes(found: EvaluationSet, source: DataSource, file: str) -> None:
    num_classes = len(found.class_names)
    for sample, label in zip(found.samples, found.labels, strict=False):
        if not 0 <= label < num_classes:
            raise RecipeError(
                f"{sample.where}: sample '{sample.key}' has class {label}, but {file} names {num_classes} classes"
            )
    if found.label_matrix is not None and found.label_matrix.shape[1] != num_classes:
        raise RecipeError(f"{file} names {num_classes} classes, but labels have {found.label_matrix.shape[1]}")
    present = set(found.labels) if found.label_matrix is None else set(np.flatnonzero(found.label_matrix.any(0)))
    absent = [name for number, name in enumerate(found.class_names) if number not in present]
    if len(absent) != source.classes_without_samples:
        raise RecipeError(
            f"{found.folder.locate(source.split)}: {len(absent)} of the classes in {file} have no sample "
            f"({', '.join(absent[:5])}); the task allows data.classes_without_samples={source.classes_without_samples}"
        )


def _check_keys(samples: Iterable[EvaluationSample]) -> None:
    seen: dict[str, str] = {}
    for sample in samples:
        if sample.key in seen:
            raise RecipeError(f"sample '{sample.key}' stands in both {seen[sample.key]} and {sample.where}")
        seen[sample.key] = sample.where
