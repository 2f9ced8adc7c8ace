"""WebDataset shards as random-access lists of samples, wherever they lie."""

from __future__ import annotations

import contextlib
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from vlp.data.faults import BadSampleError, net
from vlp.data.shards.cards import Card
from vlp.data.shards.download import Expected, RemoteStats, ask, download
from vlp.data.shards.homes import Copied, Home, local_home, remote_home, tag_of
from vlp.data.shards.index import SUFFIX, Entry, Index, open_index
from vlp.data.shards.open_files import OpenFiles
from vlp.data.shards.remote import PIPE, TransferError, is_remote, version
from vlp.data.shards.summary import Known, keep_in_cache, read_summaries
from vlp.data.shards.unpack import SUFFIXES, packing
from vlp.ground import dist
from vlp.ground.types import RecipeError

Answer = TypeVar("Answer")
THREADS = 8
TOUCHED_EVERY_SECONDS = 20.0
WHY_UNREADABLE = {
    "sparse": "is a sparse member: write the tar without `--sparse`",
    "link": "is a link to what is not in the tar: write the tar with `--dereference`",
}


class Shard:
    """One tar file.

    Args:
        location: Its path or address.
        home: Where it can be read.
        known: What is known of it before it is opened.
        files: Open files, shared by the shards of a run.
        stats: Counts failed tries to fetch the shards of its card.
    """

    def __init__(self, location: str, home: Home, known: Known, files: OpenFiles, stats: RemoteStats):
        self.location = location
        self.home = home
        self.known = known
        self.stats = stats
        self._files = files
        self._opened: tuple[Path, Index] | None = None
        self._touched = 0.0

    def __len__(self) -> int:
        return self.known.samples

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    @property
    def name(self) -> str:
        """Last part of the location."""
        return self.location.split("?")[0].split("/")[-1]

    @property
    def is_remote(self) -> bool:
        """Whether it must be fetched before it can be read."""
        return is_remote(self.location)

    @property
    def is_packed(self) -> bool:
        """Whether it is compressed, and read from a plain copy."""
        return bool(self.known.packing) or (self.is_remote and self.name.endswith(SUFFIXES))

    @property
    def fault(self) -> str:
        """Why the shard cannot be read to its end; empty for a sound one."""
        return self.known.fault

    @property
    def lost(self) -> int:
        """How many samples that may have cost."""
        return self.known.lost

    def key(self, place: int) -> str:
        """Return the key of a sample; empty where the shard cannot be read any more."""
        with contextlib.suppress(BadSampleError), net("shard_error"):
            return self._use(lambda _tar, index: index.key(place))
        return ""

    @net("shard_error")
    def entries(self, place: int) -> tuple[Entry, ...]:
        """Return the members of a sample.

        Raises:
            BadSampleError: The shard cannot be read, or has changed.
        """
        return self._use(lambda _tar, index: tuple(self._check(index).members(place)))

    def members(self, place: int) -> dict[str, Entry]:
        """Map the extensions of a sample to its members.

        Raises:
            BadSampleError: An extension stands twice, so that nobody can say which members belong together; or the
                shard cannot be read.
        """
        entries = self.entries(place)
        found = {entry.extension: entry for entry in entries}
        if len(found) < len(entries):
            names = [entry.extension for entry in entries]
            twice = next(name for name in names if names.count(name) > 1)
            raise BadSampleError("duplicate_key", f"two members '.{twice}' in one sample")
        return found

    @net("shard_error")
    def read(self, entry: Entry) -> bytes:
        """Return the content of a member.

        Raises:
            BadSampleError: It does not lie in the tar as it is, differs from its checksum, or the file has vanished or
                shrunk since it was indexed.
        """
        if entry.trouble:
            raise BadSampleError("shard_error", f"'.{entry.extension}' {WHY_UNREADABLE[entry.trouble]}")
        data = self._use(lambda tar, _index: self._files.read(tar, entry.offset, entry.size))
        if len(data) != entry.size:
            raise BadSampleError("shard_error", f"{self.location} ends at byte {entry.offset + len(data)}")
        if entry.checksum is not None and zlib.crc32(data) != entry.checksum:
            raise BadSampleError(
                "wrong_checksum", f"'.{entry.extension}' is not what it was when vlp data index read it"
            )
        return data

    def open(self) -> tuple[Path, Index]:
        """Return a plain tar with the content of the shard, and its index.

        Raises:
            BadSampleError: It cannot be had.
        """
        return self._use(lambda tar, index: (tar, index))

    def fetch(self, *, soon: bool = False) -> bool:
        """Make sure that the next read need not wait for a line; return whether that is so.

        Args:
            soon: Whether it may be left undone while other shards need the room in the cache.

        Raises:
            TransferError: It cannot be fetched.
        """
        return self.home.fetch(soon=soon)

    def keep(self) -> None:
        """Say that it is in use, or soon will be; costs nothing where that was said just now."""
        now = time.monotonic()
        if now > self._touched + TOUCHED_EVERY_SECONDS:
            self._touched = now
            self.home.touch()

    def release(self) -> None:
        """Say that nothing of it is read for a while."""
        self._touched = 0.0
        self.home.release()

    def _use(self, action: Callable[[Path, Index], Answer]) -> Answer:
        """Do something with the tar and its index; open them again where they were deleted meanwhile."""
        self.keep()
        try:
            try:
                return action(*self._open())
            except FileNotFoundError:
                self._opened = None
                return action(*self._open())
        except OSError as error:
            raise BadSampleError("shard_error", f"{self.location}: {error.strerror or error}") from error

    def _open(self) -> tuple[Path, Index]:
        self._opened = self._opened or self.home.open(self._files)
        return self._opened

    def _check(self, index: Index) -> Index:
        if len(index) != len(self):
            raise BadSampleError(
                "shard_error",
                f"{self.location} has {len(index)} samples, {len(self)} when it was counted; run vlp data index again",
            )
        return index


