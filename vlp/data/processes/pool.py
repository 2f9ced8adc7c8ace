"""Processes that decode ahead of the training, and what happens when one of them dies or hangs.

The trainer cuts its batches into chunks of some 32 samples and hands them out to the processes, the one with the least
to do first. A process writes the pixels of a chunk into the batch's slot of the ring, leaves a note with all the rest
there, and answers. Chunks rather than whole batches: all processes work on the batch that is needed next, so it comes
soon, and a failure costs little.

The trainer's part happens while it waits for a batch, in the thread that asks for it: `Pool._wait` hears answers,
deaths and silence. Nothing else watches, and nothing is locked.

- A process that dies is replaced; the new one gets the chunks that the old one had not answered. What a chunk holds is
  a pure function of its place, so nothing is lost or repeated.
- A process that has not finished a sample for `data.worker_timeout` seconds prints its stack to the error stream, is
  killed and counts as dead.
- A sample that two processes died over is lethal: it is replaced like any bad sample and counted as `killed_worker`.
  What kills once more kills always, so a resumed run replaces it too.
- Three deaths over one chunk that no such sample explains, or ten altogether, end the run: something else is wrong.
- An exception that is no bad sample is raised in the trainer, with the traceback of the process.

To look at a process from outside: `kill -USR2 PID` prints its stack (and ends it; it will be replaced).
"""

from __future__ import annotations

import contextlib
import itertools
import math
import multiprocessing
import os
import signal
import sys
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from types import TracebackType
from typing import Any

import torch

from vlp.data.batch_rows import Piece
from vlp.data.batches import LocalBatches, Packet
from vlp.data.processes.ring import Board, Ring
from vlp.data.processes.worker import Reply, Wanted, serve
from vlp.data.uploads import Uploads
from vlp.ground.errors import first_line
from vlp.ground.types import RecipeError, VlpWarning

# Costs the trainer 0.3 ms per chunk, and a process 30 ms or more: a low price and a short wait.
CHUNK = 32
# A slice has no more chunks per process than this, so that few tasks stand in a pipe whatever the batch size.
CHUNKS_PER_PROCESS = 8
# How much is decoded ahead: so many batches, and so many chunks per process where batches have few.
AHEAD = 2
# Batches that are lent at one time: the one in use, and the one before while a variable still holds it.
MOST_LENT = 2
# Deaths over one chunk that end the run: so many that no single sample explains, or so many altogether.
MOST_UNEXPLAINED = 3
MOST_DEATHS = 10
# Long enough to print a stack on a busy machine, or for a killed process to be gone.
GRACE_SECONDS = 5.0
SMOOTHING = 0.05
# A forked process is there in milliseconds; on other systems than Linux libraries do not survive a fork.
METHOD = "fork" if sys.platform == "linux" else "spawn"


@dataclass
class Health:
    """What a stream remembers of all the processes that worked for it.

    Args:
        restarts: Processes that were started in the place of dead ones.
        lethal: Samples that processes die over, and how.
        seconds_per_sample: What one process needs lately; None before the first answer.
    """

    restarts: int = 0
    lethal: dict[int, str] = field(default_factory=dict)
    seconds_per_sample: float | None = None

    def add(self, seconds: float, num_samples: int) -> None:
        """Take the time of a chunk into the mean."""
        latest = seconds / num_samples
        before = latest if self.seconds_per_sample is None else self.seconds_per_sample
        self.seconds_per_sample = before + SMOOTHING * (latest - before)


@dataclass
class Chunk:
    """A task on its way.

    Args:
        part: What came of it; None until the answer is there.
        deaths: Where the processes stood that died over it: a sample, or -1 between samples.
    """

    task: Wanted
    part: Piece | None = None
    deaths: list[int] = field(default_factory=list)


