"""Evaluation sets in CLIP_benchmark's folder layout, complete or refused.

ROOT/classnames.txt                           one class per line
ROOT/zeroshot_classification_templates.txt    one prompt per line, {c} stands for the class
ROOT/dataset_type.txt                         retrieval | multilabel; absent for classification
ROOT/SPLIT/nshards.txt                        N, then SPLIT/0.tar ... SPLIT/(N-1).tar
    KEY.webp|png|jpg|jpeg  with  KEY.cls | KEY.txt | KEY.npy
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict

from vlp.data.pixels.decode import to_rgb
from vlp.evaluators.shards import EvaluationSample, read_shard
from vlp.ground import dist
from vlp.ground.files import sha256_of
from vlp.ground.paths import find_file, folders
from vlp.ground.types import RecipeError

LABEL_SUFFIX = {"classification": "cls", "retrieval": "txt", "multilabel": "npy"}
CLASS_NAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
MAX_PIXELS = 100_000_000


Pixels = Literal["training", "referee"]


class DataSource(BaseModel):
    """Where an evaluation set lies and what must be in it.

    Args:
        root: Folder of the set; environment variables are expanded, and `data/...` is also looked up in the package.
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
class EvaluationSet:
    """A complete set: every image with its label, in the order of the shards.

    Args:
        labels: Class of each image (classification only).
        captions: Captions of each image (retrieval only).
        label_matrix: Classes of each image as zeros and ones (multilabel only).
        pixels: How images become RGB.
        sha256: One checksum over the checksums of all files.
    """

    root: Path
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
                    raise RecipeError(f"{sample.shard}: '{sample.key}' has {image.width}x{image.height} pixels")
                ours = to_rgb(image)
                if not (image.mode.startswith("I") or image.has_transparency_data):
                    return ours, False
                theirs = image.convert("RGB")
                return (ours if self.pixels == "training" else theirs), ours.tobytes() != theirs.tobytes()
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise RecipeError(f"{sample.shard}: image of sample '{sample.key}' does not decode: {error}") from error


def open_set(source: DataSource) -> EvaluationSet:
    """Index a set and hold it against what its task declares; fails on all processes if it fails on one.

    Raises:
        RecipeError: Something is missing, too much, damaged or different; names the file.
    """
    with dist.together():
        root = find_root(source.root)
        kind = _kind(root)
        shards = _shards(root / source.split)
        lists = [root / name for name in (CLASS_NAMES, TEMPLATES) if (root / name).is_file()]
        mine = (shards + lists)[dist.rank() :: dist.world_size()]
        digests = {path.relative_to(root).as_posix(): sha256_of(path) for path in mine}
    digests = {name: digest for part in dist.gather_objects(digests) for name, digest in part.items()}
    with dist.together():
        _check_digests(root, source, digests)
        names_file = _names_file(root, source)
        samples = [sample for shard in shards for sample in read_shard(shard, LABEL_SUFFIX[kind])]
        found = EvaluationSet(
            root=root,
            kind=kind,
            samples=tuple(samples),
            labels=tuple(_label(sample) for sample in samples) if kind == "classification" else (),
            captions=tuple(_captions(sample) for sample in samples) if kind == "retrieval" else (),
            label_matrix=_label_matrix(samples) if kind == "multilabel" else None,
            class_names=read_lines(names_file) if names_file else (),
            templates=read_lines(root / TEMPLATES) if (root / TEMPLATES).is_file() else (),
            pixels=source.pixels,
            sha256=_digest_of(digests),
        )
        _check_counts(found, source)
        if names_file:
            _check_classes(found, source, names_file)
        _check_keys(samples)
    return found


def look(source: DataSource) -> Path:
    """Return the folder of a set whose shards are all there; what is in them is not read.

    Raises:
        RecipeError: Something is missing or too much; names the file.
    """
    root = find_root(source.root)
    _kind(root)
    _shards(root / source.split)
    _names_file(root, source)
    return root


def find_root(root: str) -> Path:
    """Return the folder of a set.

    Raises:
        RecipeError: It is not there, or an environment variable in it is not set.
    """
    expanded = Path(os.path.expandvars(root)).expanduser()
    if "$" in str(expanded):
        variable = str(expanded).partition("$")[2].strip("{").partition("}")[0].partition("/")[0]
        raise RecipeError(f"data.root is '{root}': set the environment variable {variable} to where your sets lie")
    shipped = [folder.parent / expanded for folder in folders(expanded.parts[0])] if expanded.parts else []
    for candidate in [expanded, *shipped]:
        if candidate.is_dir():
            return candidate.resolve()
    raise RecipeError(f"data.root '{root}': no such folder")


