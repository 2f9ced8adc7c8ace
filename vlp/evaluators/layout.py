"""CLIP_benchmark's folder layout, on a disk or behind an address.

ROOT/classnames.txt                           one class per line
ROOT/zeroshot_classification_templates.txt    one prompt per line, {c} stands for the class
ROOT/dataset_type.txt                         what the set is, see KINDS; absent for classification
ROOT/SPLIT/nshards.txt                        N, then SPLIT/0.tar ... SPLIT/(N-1).tar
    KEY.webp|png|jpg|jpeg  with  KEY.cls and perhaps KEY.npy | KEY.txt | KEY.npy | KEY.txt | KEY.txt and KEY.cls
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlp.data.shards.cards import Card
from vlp.data.shards.download import Expected, RemoteStats, download
from vlp.data.shards.remote import Remote, TransferError, is_remote
from vlp.data.shards.shard import Shard, open_shards
from vlp.evaluators.labelled import IMAGES, EvaluationSample, read_samples
from vlp.evaluators.region_card import RegionCard
from vlp.ground.paths import folders
from vlp.ground.types import RecipeError

KINDS: dict[str, tuple[str, ...]] = {
    "classification": ("cls",),
    "retrieval": ("txt",),
    "multilabel": ("npy",),
    "choice": ("txt",),
    "association": ("txt", "cls"),
}
"""What stands beside each image: its class; its captions, one per line; a vector of zeros and ones, one per class; the
right caption and behind it wrong ones; a cue, and whether the image is meant by it."""
GROUPS = "npy"  # integers of a classification set that say which groups a sample belongs to
KIND_FILE = "dataset_type.txt"
CLASS_NAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
CARD = ".yaml"
TRIES = 5
HUB_PAGE = re.compile(r"^(https://huggingface\.co/datasets/[^/]+/[^/]+)/tree/")


@dataclass(frozen=True)
class SetFolder:
    """Where a set lies.

    Args:
        root: Absolute path of a folder, or an address without a slash at its end.
    """

    root: str

    @property
    def is_remote(self) -> bool:
        """Whether its files must be fetched."""
        return is_remote(self.root)

    @property
    def name(self) -> str:
        """Last part of the root."""
        return self.root.rsplit("/", 1)[-1]

    def locate(self, name: str) -> str:
        """Return path or address of a file of the set."""
        return f"{self.root}/{name}"

    def content(self, name: str) -> bytes | None:
        """Return the bytes of a small file; None where there is none.

        Raises:
            RecipeError: It cannot be read or fetched.
        """
        location = self.locate(name)
        try:
            if self.is_remote:
                return _fetch(location)
            return Path(location).read_bytes() if Path(location).is_file() else None
        except (OSError, TransferError) as error:
            raise RecipeError(f"{location}: cannot be read ({error})") from error

    def kind(self) -> str:
        """Return what the set is, one of KINDS.

        Raises:
            RecipeError: Its `dataset_type.txt` says something else.
        """
        content = self.content(KIND_FILE)
        kind = "classification" if content is None else _text(content, self.locate(KIND_FILE)).strip().lower()
        if kind not in KINDS:
            raise RecipeError(f"{self.locate(KIND_FILE)}: '{kind}' is none of {', '.join(KINDS)}")
        return kind

    def shards(self, split: str) -> list[str]:
        """Return the shards of a split, as many as `nshards.txt` counts.

        Raises:
            RecipeError: One is missing, or on a disk too many are there.
        """
        name = f"{split}/nshards.txt"
        content = self.content(name)
        if content is None:
            raise RecipeError(f"{self.locate(name)}: no such file; it must hold the number of shards")
        text = _text(content, self.locate(name)).strip()
        if not (text.isascii() and text.isdigit() and len(text) < 8 and int(text)):
            raise RecipeError(f"{self.locate(name)}: '{text[:20]}' is not a number of shards")
        names = [f"{number}.tar" for number in range(int(text))]
        if not self.is_remote:
            _check_present(Path(self.locate(name)), names)
        return [self.locate(f"{split}/{name}") for name in names]

    def files(self) -> list[Path]:
        """Return the shards of all splits of a set on a disk."""
        return sorted(Path(self.root).glob("*/*.tar"))

    def card(self, shards: list[str]) -> Card:
        """Return shards of the set as a data set."""
        split = shards[0].removeprefix(f"{self.root}/").rpartition("/")[0]
        return Card(name=f"{self.name} {split}", shards=tuple(shards), images=IMAGES, folder=Path("/", self.root))

    def lists(self) -> dict[str, bytes]:
        """Return the lists that the set has, by name: of classes and of prompts."""
        return {name: content for name in (CLASS_NAMES, TEMPLATES) if (content := self.content(name)) is not None}

    def read(self, shards: Sequence[Shard], members: Sequence[str]) -> list[EvaluationSample]:
        """Return all samples of some shards.

        Args:
            members: Extensions of what must stand beside each image.

        Raises:
            RecipeError: As `read_samples`.
        """
        return [sample for shard in shards for sample in read_samples(shard, members)]


Place = SetFolder | RegionCard


def open_split(place: Place, split: str) -> list[Shard]:
    """Return the shards of a split in the order of their numbers.

    Raises:
        RecipeError: One is missing, or no whole tar.
    """
    locations = place.shards(split)
    opened = {shard.location: shard for shard in open_shards(place.card(locations), locations=locations)}
    shards = [opened[location] for location in locations]
    for shard in shards:
        if shard.fault:
            raise RecipeError(f"{shard.location}: not a whole tar ({shard.fault}); fetch it again")
    return shards


def find_root(root: str) -> Place:
    """Return the folder of a set, by CLIP_benchmark's name for it or by DataComp's, or a card.

    Raises:
        RecipeError: It is not there, or an environment variable in it is not set.
    """
    text = os.path.expandvars(root)
    if "$" in text:
        variable = text.partition("$")[2].strip("{").partition("}")[0].partition("/")[0]
        raise RecipeError(
            f"data.root is '{root}': set the environment variable {variable} to where your sets lie, a folder or an "
            "address such as hf://datasets/clip-benchmark"
        )
    if text.endswith(CARD):
        return RegionCard.load(text)
    if is_remote(text):
        # The page of a data set on the hub, as CLIP_benchmark takes it, is not where its files are.
        address = HUB_PAGE.sub(r"\1/resolve/", text.rstrip("/"))
        names = _names_of(address)
        return SetFolder(next((name for name in names if len(names) > 1 and _is_set(name)), address))
    for name in _names_of(text):
        for candidate in _candidates(root, name):
            if candidate.is_dir():
                return SetFolder(str(candidate.resolve()))
    raise RecipeError(f"data.root '{root}': no such folder")


def split_lines(content: bytes, where: str) -> tuple[str, ...]:
    """Return one entry per line.

    Args:
        where: The file, for messages.

    Raises:
        RecipeError: A line is blank, or it is no text.
    """
    lines = tuple(line.strip() for line in _text(content, where).splitlines())
    blank = [number for number, line in enumerate(lines, 1) if not line]
    if blank or not lines:
        raise RecipeError(f"{where}: line {blank[0] if blank else 1} is blank; every line must be an entry")
    return lines


def read_lines(path: Path) -> tuple[str, ...]:
    """Read one entry per line.

    Raises:
        RecipeError: The file is missing or empty, or a line is blank.
    """
    if not path.is_file():
        raise RecipeError(f"{path}: no such file")
    return split_lines(path.read_bytes(), str(path))


def _names_of(location: str) -> list[str]:
    """Return where a set may lie: DataComp says wds_vtab-dtd_test for wds_vtab-dtd, wds_cifar10_test for CIFAR-10."""
    head, slash, name = location.rpartition("/")
    if not name.startswith("wds_") or name.endswith("_test"):
        return [location]
    return list(dict.fromkeys([location, f"{location}_test", f"{head}{slash}{name.replace('wds_vtab-', 'wds_')}_test"]))


def _is_set(address: str) -> bool:
    """Say whether a set may lie behind an address; whoever reads it learns what else is wrong there."""
    try:
        return _fetch(f"{address}/test/nshards.txt") is not None
    except (OSError, TransferError) as error:
        return not (isinstance(error, TransferError) and error.is_final)


def _candidates(root: str, text: str) -> Iterator[Path]:
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise RecipeError(f"data.root '{root}': {error}") from error
    yield path
    if path.parts:
        yield from (folder.parent / path for folder in folders(path.parts[0]))


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{where} is not UTF-8 (byte {error.start})") from error


def _fetch(address: str) -> bytes | None:
    """Return what lies at an address, asked anew each time; None where there is nothing."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "file")
        try:
            download(Remote(address), copy, Expected(), tries=TRIES, stats=RemoteStats(address))
        except TransferError as error:
            if error.trouble == "missing":
                return None
            raise
        return copy.read_bytes()


def _check_present(count_file: Path, names: list[str]) -> None:
    present = {path.name for path in count_file.parent.glob("*.tar") if not path.name.startswith(".")}
    if missing := [name for name in names if name not in present]:
        raise RecipeError(f"{count_file} counts {len(names)} shards, but {_some(missing)} missing in its folder")
    if extra := sorted(present - set(names)):
        raise RecipeError(f"{count_file} counts {len(names)} shards, but its folder also holds {', '.join(extra[:5])}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more} {'are' if len(names) > 1 else 'is'}"