def open_shards(card: Card, files: OpenFiles | None = None, *, locations: Sequence[str] | None = None) -> list[Shard]:
    """Return the shards of a card in order.

    What the card's summary tells of shards that did not change is believed; the others are opened now, and remote
    ones fetched for it. Servers are asked for versions at each start, and faults of theirs are not believed a second
    time.

    Raises:
        RecipeError: A shard is missing, may not be read, or cannot be fetched.
    """
    locations = card.locations() if locations is None else locations
    summaries = read_summaries(card)
    opener = _Opener(card, summaries, files or OpenFiles(), RemoteStats(card.name))
    shards = list(_in_threads(opener, locations, card.name))
    if not all(any(summary.get(shard.location) == shard.known for summary in summaries) for shard in shards):
        sound = {shard.location: shard.known for shard in shards if not (shard.is_remote and shard.fault)}
        keep_in_cache(card, sound)
    return shards


class _Opener:
    """Makes the shards of one card."""

    def __init__(self, card: Card, summaries: Sequence[Mapping[str, Known]], files: OpenFiles, stats: RemoteStats):
        self.card = card
        self.summaries = summaries
        self.files = files
        self.stats = stats

    def __call__(self, location: str) -> Shard:
        return self._remote(location) if is_remote(location) else self._local(location)

    def _local(self, location: str) -> Shard:
        path = Path(location)
        status = path.stat()
        tag = tag_of(status)
        known = next((known for known in self._known(location) if known.tag == tag), None)
        kind = packing(path) if known is None else known.packing
        home = local_home(path, tag, self.card.limit_bytes, is_packed=bool(kind))
        if known is None:
            footer = home.open(OpenFiles())[1].footer
            known = Known(footer.samples, footer.fault, status.st_size, tag, footer.tar_sha256, footer.lost, kind)
        return Shard(location, home, known, self.files, self.stats)

    def _remote(self, location: str) -> Shard:
        known = self._remembered(location) or self._told(location) or self._measured(location)
        known = replace(known, sha256=self.card.sha256_of(location) or known.sha256)
        return Shard(location, self._home(location, known), known, self.files, self.stats)

    def _home(self, location: str, known: Known) -> Copied:
        return remote_home(self.card, location, known, self.stats)

    def _known(self, location: str) -> Iterator[Known]:
        return (summary[location] for summary in self.summaries if location in summary)

    def _remembered(self, location: str) -> Known | None:
        """Return what was known of a shard at an earlier start, if the server or the card still has that version."""
        known, promised = next(self._known(location), None), self.card.sha256_of(location)
        if known is None or known.fault or (promised and known.sha256 != promised):
            return None
        if promised or location.startswith(PIPE):
            return known
        try:
            found = self._version(location)
        except TransferError as error:
            if error.is_final and not self._home(location, known).is_here:
                raise
            return known  # a server that is away for a while may be back when the shard is needed
        same_size = -1 in (found.bytes, known.bytes) or found.bytes == known.bytes
        same_tag = "" in (found.tag, known.tag) or found.tag == known.tag
        return known if same_size and same_tag else None

    def _told(self, location: str) -> Known | None:
        """Return what the card, or an index beside the shard, says of it."""
        samples = self.card.count_of(location)
        if samples is not None:
            found = self._version(location)
            return Known(samples, "", found.bytes, found.tag)
        if location.startswith(PIPE) or "?" in location:
            return None
        index = self.card.remote(location + SUFFIX)
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, "index")
            try:
                download(index, copy, Expected(), tries=self.card.tries, stats=RemoteStats(self.card.name))
            except TransferError:
                return None
            told = open_index(copy, OpenFiles())
        if told is None or not told.footer.tar_sha256:
            return None
        footer = told.footer
        return Known(footer.samples, footer.fault, footer.tar_bytes, "", footer.tar_sha256, footer.lost)

    def _measured(self, location: str) -> Known:
        found = self._version(location)
        known = Known(0, "", found.bytes, found.tag, self.card.sha256_of(location))
        home = self._home(location, known)
        home.forget_fault()
        footer = home.open(OpenFiles())[1].footer
        home.release()
        return Known(footer.samples, footer.fault, found.bytes, found.tag, known.sha256, footer.lost)

    def _version(self, location: str) -> Any:
        return ask(version, self.card.remote(location), tries=self.card.tries, stats=self.stats)


def _in_threads(opener: _Opener, locations: Sequence[str], name: str) -> Iterator[Shard]:
    """Open many shards at a time; tell which of them cannot be had."""
    missing: list[str] = []
    with ThreadPoolExecutor(THREADS) as pool, _bar(len(locations), name) as bar:
        for outcome in pool.map(partial(_try, opener), locations):
            bar.update()
            if isinstance(outcome, Shard):
                yield outcome
            else:
                missing.append(str(outcome))
    if missing:
        raise RecipeError(
            f"card '{name}': cannot read {len(missing)} of {len(locations)} shards: {'; '.join(missing[:5])}"
            f"{'; ...' if len(missing) > 5 else ''}; fetch them, or change `shards`"
        )


def _try(opener: _Opener, location: str) -> Shard | Exception:
    try:
        return opener(location)
    except (TransferError, BadSampleError, OSError) as error:
        return error


def _bar(total: int, name: str) -> Any:
    # The thread that watches bars would be alive while workers fork.
    tqdm.monitor_interval = 0
    silent = None if dist.is_main() else True
    return tqdm(total=total, desc=f"opening {name}", unit=" shards", delay=2, disable=silent, leave=False)
