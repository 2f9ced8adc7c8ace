"""Dataset cards: which shards a data set is made of, and what is known about them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

from braceexpand import braceexpand
from pydantic import Field, ValidationError, field_validator, model_validator

from vlp.data.pixels.decode import EXTENSIONS
from vlp.data.shards.download import RemoteStats, ask
from vlp.data.shards.remote import PIPE, Remote, TransferError, is_remote, listing
from vlp.ground import paths
from vlp.ground.explain import explain
from vlp.ground.files import sha256_of
from vlp.ground.strict import Strict
from vlp.ground.types import RecipeError
from vlp.ground.yaml import parse_settings, read_text

Value = TypeVar("Value")
DEFAULT_CACHE_GB = 100.0
MOST_NAMES = 1_000_000
BRACES = re.compile(r"\{([^{}]*)\}")
KEY_OF_RECORD = re.compile(r"(.+\.)?json\..+")
MEMBERS = ("images", "captions", "regions", "documents")  # keys that say which members of a sample are read
NUMBER = re.compile(r"-?\d{1,4000}")  # Python refuses to read longer ones


class Card(Strict):
    """A data set.

    Args:
        name: What the data set is called.
        shards: One pattern or a list: `*` and `?` match existing files, `{000..127}` lists files that must exist.
            Relative to the card; `$VARIABLE` and `~` are expanded. Or addresses: `https://`, `s3://`, `gs://`,
            `hf://datasets/ORG/NAME/`, others that fsspec knows, and `pipe:` with a command.
        samples: Number of samples in all shards; checked at every start.
        keep: List of the samples that are used, relative to the card; `vlp data filter` and `split` write it.
        images: Names of the members that may be the image, the first that a sample has is taken: `jpg` where a sample
            is `0001.jpg` and `0001.txt`, `image.png` where it is `0001.image.png` and `0001.caption.txt`.
        captions: Where captions are, with weights: `txt` is a member of each sample, `json.NAME` a key of its
            JSON member, `json.NAME.NAME` a key within, `meta.json.NAME` one of the member `meta.json`.
        regions: Where captions of parts of the image are, if anywhere: `json.NAME` is a key of the JSON member that
            holds a list of `{box: [left, top, right, bottom], caption: TEXT}`, in shares of the image's width and
            height, from 0 to 1.
        documents: The member that is an interleaved document, such as `json`, where samples are not pairs: texts and
            images in order, in the layout of OBELICS or of MMC4. Image number 0 of its list is the member `0.jpg` (or
            `0.png`, ...), and so on; those that are not there are left out.
        sha256: Checksum per shard, named relative to the card or by the end of its address; checked by `verify`, and
            whenever a remote shard is fetched.
        counts: Samples per remote shard, named in the same way; spares the first start from fetching all shards.
        options: What the back end of remote shards is told, such as `{anon: true}`.
        cache_gb: Largest sum of the copies of remote shards on this machine, in 10^9 bytes; 100 when absent. Room for
            twice `data.shuffle_shards` shards lets the next ones come while the present ones are read.
        tries: Tries in a row to fetch a remote shard that bring next to nothing.
        timeout: Longest time without a byte of a remote shard, in seconds.
        allow_pipe: Whether a `pipe:` address may run its command.
        licence: Terms of use.
        home: Where the data comes from.
        folder: Where the card lies; not part of the file.
        file: The file itself, and `text` what stands in it, comments and all; not part of it either.
    """

    name: str = Field(min_length=1)
    shards: str | tuple[str, ...]
    samples: int | None = Field(None, ge=1)
    images: tuple[str, ...] = Field(EXTENSIONS, min_length=1)
    captions: dict[str, Annotated[float, Field(gt=0)]] = Field({"txt": 1.0}, min_length=1)
    regions: str | None = None
    documents: str | None = None
    keep: str | None = None
    sha256: dict[str, str] = {}
    counts: dict[str, Annotated[int, Field(ge=0)]] = {}
    options: dict[str, str | bool | int | float] = {}
    cache_gb: float | None = Field(None, gt=0)
    tries: int = Field(5, ge=1)
    timeout: float = Field(60.0, gt=0)
    allow_pipe: bool = False
    licence: str = ""
    home: str = ""
    folder: Path = Field(Path(), exclude=True)
    file: Path = Field(Path(), exclude=True)
    text: str = Field("", exclude=True)

    @field_validator("captions")
    @classmethod
    def _name_texts(cls, captions: dict[str, float]) -> dict[str, float]:
        for key in filter(is_record, captions):
            raise ValueError(f"'{key}' is a whole document: name a key in it, such as {key}.caption")
        return captions

    @field_validator("regions")
    @classmethod
    def _name_regions(cls, regions: str | None) -> str | None:
        if regions is not None and not KEY_OF_RECORD.fullmatch(regions):
            raise ValueError(f"'{regions}' is no key of a JSON member: name one, such as json.regions")
        return regions

    @model_validator(mode="after")
    def _check_kind(self) -> Card:
        unused = {"images", "captions", "regions"} & self.model_fields_set
        if self.documents is not None and unused:
            raise ValueError(
                f"documents say which texts and images there are: leave out {' and '.join(sorted(unused))}"
            )
        return self

    @field_validator("images")
    @classmethod
    def _lower(cls, images: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name.lower().removeprefix(".") for name in images)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], path: Path, text: str = "") -> Card:
        """Check the settings of a card.

        Args:
            mapping: What stands in the file.
            path: The file; shards are found relative to its folder.
            text: The file as it stands, for whoever writes another card from it.

        Raises:
            RecipeError: A mistake; names the file, the key and the nearest valid name.
        """
        try:
            return cls.model_validate({**mapping, "folder": path.parent.resolve(), "file": path, "text": text})
        except ValidationError as error:
            raise RecipeError(explain(error, cls, [(str(path), mapping)])) from error

    @property
    def fingerprint(self) -> str:
        """A checksum of the card's checksums (of names and sizes where it has none), of what it keeps, and of where it
        says that images and texts are, as far as that is not the usual.
        """
        known = dict(self.sha256 or self._marks())
        if self.keep is not None:
            known[self.keep] = hashlib.sha256((self.folder / self.keep).read_bytes()).hexdigest()
        fields = {name: (getattr(self, name), type(self).model_fields[name].default) for name in MEMBERS}
        known |= {f"{name}:": json.dumps(value) for name, (value, usual) in fields.items() if value != usual}
        return hashlib.sha256(json.dumps(sorted(known.items())).encode()).hexdigest()

    @property
    def limit_bytes(self) -> float | None:
        """Largest sum of copies in the cache; None where only local shards are copied, to unpack them."""
        if self.cache_gb is None and not any(map(is_remote, self._patterns())):
            return None
        return 1e9 * (self.cache_gb or DEFAULT_CACHE_GB)

    def locations(self) -> list[str]:
        """Return the paths and addresses of the shards in order of their names.

        Raises:
            RecipeError: A pattern matches nothing, a local shard is missing or may not be read, or a `pipe:` address
                is not allowed.
        """
        found = {location for pattern in self._patterns() for location in self._expand(pattern)}
        if not any(map(is_remote, found)):
            told = {self._absolute(name) for name in self.sha256}
            files = {os.path.realpath(name): name for name in told}
            # Through a link a folder has two names, and each shard would be there twice.
            found = {name if name in told else files.get(os.path.realpath(name), name) for name in found} | told
        local = [name for name in sorted(found) if not is_remote(name)]
        odd = next(filter(_is_no_file, local), None)
        if odd is not None:
            way = f"write {odd}/*.tar" if Path(odd).is_dir() else "it is neither a file nor a folder"
            raise RecipeError(f"card '{self.name}': shards: {odd} is no tar: {way}")
        missing = [name for name in local if not os.access(name, os.R_OK)]
        if missing:
            raise RecipeError(
                f"card '{self.name}': cannot read {len(missing)} of {len(found)} shards: {', '.join(missing[:5])}"
                f"{', ...' if len(missing) > 5 else ''}; fetch them, or change `shards`"
            )
        return sorted(found, key=lambda name: PurePosixPath(name).parts)

    def paths(self) -> list[Path]:
        """Return the shards of a card that has no remote ones.

        Raises:
            RecipeError: As `locations`; or some are remote.
        """
        locations = self.locations()
        remote = next(filter(is_remote, locations), None)
        if remote:
            raise RecipeError(f"card '{self.name}': {remote} is not on this machine; fetch it, or change `shards`")
        return [Path(name) for name in locations]

    def remote(self, url: str) -> Remote:
        """Return how to reach an address."""
        return Remote(url, self.options, self.timeout)

    def sha256_of(self, location: str) -> str:
        """Return the checksum of a shard; empty where the card has none."""
        return self._told(self.sha256, location) or ""

    def count_of(self, location: str) -> int | None:
        """Return the samples of a remote shard, where the card tells them."""
        return self._told(self.counts, location)

    def verify(self) -> None:
        """Compare every local shard with its checksum; reads all bytes.

        Raises:
            RecipeError: A shard differs.
        """
        for location in self.locations():
            expected = self.sha256_of(location)
            if is_remote(location) or not expected:
                continue
            if sha256_of(Path(location)) != expected:
                raise RecipeError(f"card '{self.name}': {location} differs from its sha256; fetch it again")

    def _patterns(self) -> tuple[str, ...]:
        """Return the patterns one by one; WebDataset joins them by `::`."""
        given = (self.shards,) if isinstance(self.shards, str) else self.shards
        return tuple(
            part for text in given for part in ([text] if text.startswith(PIPE) else text.split("::")) if part.strip()
        )

    def _told(self, values: Mapping[str, Value], location: str) -> Value | None:
        if is_remote(location):
            ends = [location.split("/", maxsplit=depth)[-1] for depth in range(location.count("/") + 1)]
        else:
            ends = [location, location.removeprefix(f"{self.folder}/")]
        return next((values[end] for end in ends if end in values), None)

    def _marks(self) -> dict[str, str]:
        """Return the sizes of local shards by their names, with their folders where names alone are not enough."""
        locations = self.locations()
        marks = dict(map(_mark, locations))
        if len(marks) == len(locations):
            return marks
        return {location.removeprefix(f"{self.folder}/"): _mark(location)[1] for location in locations}

    def _absolute(self, name: str) -> str:
        return str(self.folder / Path(name).expanduser())

    def _expand(self, pattern: str) -> list[str]:
        if pattern.startswith(PIPE):
            if not self.allow_pipe:
                raise RecipeError(
                    f"card '{self.name}': shards: {pattern} runs a command on this machine; "
                    "say `allow_pipe: true` in the card if you trust it"
                )
            return self._names(pattern)
        locations: list[str] = []
        for text in self._names(os.path.expandvars(pattern).removeprefix("file://")):
            location = text if is_remote(text) else self._absolute(text)
            matches = self._match(location) if _is_glob(text) else [location]
            if not matches:
                raise RecipeError(f"card '{self.name}': shards: no file matches {location}")
            locations += matches
        return locations

    def _names(self, pattern: str) -> list[str]:
        """Expand braces."""
        if _num_names(pattern) > MOST_NAMES:
            raise RecipeError(
                f"card '{self.name}': shards: {pattern} stands for more than {MOST_NAMES} names; name fewer, or match "
                "those that are there with *"
            )
        try:
            return list(braceexpand(pattern))
        except ValueError as error:
            raise RecipeError(f"card '{self.name}': shards: {pattern}: {error}") from error

    def _match(self, location: str) -> list[str]:
        if is_remote(location):
            try:
                return ask(listing, self.remote(location), tries=self.tries, stats=RemoteStats(self.name))
            except TransferError as error:
                raise RecipeError(f"card '{self.name}': shards: cannot list {location}: {error}") from error
        anchor, parts = Path(Path(location).anchor), Path(location).parts
        found = list(anchor.glob(str(Path(*parts[1:]))))
        first = next(place for place, part in enumerate(parts) if _is_glob(part))
        if paths.is_hidden(Path(*parts[first:])):
            return [str(path) for path in found]
        # As in a shell: macOS puts `._000.tar` beside `000.tar` on disks of other systems.
        return [str(path) for path in found if not paths.is_hidden(Path(*path.parts[first:]))]


def _is_no_file(name: str) -> bool:
    """Whether there is something else under a name than a file."""
    try:
        return not stat.S_ISREG(Path(name).stat().st_mode)
    except OSError:
        return False


def _num_names(pattern: str) -> int:
    """Return at least the number of names that braces stand for."""
    total = 1
    while (found := BRACES.search(pattern)) and total <= MOST_NAMES:
        first, _, last = found[1].partition("..")
        ends = [int(end) for end in (first, last.split("..")[0]) if NUMBER.fullmatch(end)]
        total *= abs(ends[1] - ends[0]) + 1 if len(ends) == 2 else found[1].count(",") + 1
        pattern = pattern[: found.start()] + pattern[found.end() :]
    return total


def is_record(member: str) -> bool:
    """Whether a member of a sample is a JSON document, of which captions are keys."""
    return member == "json" or member.endswith(".json")


def _mark(location: str) -> tuple[str, str]:
    if is_remote(location):
        return location, ""
    path = Path(location)
    return path.name, str(path.stat().st_size)


def _is_glob(pattern: str) -> bool:
    # In a web address `?` begins a query.
    return any(letter in pattern for letter in ("*" if pattern.startswith("http") else "*?["))


def load_card(name: str) -> Card:
    """Return a data card by its name under `data/` or by the path of its YAML file.

    Raises:
        RecipeError: No such card, or a mistake in it.
    """
    path = paths.find_card("data", name)
    text = read_text(path)
    return Card.from_mapping(parse_settings(text, str(path)), path, text)
