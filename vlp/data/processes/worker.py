"""What a decoding process does, from its first line to its last; `workers.py` is the other end."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import os
import pickle
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection

import torch

from vlp.data.batches import LocalBatches
from vlp.data.faults import BadSampleError
from vlp.data.processes.ring import Board, Ring
from vlp.data.shards import waits

STDERR = 2
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15  # linux/prctl.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT_BYTES = 1 << 26  # a picture of 10 million pixels; memory of larger ones goes back at once


@dataclass(frozen=True)
class Wanted:
    """Rows of a slice that a process is asked for."""

    batch: int
    slot: int
    start: int
    stop: int


@dataclass(frozen=True)
class Reply:
    """What a process says of a task: the size of its note and the time it took, or what broke."""

    note_bytes: int = 0
    seconds: float = 0.0
    error: Exception | None = None


def serve(connection: Connection, batches: LocalBatches, ring: Ring, board: Board, place: int, trainer: int) -> None:
    """Answer tasks until the trainer hangs up.

    Args:
        connection: Brings tasks and the lethal samples known so far; takes answers.
        place: Number of this process on the board.
        trainer: Process to end with.
    """
    _end_with(trainer, f"vlp-decode-{place}")
    _listen_to_nobody_else()
    gc.freeze()  # a forked process must not tidy up what the trainer owns, least of all on its GPU
    _keep_freed_memory()
    ring = ring.map_anew()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    waits.tell(partial(board.wait, place))
    try:
        while True:
            task, lethal = connection.recv()
            connection.send(_answer(task, lethal, batches, ring, board, place))
    except (EOFError, ConnectionError):
        return


def _answer(task: Wanted, lethal: dict[int, str], batches: LocalBatches, ring: Ring, board: Board, place: int) -> Reply:
    def guard(sample: int) -> None:
        if sample in lethal:
            raise BadSampleError("killed_worker", lethal[sample])
        board.write(place, sample)

    started = time.monotonic()
    try:
        part = batches.part(task.batch, task.start, task.stop, ring[task.slot], guard)
        size = ring.write_note(task.slot, task.start, part)
    except Exception as error:
        return Reply(error=_portable(error))
    board.write(place, -1)
    return Reply(size, time.monotonic() - started)


def _portable(error: Exception) -> Exception:
    """Return an exception that arrives whole, with the traceback that a pipe would drop."""
    story = "".join(traceback.format_exception(error))
    error.add_note(f"in a decoding process:\n{story}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # what exceptions of libraries raise here is up to them
        return RuntimeError(story)
    return error


def _end_with(trainer: int, name: str) -> None:
    """Leave no orphan, even one that hangs or holds copies of pipes; elsewhere the end of its own pipe must do.

    The kernel watches the thread that has started this process: batches must be taken in one that lasts, or each
    process is started anew when its thread is gone.
    """
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        prctl(PR_SET_NAME, name.encode())
        if os.getppid() != trainer:
            os._exit(1)


def _keep_freed_memory() -> None:
    """Keep what every picture needs again: mapping and clearing it anew costs 20 us of a picture of 512 pixels."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library than GNU's
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(M_MMAP_THRESHOLD, KEPT_BYTES // 2)
            mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def _listen_to_nobody_else() -> None:
    """Go on decoding when a signal reaches the whole process group: the trainer saves first, then ends its workers."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable(STDERR)
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    faulthandler.register(signal.SIGUSR2, STDERR, chain=True)  # prints, then does what the signal does by default: end
