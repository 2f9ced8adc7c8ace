"""Evaluation sets in CLIP_benchmark's folder layout, complete or refused."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlp.data.faults import BadSampleError
from vlp.data.pixels.decode import to_rgb
from vlp.evaluators.corruptions import Corruption, corrupt, cut_square
from vlp.evaluators.halves import Half, places_in
from vlp.evaluators.labelled import EvaluationSample, captions_of, groups_of, label_matrix_of, label_of
from vlp.evaluators.layout import (
    CLASS_NAMES,
    GROUPS,
    KINDS,
    TEMPLATES,
    Place,
    find_root,
    open_split,
    read_lines,
    split_lines,
)
from vlp.evaluators.overlay import Overlay, write_word
from vlp.evaluators.typos import Typos, misspell
from vlp.ground import dist
from vlp.ground.files import sha256_of
from vlp.ground.paths import find_file
from vlp.ground.strict import Strict
from vlp.ground.types import RecipeError

MAX_PIXELS = 100_000_000
Pixels = Literal["training", "referee"]


class DataSource(Strict):
    """Where an evaluation set lies and what must be in it.

    Args:
        root: Folder of the set, or an address such as `hf://datasets/ORG/NAME`, `https://` or `s3://`; environment
            variables are expanded, and `data/...` is also looked up in the package. Or a card, `NAME.yaml`, that says
            where captions of regions are.
        split: Folder of the shards.
        pixels: How images become RGB: as in training (16 bits are scaled to 8, transparent parts become white), or as
            with the referees, which leave it to Pillow (16 bits are clipped, transparency is dropped).
        samples: Number of images.
        captions: Number of captions, in a retrieval set, or of regions.
        classes: Number of classes.
        class_names: File of class names to use instead of the set's own, relative to `eval/`.
        groups: Names of the columns of `KEY.npy` in a classification set, such as `region`: integers that say to which
            groups a sample belongs.
        classes_without_samples: How many classes have no sample, where that is known and meant; null does not check.
        sha256: Checksums by file name relative to the root.
        corruption: How images are corrupted: `kind`, `severity`, and perhaps `seed`, `size`, `jpeg`.
        typos: How captions of a retrieval set are misspelt: `rate`, and perhaps `kinds`, `seed`.
        half: Which half of the counted samples is read: `part` (`choosing` or `reporting`), and perhaps `of_instances`.
    """

    root: str
    split: str = "test"
    pixels: Pixels = "training"
    samples: int | None = None
    captions: int | None = None
    classes: int | None = None
    class_names: str | None = None
    groups: tuple[str, ...] = ()
    classes_without_samples: int | None = 0
    sha256: dict[str, str] = {}
    corruption: Corruption | None = None
    typos: Typos | None = None
    half: Half | None = None

    def as_is(self) -> DataSource:
        """Return the source of the same set without corruption and typos."""
        return self.model_copy(update={"corruption": None, "typos": None})


@dataclass(frozen=True)
class EvaluationSet:
    """A complete set: every image with its label, in the order of the shards.

    Args:
        source: What was asked for; further splits of the set are opened from it.
        kind: One of `layout.KINDS`, or `regions`.
        labels: Class of each image (classification), or whether its cue means it (association).
        captions: Captions of each image (retrieval, regions), the right one and wrong ones (choice), or its cue
            (association).
        label_matrix: Classes of each image as zeros and ones (multilabel only).
        groups: Integers of each image, by the name of the group (classification only).
        sha256: One checksum over the checksums of all files, and over which half of the samples is read.
        overlay: What is written on images when they are decoded, before they are corrupted.
    """

    source: DataSource
    folder: Place
    kind: str
    samples: tuple[EvaluationSample, ...]
    labels: tuple[int, ...]
    captions: tuple[tuple[str, ...], ...]
    label_matrix: np.ndarray | None
    groups: Mapping[str, NDArray[np.int64]]
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    sha256: str
    overlay: Overlay | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def pixels(self) -> Pixels:
        """How images become RGB."""
        return self.source.pixels

    @property
    def corruption(self) -> Corruption | None:
        """What happens to images when they are decoded."""
        return self.source.corruption

    @property
    def classes_without_samples(self) -> list[str]:
        """Names of classes that no image has."""
        matrix = self.label_matrix
        present = set(self.labels) if matrix is None else set(np.flatnonzero(matrix.any(axis=0)))
        return [name for number, name in enumerate(self.class_names) if number not in present]

    @property
    def fingerprint(self) -> str:
        """Checksum over the files and over what corruption and typos make of them."""
        told = {name: value.model_dump(mode="json") for name, value in self.changes().items()}
        said = f"{self.sha256}\n{json.dumps(told, sort_keys=True)}"
        return hashlib.sha256(said.encode()).hexdigest() if told else self.sha256

    def changes(self) -> dict[str, Corruption | Typos | Half]:
        """Return what is done to the set, by the key of its task that asks for it."""
        asked = {"corruption": self.corruption, "typos": self.source.typos, "half": self.source.half}
        return {name: value for name, value in asked.items() if value is not None}

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
        image, is_different = self._to_rgb(sample)
        if self.overlay or self.corruption:
            image = cut_square(image, self.corruption.size) if self.corruption else cut_square(image)
        if self.overlay:
            image = write_word(image, self.overlay.words[index], self.overlay.seed, sample.key)
        if self.corruption:
            image = corrupt(image, self.corruption, sample.key)
        return image, is_different

    def _to_rgb(self, sample: EvaluationSample) -> tuple[Image.Image, bool]:
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
        shards = open_split(folder, source.split)
        mine = shards[dist.rank() :: dist.world_size()]
        digests = {shard.location.removeprefix(f"{folder.root}/"): sha256_of(shard.open()[0]) for shard in mine}
    digests = {name: digest for part in dist.gather_objects(digests) for name, digest in part.items()}
    with dist.together():
        lists = folder.lists()
        digests |= {name: hashlib.sha256(content).hexdigest() for name, content in lists.items()}
        _check_digests(folder, source, digests)
        names_file, class_names = _class_names(folder, source, lists)
        members = (*KINDS.get(kind, ()), *([GROUPS] if source.groups else []))
        samples = folder.read(shards, members)
        found = EvaluationSet(
            source=source,
            folder=folder,
            kind=kind,
            samples=tuple(samples),
            labels=tuple(label_of(sample) for sample in samples) if "cls" in members else (),
            captions=tuple(captions_of(sample) for sample in samples) if kind == "regions" or "txt" in members else (),
            label_matrix=label_matrix_of(samples) if kind == "multilabel" else None,
            groups=groups_of(samples, source.groups),
            class_names=class_names,
            templates=split_lines(lists[TEMPLATES], folder.locate(TEMPLATES)) if TEMPLATES in lists else (),
            sha256=_digest_of(digests),
        )
        _check_counts(found, source)
        _check_kind(found)
        if names_file and kind in ("classification", "multilabel"):
            _check_classes(found, source, names_file)
        _check_keys(samples)
        if source.half is not None:
            places = places_in(source.half, [sample.key for sample in samples], folder.root)
            found = subset(found, places, source.half.model_dump_json())
        return alter(found, source)


def alter(found: EvaluationSet, source: DataSource) -> EvaluationSet:
    """Return a set with the corruption and the typos that a source asks for.

    Args:
        found: The set as it is.

    Raises:
        RecipeError: It has no captions to search with.
    """
    if source.typos is None:
        return replace(found, source=source)
    if found.kind != "retrieval":
        raise RecipeError(f"data.typos: {found.folder.root} is a {found.kind} set; only retrieval sets are misspelt")
    pairs = zip(found.samples, found.captions, strict=True)
    captions = tuple(misspell(each, source.typos, sample.key) for sample, each in pairs)
    return replace(found, source=source, captions=captions)


def subset(found: EvaluationSet, places: Sequence[int], told: str) -> EvaluationSet:
    """Return the samples at some places as a set of its own, whose checksum depends on `told`: which they are."""
    return replace(
        found,
        samples=tuple(found.samples[place] for place in places),
        labels=tuple(found.labels[place] for place in places) if found.labels else (),
        captions=tuple(found.captions[place] for place in places) if found.captions else (),
        label_matrix=None if found.label_matrix is None else found.label_matrix[list(places)],
        groups={name: column[list(places)] for name, column in found.groups.items()},
        sha256=hashlib.sha256(f"{found.sha256}\n{told}".encode()).hexdigest(),
    )


def look(source: DataSource) -> Place:
    """Return the folder of a set whose shards are all there; what is in them is not read.

    Raises:
        RecipeError: Something is missing or too much; names the file.
    """
    folder = find_root(source.root)
    folder.kind()
    folder.shards(source.split)
    if source.class_names:
        find_file("eval", source.class_names)
    return folder


def _class_names(folder: Place, source: DataSource, lists: Mapping[str, bytes]) -> tuple[str, tuple[str, ...]]:
    """Return where the names of the classes stand, empty for nowhere, and the names.

    Args:
        lists: Content of the lists that the set has.
    """
    if source.class_names:
        path = find_file("eval", source.class_names)
        return str(path), read_lines(path)
    if CLASS_NAMES not in lists:
        return "", ()
    where = folder.locate(CLASS_NAMES)
    return where, split_lines(lists[CLASS_NAMES], where)


def _check_digests(folder: Place, source: DataSource, digests: dict[str, str]) -> None:
    for name, declared in source.sha256.items():
        if name not in digests:
            raise RecipeError(f"data.sha256 names '{name}', which is no file of {folder.root}")
        if digests[name] != declared:
            raise RecipeError(f"{folder.locate(name)}: sha256 is {digests[name]}, the task declares {declared}")


def _digest_of(digests: dict[str, str]) -> str:
    return hashlib.sha256("".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()).hexdigest()


def _check_kind(found: EvaluationSet) -> None:
    """Refuse samples that say nothing in a set of this kind."""
    least = {"choice": 2, "association": 1}.get(found.kind, 0)
    for sample, captions in zip(found.samples, found.captions, strict=False):
        if len(captions) < least:
            raise RecipeError(f"{sample.where}: sample '{sample.key}' has {len(captions)} captions to choose from")
        if found.kind == "association" and len(captions) > 1:
            raise RecipeError(f"{sample.where}: sample '{sample.key}' has {len(captions)} cues; each line is one")
    for sample, label in zip(found.samples, found.labels, strict=False):
        if found.kind == "association" and label not in (0, 1):
            raise RecipeError(f"{sample.where}: sample '{sample.key}' says {label}, neither 0 nor 1")


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
    absent = found.classes_without_samples
    if source.classes_without_samples not in (None, len(absent)):
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
