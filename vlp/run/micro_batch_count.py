"""In how many micro-batches a process embeds its share: as many as it takes, where the recipe says `auto`."""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from vlp.ground import dist
from vlp.ground.errors import said_by
from vlp.ground.files import Records, read_records
from vlp.ground.types import RecipeError
from vlp.plan.counts import USUAL_LENGTH, count
from vlp.plan.holding import Holding, numbers_of_micro_batches, room_of
from vlp.recipe.schema import Recipe
from vlp.run.device_memory import memory_of
from vlp.step.kept_bytes import KeptBytes
from vlp.towers.dual import DualEncoder

NAME = "micro_batches.jsonl"
Result = TypeVar("Result")


class EverywhereError(RuntimeError):
    """Memory ran out on some process, and every process knows."""


class MicroBatchCount:
    """The number of micro-batches of a process, which grows where memory runs out: gradients are the same.

    Every step has a number of its own, which the run folder remembers: dropout differs from one number to another, and
    a resumed run repeats what was.

    Args:
        first: Number of the first steps.
        pairs: Of one process, in its largest batches.
        grows: Whether it may; else a step without memory ends the run.
        divides: Whether a batch may be embedded in pieces at all.
        budget: Context in which too much memory raises `torch.OutOfMemoryError`, where the device does not.
    """

    def __init__(
        self,
        first: int,
        pairs: int,
        *,
        grows: bool = False,
        divides: bool = True,
        budget: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ):
        self.pairs = pairs
        self.grows = grows
        self.divides = divides
        self._numbers = {0: first}
        self._budget = budget
        self._records: Records | None = None
        self._tell: Callable[[str], None] = lambda text: print(text, file=sys.stderr)

    def open(self, folder: Path, tell: Callable[[str], None]) -> None:
        """Go on with the numbers that a run folder remembers, and remember further ones there; called everywhere."""
        if not self.grows:
            return
        self._tell = tell
        self._records = Records(folder / NAME, tell)
        known = dist.on_main(lambda: _read(folder / NAME))
        if known:
            self._numbers = known
        elif dist.is_main():
            self._records.add([{"step": 0, "micro_batches": self._numbers[0]}])

    def at(self, step: int, pairs: int | None = None) -> int:
        """Return the number of micro-batches of a step: one that divides the share.

        Args:
            pairs: Of this process in this step; those of its largest batches by default. Fewer are embedded in pieces
                that are no larger.
        """
        number = max((number for since, number in self._numbers.items() if since <= step), default=1)
        number = next(numbers_of_micro_batches(self.pairs, number), self.pairs)
        if pairs is None or pairs == self.pairs:
            return number
        return next(numbers_of_micro_batches(pairs, math.ceil(number * pairs / self.pairs)), pairs)

    def metrics(self, step: int) -> dict[str, float]:
        """Return what is worth a line in the log: a number that may change."""
        return {"micro_batches": float(self.at(step))} if self.grows else {}

    @property
    def exchanges_alone(self) -> bool:
        """Whether gradients are exchanged after the backward pass: while it goes on, no process may wait for another
        that has run out of memory."""
        return self.grows and dist.world_size() > 1

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run the block, which must hold no collective, on every process; memory that runs out does so for all."""
        if not self.exchanges_alone:
            yield
            return
        try:
            with dist.together():
                yield
        except torch.OutOfMemoryError as error:
            raise EverywhereError(str(error)) from None  # its traceback would hold the tensors

    def __call__(self, step: int, pairs: int, attempt: Callable[[int], Result], forget: Callable[[], None]) -> Result:
        """Return what the attempt returns, with more micro-batches where memory runs out.

        Args:
            pairs: Of this process in this step.
            attempt: From a number of micro-batches to gradients.
            forget: Undoes an attempt that broke off.

        Raises:
            RecipeError: No number does, or none is allowed to.
        """
        while True:
            number = self.at(step, pairs)
            try:
                with self._budget():
                    return attempt(number)
            except (torch.OutOfMemoryError, EverywhereError) as error:
                self._grow(step, self.at(step), error)
            forget()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _grow(self, step: int, number: int, error: RuntimeError) -> None:
        said = said_by(error, most=300)
        larger = next(numbers_of_micro_batches(self.pairs, 2 * number), None) if self.divides else None
        if not self.grows or larger is None:
            raise RecipeError(_advice(step, said, larger)) from error
        self._numbers[step] = larger
        alone = self.exchanges_alone and not isinstance(error, EverywhereError)  # where others wait for this process
        if self._records is not None and (alone or dist.is_main()):
            self._records.add([{"step": step, "micro_batches": larger}])
        if alone:
            raise RecipeError(f"step {step}: out of memory ({said}): --resume takes {larger} micro-batches") from error
        self._tell(f"step {step}: out of memory with {number} micro-batches; {larger} from here on ({said})")


def count_micro_batches(recipe: Recipe, towers: DualEncoder, device: torch.device) -> MicroBatchCount:
    """Return the number that a recipe asks for, or begin with what its plan says; hold the process to its memory."""
    train, several, divides = recipe.train, dist.world_size(), not towers.has_batch_norm
    pairs = train.batch_size // several
    wanted = train.micro_batches if divides or train.micro_batches != "auto" else 1
    if wanted != "auto" and train.memory_gb is None:
        return MicroBatchCount(wanted, pairs, divides=divides)
    memory = memory_of(device)
    if train.memory_gb is not None and device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(room_of(train, memory) / memory, device)
    if wanted != "auto":
        return MicroBatchCount(wanted, pairs, divides=divides)
    holding = dist.on_main(lambda: Holding(count(recipe, tokens=USUAL_LENGTH), train.batch_size, several))
    first = holding.micro_batches(train, memory)
    if train.memory_gb is None or device.type == "cuda":
        return MicroBatchCount(first, pairs, grows=True)
    left = room_of(train, memory) - holding.beside_activations(first)
    beside = [*towers.parameters(), *towers.buffers()]
    return MicroBatchCount(first, pairs, grows=True, budget=partial(KeptBytes, left, beside))


def _read(path: Path) -> dict[int, int]:
    found: dict[int, int] = {}
    for record in read_records(path, _is_count)[0].values():
        found[record["step"]] = max(record["micro_batches"], found.get(record["step"], 1))
    return found


def _is_count(record: Mapping[str, Any]) -> bool:
    step, number = record.get("step"), record.get("micro_batches")
    return type(step) is int and type(number) is int and step >= 0 and number >= 1


def _advice(step: int, said: str, larger: int | None) -> str:
    more = "train.micro_batches=auto" if dist.world_size() == 1 else f"train.micro_batches={larger}"
    ways = [] if larger is None else [f"{more} embeds the batch in more pieces, with the same gradients"]
    ways += ["model.grad_checkpointing=selective keeps less, and true least", "a smaller train.batch_size needs less"]
    return f"step {step}: out of memory ({said}): {'; '.join(ways)}; `vlp plan` tells what takes it"
