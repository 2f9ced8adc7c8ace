"""Train in forked processes, where a start takes a second, and hold what a run left against one that nothing disturbed.

The caller imports torch once; every process of every training is a fork of it that runs nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.ports import free_port
from benchmarks.soak_loader import read_samples, spoil, write_samples
from vlp.data import Card
from vlp.ground import paths
from vlp.ground.provenance import commit, machine, versions
from vlp.ground.types import RecipeError
from vlp.ground.yaml import read_yaml
from vlp.recipe.compose import load_recipe
from vlp.recipe.model import build_model
from vlp.run import checkpoint
from vlp.train import PREEMPTED, train

REFUSED, CRASHED = 1, 70  # exit codes: ended with a line for the user, ended with a traceback
PATIENCE = 120.0  # a training takes a few seconds; one that says nothing for so long hangs
GRACE = 3.0  # what launchers grant the other processes once one has ended; torchrun gives ten times as much
NUM_SAMPLES, SPOILED = 21, 11
SHARDING = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}  # as recipes/launch/fsdp2.yaml sets it
TIMES = {
    "crc32",
    "seconds",
    "samples_per_second",
    "data_wait",
    "device_idle",
    "work_ahead",
    "decode_rate",
    "peak_memory_gb",
    "workers",
}
RECIPE = """
name: tiny
runs: {runs}
data: {{train: {{few: {{card: {card}}}}}, workers: {workers}, bad_sample_budget: 0.1}}
model:
  embed_dim: 16
  image: {{type: vit, layers: 1, width: 16, head_width: 8, patch_size: 16, image_size: 32, patch_dropout: 0.5}}
  text: {{type: transformer, layers: 1, width: 8, heads: 2, context_length: 16}}