class Worker:
    """A place for one process, the process that fills it now, and the chunks that it has not answered yet."""

    def __init__(self, place: int):
        self.place = place
        self.chunks: deque[Chunk] = deque()
        self.process: Any = None
        self.connection: Any = None
        self.hung_up = False

    @property
    def handles(self) -> list[Any]:
        """What becomes ready when the process answers or dies."""
        return [self.connection, self.process.sentinel]

    def hand(self, chunk: Chunk, lethal: dict[int, str]) -> None:
        """Send a chunk."""
        try:
            self.connection.send((chunk.task, lethal))
        except OSError:
            return  # the process has died: whoever waits for the answer finds out

    def answers(self) -> Iterator[Reply]:
        """Yield the answers that are there."""
        try:
            while self.connection.poll():
                yield self.connection.recv()
        except (EOFError, OSError):
            self.hung_up = True

    def dump_stack(self) -> None:
        """Let the process print its stack; that ends it too."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGUSR2)
        self.process.join(GRACE_SECONDS)

    def forget(self) -> str:
        """Leave the place empty and return how the process ended, killing it if it has not."""
        self.process.kill()
        # One in an uninterruptible read stays longer, but never runs another line.
        self.process.join(GRACE_SECONDS)
        code = self.process.exitcode
        self.connection.close()
        self.process = self.connection = None
        return f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"


class Pool:
    """Several processes that make the batches of one pass over a stream.

    Args:
        batches: What each process makes parts of.
        health: Remembers restarts, lethal samples and speed.
        workers: Number of processes.
        timeout: Seconds without a finished sample after which a process counts as dead.
        uploads: Copies batches to a device out of the ring.
        method: How processes are started, in the words of `multiprocessing`.
    """

    def __init__(
        self,
        batches: LocalBatches,
        health: Health,
        *,
        workers: int,
        timeout: float,
        uploads: Uploads | None = None,
        method: str = METHOD,
    ):
        self._batches = batches
        self._health = health
        self._timeout = timeout
        self._method = method
        self._chunk = max(CHUNK, math.ceil(batches.most / (CHUNKS_PER_PROCESS * workers)))
        chunks_per_batch = math.ceil(batches.most / self._chunk)
        ahead = max(AHEAD, math.ceil(AHEAD * workers / chunks_per_batch))
        self._ring = Ring(ahead + MOST_LENT, batches.most, batches.shape(batches.most))
        self._uploads = uploads or Uploads(torch.device("cpu"))
        self._lock_pages()
        self._board = Board(workers)
        self._workers = [Worker(place) for place in range(workers)]
        # Also runs when the pool is garbage, and at exit before multiprocessing waits for processes that hear nothing.
        self._close = Finalize(self, _end, (self._workers,), exitpriority=1)

    def __enter__(self) -> Pool:
        for worker in self._workers:
            self._start(worker)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def packets(self, first: int) -> Iterator[Packet]:
        """Yield the slices of all global batches from number `first` on."""
        numbers = itertools.count(first)
        ahead: deque[list[Chunk]] = deque()
        while True:
            self._uploads.let_go()
            while (slot := self._ring.take()) is not None:
                ahead.append(self._hand_out(next(numbers), slot))
            chunks = ahead.popleft()
            while any(chunk.part is None for chunk in chunks):
                self._wait()
            yield self._join(chunks)

    def _hand_out(self, number: int, slot: int) -> list[Chunk]:
        size = self._batches.local_size(number)
        starts = range(0, size, self._chunk)
        chunks = [Chunk(Wanted(number, slot, start, min(start + self._chunk, size))) for start in starts]
        for chunk in chunks:
            worker = min(self._workers, key=lambda worker: len(worker.chunks))
            if not worker.chunks:
                self._board.write(worker.place, -1)  # its time begins now
            worker.chunks.append(chunk)
            worker.hand(chunk, self._health.lethal)
        return chunks

    def _join(self, chunks: list[Chunk]) -> Packet:
        """Lend the slot of a finished batch; a copy of it to those who keep too many."""
        while self._ring.num_lent >= MOST_LENT and self._uploads.num_held:
            self._uploads.wait_for_one()
        full = self._ring.num_lent >= MOST_LENT
        images = self._ring.lend(chunks[0].task.slot)[:, : chunks[-1].task.stop].contiguous()
        parts = [chunk.part for chunk in chunks if chunk.part]
        return self._batches.join(chunks[0].task.batch, parts, images.clone() if full else images)

    def _lock_pages(self) -> None:
        """Let a device read the ring by itself, or say that batches are copied once more before it does."""
        if self._uploads.link is None:
            return
        try:
            self._ring.lock_pages(self._uploads.link)
        except (OSError, RuntimeError) as error:
            warnings.warn(
                f"data.workers: the {math.ceil(self._ring.num_bytes / 2**20)} MiB that decoding processes write into "
                f"cannot be page-locked ({first_line(error)}), so the trainer copies each batch once more on "
                "its way to the device: raise the limit of locked memory (ulimit -l), or lower data.workers or "
                "train.batch_size",
                VlpWarning,
                stacklevel=2,
            )

    # ---------------------------------------- answers, deaths, silence
    def _wait(self) -> None:
        """Wait until a process answers, dies, or has been silent for too long; do what follows from that."""
        busy = [worker for worker in self._workers if worker.chunks]
        patience = self._timeout - max(self._board.seconds(worker.place) for worker in busy)
        ready = set(wait([handle for worker in busy for handle in worker.handles], max(0.0, patience)))
        for worker in busy:
            if not ready.isdisjoint(worker.handles):
                self._listen(worker)
            # Asked anew: to replace one takes seconds, in which others may answer.
            elif self._board.seconds(worker.place) > self._timeout and not wait(worker.handles, 0):
                worker.dump_stack()
                self._replace(worker, f"no sample finished in {self._timeout:g} s")

    def _listen(self, worker: Worker) -> None:
        """Take the answers of a process, and replace it if it is dead."""
        alive = worker.process.is_alive()  # asked first: all that a dead process has answered is in the pipe by now
        for answer in worker.answers():
            self._take(worker, answer)
        if worker.hung_up or not alive:
            self._replace(worker)

    def _take(self, worker: Worker, answer: Reply) -> None:
        if answer.error is not None:
            raise answer.error
        chunk = worker.chunks.popleft()
        task = chunk.task
        chunk.part = self._ring.read_note(task.slot, task.start, answer.note_bytes)
        self._health.add(answer.seconds, task.stop - task.start)

    def _replace(self, worker: Worker, why: str = "") -> None:
        sample = self._board.sample(worker.place)
        ended = worker.forget()
        why = why or ended
        self._health.restarts += 1
        where = f" over sample {self._name(sample, why)}" if sample >= 0 else ""
        warnings.warn(
            f"a decoding process ended{where} ({why}); another takes its place (restart {self._health.restarts})",
            VlpWarning,
            stacklevel=2,
        )
        if worker.chunks:
            self._judge(worker.chunks[0], sample, why)
        self._start(worker)
        for chunk in worker.chunks:
            worker.hand(chunk, self._health.lethal)

    def _judge(self, chunk: Chunk, sample: int, why: str) -> None:
        """Find out whether a sample is lethal; give up where a chunk kills and no sample is to blame, or too many are.

        Raises:
            RecipeError: Too many processes died over this chunk.
        """
        lethal, deaths = self._health.lethal, chunk.deaths
        deaths.append(sample)
        if sample >= 0 and deaths.count(sample) == 2:
            lethal[sample] = f"two processes ended over it ({why})"
        unexplained = [sample for sample in deaths if sample not in lethal]
        if len(unexplained) < MOST_UNEXPLAINED and len(deaths) < MOST_DEATHS:
            return
        samples = [sample for sample in dict.fromkeys(deaths) if sample >= 0] or self._ids(chunk.task)
        raise RecipeError(
            f"data.workers: {len(deaths)} decoding processes ended, the last one {why}, over the samples "
            f"{', '.join(self._name(sample, why) for sample in samples)}: if memory is short, lower data.workers or "
            "train.batch_size; data.workers=0 decodes in the trainer and shows what a decoder says"
        )

    def _ids(self, task: Wanted) -> list[int]:
        positions = self._batches.positions(task.batch, task.start, task.stop)
        return [int(number) for number in self._batches.order.samples_at(positions)[1]]

    def _name(self, sample: int, why: str) -> str:
        fault = self._batches.samples.fault(sample, "killed_worker", why)
        return f"{sample} ({fault.shard}: {fault.key})"

    def _start(self, worker: Worker) -> None:
        context: Any = multiprocessing.get_context(self._method)
        ours, theirs = context.Pipe()
        self._board.write(worker.place, -1)
        process = context.Process(
            target=serve,
            name=f"vlp-decode-{worker.place}",
            args=(theirs, self._batches, self._ring, self._board, worker.place, os.getpid()),
            daemon=True,
        )
        try:
            process.start()
        except OSError as error:
            raise RecipeError(
                f"data.workers: a decoding process cannot be started ({error.strerror}): lower data.workers, or raise "
                "the limits on processes and memory"
            ) from error
        theirs.close()
        worker.process, worker.connection, worker.hung_up = process, ours, False


def _end(workers: list[Worker]) -> None:
    """Kill all at once: nothing that they do needs an end, and they hear no other signal."""
    started = [worker for worker in workers if worker.process is not None]
    for worker in started:
        worker.process.kill()
    for worker in started:
        worker.forget()