def read_lines(path: Path) -> tuple[str, ...]:
    """Read one entry per line.

    Raises:
        RecipeError: The file is missing or empty, or a line is blank.
    """
    if not path.is_file():
        raise RecipeError(f"{path}: no such file")
    lines = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    blank = [number for number, line in enumerate(lines, 1) if not line]
    if blank or not lines:
        raise RecipeError(f"{path}: line {blank[0] if blank else 1} is blank; every line must be an entry")
    return lines


def _names_file(root: Path, source: DataSource) -> Path | None:
    if source.class_names:
        return find_file("eval", source.class_names)
    return root / CLASS_NAMES if (root / CLASS_NAMES).is_file() else None


def _kind(root: Path) -> str:
    file = root / "dataset_type.txt"
    kind = file.read_text(encoding="utf-8").strip().lower() if file.is_file() else "classification"
    if kind not in LABEL_SUFFIX:
        raise RecipeError(f"{file}: '{kind}' is none of {', '.join(LABEL_SUFFIX)}")
    return kind


def _shards(folder: Path) -> list[Path]:
    count_file = folder / "nshards.txt"
    if not count_file.is_file():
        raise RecipeError(f"{count_file}: no such file; it must hold the number of shards")
    text = count_file.read_text(encoding="utf-8").strip()
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise RecipeError(f"{count_file}: '{text}' is not a number of shards")
    declared = {f"{number}.tar" for number in range(int(text))}
    present = {path.name for path in folder.glob("*.tar")}
    if missing := sorted(declared - present):
        raise RecipeError(f"{count_file} counts {text} shards, but {_some(missing)} missing in {folder}")
    if extra := sorted(present - declared):
        raise RecipeError(f"{count_file} counts {text} shards, but {folder} also holds {', '.join(extra[:5])}")
    return [folder / f"{number}.tar" for number in range(int(text))]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more} {'are' if len(names) > 1 else 'is'}"


def _check_digests(root: Path, source: DataSource, digests: dict[str, str]) -> None:
    for name, declared in source.sha256.items():
        if name not in digests:
            raise RecipeError(f"data.sha256 names '{name}', which is no file of {root}")
        if digests[name] != declared:
            raise RecipeError(f"{root / name}: sha256 is {digests[name]}, the task declares {declared}")


def _digest_of(digests: dict[str, str]) -> str:
    lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


def _label(sample: EvaluationSample) -> int:
    try:
        return int(sample.label)
    except ValueError as error:
        raise RecipeError(f"{sample.shard}: class of sample '{sample.key}' is {sample.label[:20]!r}") from error


def _captions(sample: EvaluationSample) -> tuple[str, ...]:
    try:
        captions = tuple(sample.label.decode("utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise RecipeError(f"{sample.shard}: captions of sample '{sample.key}' are not UTF-8") from error
    if not captions or not all(caption.strip() for caption in captions):
        raise RecipeError(f"{sample.shard}: sample '{sample.key}' has a blank caption")
    return captions


def _label_matrix(samples: list[EvaluationSample]) -> np.ndarray:
    rows = []
    for sample in samples:
        try:
            rows.append(np.load(io.BytesIO(sample.label), allow_pickle=False).astype(np.int8).reshape(-1))
        except (ValueError, EOFError) as error:
            raise RecipeError(f"{sample.shard}: labels of sample '{sample.key}' do not load: {error}") from error
        if len(rows[-1]) != len(rows[0]) or not np.isin(rows[-1], (0, 1)).all():
            raise RecipeError(f"{sample.shard}: labels of sample '{sample.key}' are not {len(rows[0])} zeros and ones")
    return np.stack(rows)


def _check_counts(found: EvaluationSet, source: DataSource) -> None:
    folder = found.root / source.split
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


def _check_classes(found: EvaluationSet, source: DataSource, file: Path) -> None:
    num_classes = len(found.class_names)
    for sample, label in zip(found.samples, found.labels, strict=False):
        if not 0 <= label < num_classes:
            raise RecipeError(
                f"{sample.shard}: sample '{sample.key}' has class {label}, but {file} names {num_classes} classes"
            )
    if found.label_matrix is not None and found.label_matrix.shape[1] != num_classes:
        raise RecipeError(f"{file} names {num_classes} classes, but labels have {found.label_matrix.shape[1]}")
    present = set(found.labels) if found.label_matrix is None else set(np.flatnonzero(found.label_matrix.any(0)))
    absent = [name for number, name in enumerate(found.class_names) if number not in present]
    if len(absent) != source.classes_without_samples:
        raise RecipeError(
            f"{found.root / source.split}: {len(absent)} of the classes in {file} have no sample "
            f"({', '.join(absent[:5])}); the task allows data.classes_without_samples={source.classes_without_samples}"
        )


def _check_keys(samples: Iterable[EvaluationSample]) -> None:
    seen: dict[str, Path] = {}
    for sample in samples:
        if sample.key in seen:
            raise RecipeError(f"sample '{sample.key}' stands in both {seen[sample.key]} and {sample.shard}")
        seen[sample.key] = sample.shard
