"""What went wrong with the data: told apart by source and reason, counted, listed, and held against a budget."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from vlp.types import RecipeError

Reason = Literal[
    "corrupt_image",
    "missing_image",
    "oversized_image",
    "missing_caption",
    "empty_caption",
    "bad_caption",
    "duplicate_key",
    "shard_error",
    "killed_worker",
]

# A budget of 1 % means nothing before about a thousand samples were tried.
FEWEST_TRIED = 1000


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


@dataclass(frozen=True)
class Fault:
    """One line of the quarantine file; `id` is -1 and `key` empty where a whole shard is meant."""

    source: str
    reason: Reason
    shard: str
    key: str
    id: int
    detail: str

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
        self.counts.update((fault.source, fault.reason) for fault in faults)

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
    """A file with one JSON line per bad sample."""

    def __init__(self, path: Path | None, rank: int):
        self.path = path.with_stem(f"{path.stem}_{rank}") if path and rank else path
        self._listed: set[tuple[str, str, int]] = set()

    def add(self, faults: Iterable[Fault]) -> None:
        """Append the faults that are not listed yet."""
        fresh = {(fault.source, fault.shard, fault.id): fault for fault in faults}
        fresh = {name: fault for name, fault in fresh.items() if name not in self._listed}
        if self.path is None or not fresh:
            return
        self._listed.update(fresh)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(fault.as_dict()) + "\n" for fault in fresh.values())