objective: {{clip: {{}}, sogclr: {{weight: 0.1}}}}
strategies: {{ema: {{decay: 0.9}}}}
train: {{steps: {steps}, batch_size: 8, threads: 1}}
evaluation: {{weights: ema}}
checkpoint: {{every: {every}, keep: {keep}, background: {background}, sharded: {sharded}}}
log: {{every: 1}}
"""


@dataclass(frozen=True)
class Scene:
    """A folder with shards, a recipe and the one run that is made of it again and again.

    Args:
        folder: Made by `set_up`.
        ranks: Processes of each training.
        steps: Length of the run.
        sharded: Parameters are split over its processes.
    """

    folder: Path
    ranks: int
    steps: int
    sharded: bool = False

    @property
    def recipe(self) -> Path:
        """The recipe."""
        return self.folder / "recipe.yaml"

    @property
    def runs(self) -> Path:
        """What the run folder lies in; nothing else does."""
        return self.folder / "runs"

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.runs / "tiny"


def set_up(
    folder: Path,
    *,
    ranks: int,
    steps: int,
    every: int,
    keep: int,
    workers: int = 0,
    background: bool = False,
    sharded: bool = False,
    in_parts: bool = False,
) -> Scene:
    """Write shards with one spoiled sample, and a recipe that trains on them in a second.

    Args:
        background: Write checkpoints while training goes on.
        sharded: Split parameters over processes (FSDP2).
        in_parts: Let each process write its own part of a checkpoint.
    """
    source = paths.find_card("data", "embedded")
    first = Card.from_mapping(read_yaml(source), source).paths()[0]
    samples = read_samples(Path(str(first)))[:NUM_SAMPLES]
    samples[SPOILED] = spoil(samples[SPOILED], 0)
    folder.mkdir(parents=True, exist_ok=True)
    write_samples(folder / "00000.tar", samples)
    (folder / "card.yaml").write_text(f"name: few\nshards: {folder / '*.tar'}\n", encoding="utf-8")
    scene = Scene(folder, ranks, steps, sharded)
    text = RECIPE.format(
        runs=scene.runs,
        card=folder / "card.yaml",
        workers=workers,
        steps=steps,
        every=every,
        keep=keep,
        background=str(background).lower(),
        sharded=str(in_parts).lower(),
    )
    scene.recipe.write_text(text, encoding="utf-8")
    scene.runs.mkdir(exist_ok=True)
    return scene


def warm_up(scene: Scene) -> None:
    """Compute, before any fork, what every training of this scene needs and what does not depend on it."""
    torch.set_num_threads(1)
    os.environ.update(ACCELERATE_USE_CPU="true", HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")
    _ = commit(), machine(), versions(), build_model(load_recipe(str(scene.recipe)).model).tokenizer


# ---------------------------------------- one training
@dataclass(frozen=True)
class Ended:
    """How a training ended.

    Args:
        codes: Of each process; negative numbers are signals.
        said: What all of them wrote to the error stream.
        hung: Whether it had to be killed.
    """

    codes: tuple[int, ...]
    said: str
    hung: bool

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return set(self.codes) == {0}

    @property
    def preempted(self) -> bool:
        """Whether it left on a signal, its state saved."""
        return set(self.codes) == {PREEMPTED}

    @property
    def traceback(self) -> bool:
        """Whether a process fell over an error that nobody had put into words."""
        return CRASHED in self.codes


Prepare = Callable[[int, Sequence[int]], None]


@dataclass
class Training:
    """A training on its way: one forked process per rank.

    Args:
        prepare: Called in each process before it trains, with its rank and the processes of higher ranks.
    """

    scene: Scene
    log: Path
    prepare: Prepare | None = None
    pids: list[int] = field(default_factory=list)

    def start(self) -> Training:
        """Fork the processes, the first rank last, so that it knows the others."""
        port = free_port()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_bytes(b"")
        others: list[int] = []
        for rank in reversed(range(self.scene.ranks)):
            pid = os.fork()
            if pid == 0:
                _be_a_process(self, rank, port, others)
            with contextlib.suppress(OSError):  # the process does the same, whoever comes first
                os.setpgid(pid, pid)
            others.insert(0, pid)
        self.pids = others
        self._open = {pid: os.pidfd_open(pid) for pid in self.pids}
        self._codes: dict[int, int] = {}
        return self

    @property
    def running(self) -> list[int]:
        """Ranks that have not ended."""
        return [rank for rank, pid in enumerate(self.pids) if pid not in self._codes]

    @property
    def handles(self) -> list[int]:
        """What becomes readable when a process ends."""
        return list(self._open.values())

    def send(self, number: int, ranks: Sequence[int], *, with_workers: bool = False) -> None:
        """Send a signal to processes, and to those that decode for them if asked to."""
        for rank in ranks:
            if self.pids[rank] not in self._codes:
                with contextlib.suppress(ProcessLookupError):
                    (os.killpg if with_workers else os.kill)(self.pids[rank], number)

    def watch(self, seconds: float) -> None:
        """Wait so long, or until a process ends."""
        poll = select.poll()
        for handle in self._open.values():
            poll.register(handle, select.POLLIN)
        if self._open:
            poll.poll(max(0, round(1000 * seconds)))
        for pid in list(self._open):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._codes[pid] = os.waitstatus_to_exitcode(status)
                os.close(self._open.pop(pid))

    def wait(self) -> Ended:
        """Wait for the end as a launcher does: when one process fails, the others get a signal and little time.

        They get it too, later, where one has left on a signal of its own before it could tell the others.
        """
        deadline, hung, told, said = time.monotonic() + PATIENCE, False, False, 0
        while self._open:
            if set(self._codes.values()) - {0} and not told:  # perhaps one ended before this was called
                deadline = min(deadline, time.monotonic() + GRACE)
            self.watch(max(0.0, deadline - time.monotonic()))
            codes = set(self._codes.values()) - {0}
            if self._open and not told and (codes - {PREEMPTED} or (codes and time.monotonic() >= deadline)):
                told, deadline = True, time.monotonic() + GRACE
                self.send(signal.SIGTERM, self.running)
            if self._open and time.monotonic() >= deadline:
                before, said = said, self.log.stat().st_size
                if said > before and not told:  # slow, on a busy machine, but no hang
                    deadline = time.monotonic() + PATIENCE
                    continue
                hung = hung or not told
                self.send(signal.SIGKILL, self.running)
                deadline = time.monotonic() + PATIENCE
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # decoding processes that have not noticed yet
        return Ended(
            tuple(self._codes[pid] for pid in self.pids), self.log.read_text(encoding="utf-8", errors="replace"), hung
        )


def run_once(scene: Scene, log: Path, prepare: Prepare | None = None) -> Ended:
    """Start or continue the run, and wait for its end."""
    return Training(scene, log, prepare).start().wait()


def _be_a_process(training: Training, rank: int, port: int, others: Sequence[int]) -> None:
    """Train as one of the processes; never returns."""
    code = CRASHED
    try:
        os.setpgid(0, 0)
        output = os.open(training.log, os.O_WRONLY | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", 0, closefd=False), write_through=True)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if training.scene.ranks > 1:
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(training.scene.ranks))
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(training.scene.ranks))
        os.environ.update(SHARDING if training.scene.sharded else {})
        if training.prepare is not None:
            training.prepare(rank, others)
        code = _train(training.scene)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _train(scene: Scene) -> int:
    try:
        train(load_recipe(str(scene.recipe)), resume=True)
    except RecipeError as error:
        print(f"vlp: {error}", file=sys.stderr)
        return REFUSED
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else REFUSED
    return 0


# ---------------------------------------- the verdict
@dataclass(frozen=True)
class Reference:
    """What a run that nothing disturbed computed, bit for bit.

    Args:
        lines: Metrics by step.
        states: Digests of weights, averages, optimizer and all else that a checkpoint holds, by step and name.
        listed: Bad samples in the quarantine files, one entry per process that listed it.
    """

    lines: Mapping[int, Mapping[str, Any]]
    states: Mapping[int, Mapping[str, str]]
    listed: Sequence[str] = ()


def make_reference(folder: Path, *, ranks: int, steps: int, sharded: bool = False) -> Reference:
    """Train without a disturbance, keeping the state of every step, which the first process writes."""
    scene = set_up(folder, ranks=ranks, steps=steps, every=1, keep=steps, sharded=sharded)
    ended = run_once(scene, folder / "reference.log")
    if not ended.finished:
        raise RuntimeError(f"the undisturbed run ended with {ended.codes}:\n{ended.said}")
    lines, _ = read_lines(scene.run)
    return Reference({line["step"]: computed(line) for line in lines}, read_states(scene.run), read_listed(scene.run))


def differences(reference: Reference, run: Path, *, finished: bool) -> list[str]:
    """Say what a run computed otherwise than the reference; nothing where it is the same, bit for bit.

    Args:
        finished: Whether all steps must be there; otherwise what is there must be right.
    """
    lines, torn = read_lines(run)
    given = {
        f"checkpoint of step {step}": (reference.states.get(step, {}), own) for step, own in read_states(run).items()
    }
    given |= {
        f"metrics of step {line['step']}": (reference.lines.get(line["step"], {}), computed(line)) for line in lines
    }
    found = [
        f"{name} differs in {', '.join(wrong)}"
        for name, (wanted, own) in given.items()
        if (wrong := _names_of_differences(wanted, own))
    ]
    if finished:
        last = max(reference.states)
        newest = newest_step(run)
        found += [] if newest == last else [f"the newest whole checkpoint is that of step {newest}, not {last}"]
        steps = [line["step"] for line in lines]
        found += [] if steps == sorted(reference.lines) else [f"metrics of the steps {steps}"]
        found += ["a torn line of metrics"] if torn else []
        if set(listed := read_listed(run)) != set(reference.listed):
            found.append(f"in quarantine: {', '.join(listed) or 'nothing'}")
    return found


def newest_step(run: Path) -> int:
    """Return the step of the newest whole checkpoint, 0 where there is none."""
    return max((found.step for found in whole_checkpoints(run)), default=0)


def whole_checkpoints(run: Path) -> Iterator[checkpoint.Checkpoint]:
    """Yield the checkpoints of a run whose files are all whole."""
    for path in sorted((run / "checkpoints").glob("step_*")):
        with contextlib.suppress(RecipeError):
            yield checkpoint.open_checkpoint(path)


def read_states(run: Path) -> dict[int, dict[str, str]]:
    """Return digests of all that each whole checkpoint holds, by step and name."""
    return {found.step: digests_of(found) for found in whole_checkpoints(run)}


def digests_of(found: checkpoint.Checkpoint) -> dict[str, str]:
    """Return digests of the values in a checkpoint, by name."""
    parts = {
        "position": found.position,
        **found.training(),
        **{label: found.weights(label) for label in found.labels()},
    }
    digests = {}
    for name, part in parts.items():
        digest = hashlib.sha256()
        _feed(digest, part)
        digests[name] = digest.hexdigest()
    return digests


def read_listed(run: Path) -> list[str]:
    """Return the keys of the samples that quarantine files list, an entry per line."""
    lines = [line for path in sorted(run.glob("quarantine*.jsonl")) for line in path.read_bytes().splitlines()]
    return sorted(f"{fault['key']} {fault['reason']}" for fault in map(json.loads, lines))


def read_lines(run: Path) -> tuple[list[dict[str, Any]], bool]:
    """Return the lines of metrics that can be read, and whether there are others."""
    path = run / "metrics.jsonl"
    lines, torn = [], False
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            torn = True
    return lines, torn


def _names_of_differences(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    return [name for name in sorted(wanted.keys() | given.keys()) if wanted.get(name) != given.get(name)]


def computed(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a line does not depend on the time that things took, floats in hex."""
    return {
        name: value.hex() if isinstance(value, float) else value for name, value in line.items() if name not in TIMES
    }


def _feed(digest: Any, thing: Any) -> None:
    """Add a value, and all that it holds, to a digest."""
    digest.update(
        ("list" if isinstance(thing, tuple) else type(thing).__name__).encode()
    )  # loading makes lists of some
    if isinstance(thing, Mapping):
        for name in sorted(thing, key=str):
            digest.update(repr(name).encode())
            _feed(digest, thing[name])
    elif isinstance(thing, list | tuple):
        for part in thing:
            _feed(digest, part)
    elif isinstance(thing, Tensor):
        digest.update(f"{thing.dtype}{tuple(thing.shape)}".encode())
        digest.update(thing.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    else:
        digest.update((thing.hex() if isinstance(thing, float) else repr(thing)).encode())
