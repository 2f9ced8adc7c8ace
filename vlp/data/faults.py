"""What went wrong with the data: told apart by source and reason, counted, listed, and held against a budget."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from vlp.ground.files import Records, parse_records, read_records, write_whole
from vlp.ground.types import RecipeError, VlpWarning

Reason = Literal[
    "corrupt_image",
    "missing_image",
    "oversized_image",
    "missing_caption",
    "empty_caption",
    "bad_caption",
    "bad_region",
    "duplicate_key",
    "bad_row",
    "shard_error",
    "wrong_checksum",
    "killed_worker",
]

# A budget of 1 % means nothing before about a thousand samples were tried.
FEWEST_TRIED = 1000
MOST_WORDS = 500  # letters of what went wrong; some errors quote the whole text


class BadSampleError(Exception):
    """A sample that cannot be used.

    Args:
        reason: One word for the kind of fault.
        detail: What exactly was wrong.
    """

    def __init__(self, reason: Reason, detail: str):
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class net(contextlib.ContextDecorator):  # noqa: N801
    """Make whatever is raised over the bytes of strangers a fault of their sample, in a block or a function.

    Decoders and parsers of broken bytes raise almost anything: struct.error, zlib.error, OverflowError, MemoryError.
    A class, since every sample passes five of them: a generator would cost 3 us each instead of 1.

    Raises:
        BadSampleError: With this reason, unless one was raised within.
        RecipeError: Raised within: no sample's fault.
    """

    def __init__(self, reason: Reason):
        self.reason = reason

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, (BadSampleError, RecipeError)):
            raise BadSampleError(self.reason, f"{type(error).__name__}: {error}"[:MOST_WORDS]) from error


@dataclass(frozen=True)
class Fault:
    """One line of the quarantine file; `id` is -1 and `key` empty where a whole shard is meant.

    Args:
        samples: How many samples are lost by it.
    """

    source: str
    reason: Reason
    shard: str
    key: str
    id: int
    detail: str
    samples: int = 1

    def as_dict(self) -> dict[str, str | int]:
        """Return what is written to the quarantine file."""
        return asdict(self)


@dataclass
class Faults:
    """Counts of one process, or of several together.

    Args:
        counts: Bad samples by (source, reason).
        delivered: Good samples that reached training.
        retries: Failed tries to fetch remote shards since the start, by (source, trouble).
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    delivered: int = 0
    retries: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """Number of bad samples met so far."""
        return sum(self.counts.values())

    @classmethod
    def together(cls, parts: Iterable[Faults]) -> Faults:
        """Return the sum over processes."""
        whole = cls()
        for part in parts:
            whole.counts.update(part.counts)
            whole.delivered += part.delivered
            whole.retries.update(part.retries)
        return whole

    def add(self, faults: Iterable[Fault]) -> None:
        """Count further faults."""
        for fault in faults:
            self.counts[fault.source, fault.reason] += fault.samples

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {"delivered": self.delivered, "counts": [[*name, count] for name, count in self.counts.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting where `state_dict` was taken."""
        self.delivered = state["delivered"]
        self.counts = Counter({(source, reason): count for source, reason, count in state["counts"]})

    def table(self) -> str:
        """Return one line per source and reason, most frequent first."""
        return "\n".join(f"  {count:8d}  {source}  {reason}" for (source, reason), count in self.counts.most_common())

    def check(self, budget: float) -> None:
        """Stop when the share of bad samples is larger than `budget`.

        Raises:
            RecipeError: Past the budget; carries the table.
        """
        tried = self.delivered + self.total
        if self.total > budget * max(tried, FEWEST_TRIED):
            raise RecipeError(
                f"{self.total} of {tried} samples are bad, more than data.bad_sample_budget={budget:g} allows:\n"
                f"{self.table()}\nrepair the shards (the quarantine file lists what is wrong), or raise the budget"
            )


class Quarantine:
    """Files with one JSON line per bad sample, one file per process; none is listed twice, whoever met it when.

    Args:
        path: The file of the first process; the others add their number to its name. None lists nothing.
        rank: Number of this process.
    """

    def __init__(self, path: Path | None, rank: int):
        self.path = path.with_stem(f"{path.stem}_{rank}") if path and rank else path
        self._family = f"{path.stem}*{path.suffix}" if path else ""
        self._records: Records | None = None
        self._listed: set[tuple[str, str, int]] = set()
        self._pending: dict[tuple[str, str, int], Fault] = {}
        self._bytes_read: Counter[Path] = Counter()

    def add(self, faults: Iterable[Fault]) -> None:
        """Append the faults that are not listed yet, and those that could not be written when they were met."""
        named = {(fault.source, fault.shard, fault.id): fault for fault in faults}
        self._pending.update({name: fault for name, fault in named.items() if name not in self._listed})
        waits = self._records is not None and self._records.num_waiting
        if self.path is None or not (self._pending or waits):
            return
        try:
            self._records = self._records or self._open(self.path)
            for path in self.path.parent.glob(self._family):
                self._learn(path)
        except OSError as error:
            _warn(f"{self.path} cannot be read ({error}); the run goes on")
        if self._records is not None:
            fresh = {name: fault for name, fault in self._pending.items() if name not in self._listed}
            self._listed.update(fresh)
            self._pending.clear()
            self._records.add(fault.as_dict() for fault in fresh.values())

    def _open(self, path: Path) -> Records:
        """Take torn and foreign lines out of this process's file, so that no line is written behind half of one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        tidy(path)
        return Records(path, _warn)

    def _learn(self, path: Path) -> None:
        """Read what was listed in a file since the last time."""
        with path.open("rb") as file:
            file.seek(self._bytes_read[path])
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._bytes_read[path] += len(whole)
        records, _ = parse_records(whole, _is_fault)
        self._listed.update((record["source"], record["shard"], record["id"]) for record in records.values())


def tidy(path: Path) -> None:
    """Take torn, foreign and damaged lines out of a list of faults, and say so.

    Raises:
        OSError: It cannot be read or written; it is as it was.
    """
    lines, others = read_records(path, _is_fault)
    content = b"".join(line + b"\n" for line in lines)
    if others:
        _warn(f"{path}: dropped {others} torn or foreign lines")
    if path.is_file() and path.read_bytes() != content:
        with write_whole(path) as file:
            file.write(content)


def _is_fault(record: Mapping[str, Any]) -> bool:
    types = {"source": str, "reason": str, "shard": str, "key": str, "id": int, "detail": str}
    return all(isinstance(record.get(name), kind) for name, kind in types.items())


def _warn(text: str) -> None:
    warnings.warn(text, VlpWarning, stacklevel=3)
