"""Check what a card promises, to the last byte: counts, checksums, and that every image and caption can be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vlp.curate.parallel import map_in_order, num_shards, progress
from vlp.data import Captions, Card
from vlp.data.faults import BadSampleError
from vlp.data.pixels.decode import check_bytes, decode_image
from vlp.data.regions import read_regions
from vlp.data.samples import Sample
from vlp.data.shards.remote import is_remote
from vlp.data.shards.shard import Shard, open_shards
from vlp.data.shards.tar import scan_tar
from vlp.data.texts.documents import document_images
from vlp.ground.cores import usable_cores
from vlp.ground.files import sha256_of
from vlp.ground.types import RecipeError

SHOWN = 20


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: with a sample, or with a whole shard when `key` is empty."""

    reason: str
    shard: str
    key: str
    detail: str

    def __str__(self) -> str:
        return f"{self.shard}{': ' + self.key if self.key else ''}: {self.detail}"


@dataclass(frozen=True)
class Checked:
    """What was found in one shard."""

    samples: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Verdict:
    """What was found in all shards of a card."""

    card: str
    shards: int
    samples: int
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        head = f"{self.card}: {self.samples:,} samples in {num_shards(self.shards)}"
        if not self.findings:
            return f"{head}: counts, checksums, images and captions are as they should be"
        counts = Counter(finding.reason for finding in self.findings)
        lines = [str(finding) for finding in self.findings[:SHOWN]]
        if len(self.findings) > SHOWN:
            lines.append(f"... and {len(self.findings) - SHOWN:,} more")
        return "\n".join([*lines, f"{head}:", *(f"  {count:8d}  {reason}" for reason, count in counts.most_common())])


def verify_card(card: Card, *, workers: int | None = None) -> Verdict:
    """Read all bytes of a card's shards and decode every sample.

    Args:
        workers: Processes; all cores when absent.

    Raises:
        RecipeError: No such card, or a shard is missing.
    """
    shards = open_shards(card)
    samples = 0
    findings: list[Finding] = []
    with progress(len(shards), "shards") as bar:
        tasks = [(card, shard) for shard in shards]
        for checked in map_in_order(_check_shard, tasks, usable_cores() if workers is None else workers):
            samples += checked.samples
            findings += checked.findings
            bar.update()
    if not samples:
        findings.append(Finding("no_samples", card.name, "", "the shards hold no sample"))
    if card.samples is not None and card.samples != samples:
        findings.append(Finding("wrong_count", card.name, "", f"{card.samples} samples promised, {samples} found"))
    return Verdict(card.name, len(shards), samples, tuple(findings))


def _check_shard(task: tuple[Card, Shard]) -> Checked:
    card, shard = task
    try:
        tar, index = shard.open()
    except (BadSampleError, RecipeError) as error:
        return Checked(0, (Finding("shard_error", shard.name, "", str(error)),))
    findings = list(_check_bytes(card, shard, tar))
    told, found = card.count_of(shard.location), index.footer.samples
    if told not in (None, found):
        findings.append(Finding("wrong_count", shard.name, "", f"{told} samples promised, {found} found"))
    # The index may be older than a fault that left size and time of the file alone.
    fault = shard.fault or scan_tar(tar).fault
    if fault:
        findings.append(Finding("shard_error", shard.name, "", fault))
    captions = [Captions(keys={key: 1.0}) for key in card.captions]
    for place in range(len(shard)):
        try:
            if index.footer.has_checksums:
                _check_members(shard, place)
            _check_sample(card, shard, place, captions)
        except BadSampleError as bad:
            findings.append(Finding(bad.reason, shard.name, shard.key(place), bad.detail))
    return Checked(len(shard), tuple(findings))


def _check_bytes(card: Card, shard: Shard, tar: Path) -> Iterator[Finding]:
    """Hash a shard; one that was packed and remote was hashed when it was fetched, and is no more."""
    expected = card.sha256_of(shard.location)
    path = tar if is_remote(shard.location) else Path(shard.location)
    if not card.sha256 or (shard.is_remote and shard.is_packed):
        return
    if not expected:
        yield Finding("no_checksum", shard.name, "", "the card has checksums, but none of this shard")
        return
    found = sha256_of(path)
    if found != expected:
        yield Finding("wrong_checksum", shard.name, "", f"sha256 is {found}, not {expected}")


def _check_members(shard: Shard, place: int) -> None:
    """Read all members of a sample, which compares them with the checksums of the index.

    Raises:
        BadSampleError: They cannot be read, or differ.
    """
    for entry in shard.entries(place):
        shard.read(entry)


def _check_sample(card: Card, shard: Shard, place: int, captions: list[Captions]) -> None:
    """Decode every image, caption and region of a sample, or every image and text of a document.

    Raises:
        BadSampleError: The first thing that is wrong with it.
    """
    sample = Sample.of_card(card, shard, place)
    if card.documents is not None:
        for member in document_images(sample):
            decode_image(sample.read_bounded(member))
        return
    sample.image_member()
    for extension in card.images:
        if extension in sample.members:
            check_bytes(sample.size(extension))
            decode_image(sample.read(extension))
    if card.regions is not None:
        read_regions(sample, card.regions, Captions())
    missing = 0
    for reader in captions:
        try:
            reader.all(sample)
        except BadSampleError as bad:
            missing += bad.reason == "missing_caption"
            if bad.reason != "missing_caption" or missing == len(captions):
                raise
