"""Phase G: from JPEGs on disk to optimizer steps, then one checkpoint and one evaluation."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.gpu.cases import Case, Finding, Setting
from benchmarks.gpu.feed import decoded
from benchmarks.gpu.jpegs import CARD, READY
from benchmarks.gpu.steps import TINY, drawn_on, synthetic_recipe
from benchmarks.gpu.timing import wait
from vlp import train
from vlp.recipe.schema import Recipe

WORKERS, TOY_WORKERS = (14, 8, 4), (2, 1)
BATCH, TOY_BATCH = 1024, 8
SECONDS, TOY_SECONDS = 6.0, 1.0
WARM_UP = 4
MOST_PATIENCE = 25.0  # seconds that the JPEGs may still take when this phase begins
WANTED_SHARE = 0.9
EXPECTED_SAVE = 8.0
SAME_STEP = "vlp ViT-B-32 @1,024"  # the case of phase C that reads no data
TASK = "photos-cc0"


def cases(setting: Setting) -> Iterator[Case]:
    """Yield one run per number of decoding processes, and what else a run does beside its steps."""
    yield Case("JPEGs of set A", lambda: jpegs(setting), "made meanwhile", seconds=MOST_PATIENCE + 10)
    for number in TOY_WORKERS if setting.is_toy else WORKERS:
        words = f">= {WANTED_SHARE:.0%} of the pairs/s of phase C" if number == max(WORKERS) else ""
        name = f"decoding processes: {number}"
        yield Case(name, lambda number=number: fed(setting, number), words, seconds=30, alone=True)
    few, needs = min(WORKERS), "" if setting.device == "cuda" else "CUDA, for nvJPEG"
    yield Case("nvJPEG beside the host's decoder", lambda: decoded(setting), "the same pictures", alone=True)
    yield Case(
        f"decoding processes: {few}, decoded on the device",
        lambda: fed(setting, few, "data.decode=device"),
        f"more pairs/s than with {few} that decode",
        seconds=30,
        alone=True,
        needs=needs,
    )
    words = f"checkpoint 4 to {EXPECTED_SAVE:.0f} s"
    yield Case(f"checkpoint, evaluation of {TASK}", lambda: aside(setting), words, seconds=40, alone=True)


def jpegs(setting: Setting) -> Finding:
    """Wait for the JPEGs."""
    ready, deadline = _jpegs(setting) / READY, time.monotonic() + MOST_PATIENCE
    while not ready.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no JPEGs: see {setting.scratch / 'jpegs.log'}")
        time.sleep(0.1)
    made = json.loads(ready.read_text(encoding="utf-8"))
    rate = made["samples"] / made["seconds"]
    shown = f"{made['samples']:,} of {made['bytes'] / made['samples'] / 1e3:.0f} kB in {made['seconds']:.1f} s"
    return Finding(f"{shown}, from {made['source']}", {**made, "per_second": rate})


@dataclass
class Timed:
    """Steps that were taken until there were enough."""

    seconds: float
    device: str
    step: int = 0
    started: float = 0.0
    ended: float = 0.0

    def before_step(self, step: int) -> None:
        """Begin to count behind the first steps; end the run when time is up.

        Raises:
            Enough: It is.
        """
        if step == WARM_UP:
            wait(self.device)
            self.started = time.monotonic()
        if self.started and time.monotonic() - self.started >= self.seconds:
            wait(self.device)
            self.ended, self.step = time.monotonic(), step
            raise Enough


class Enough(Exception):  # noqa: N818 (nothing is wrong)
    """The run has been watched long enough."""


def fed(setting: Setting, workers: int, *overrides: str) -> Finding:
    """Train on JPEGs for a while."""
    name = f"workers_{workers}" + ("_device" if overrides else "")
    recipe = _recipe(setting, name, f"data.workers={workers}", "log.every=5", *overrides)
    timed = Timed(TOY_SECONDS if setting.is_toy else SECONDS, setting.device)
    with (
        drawn_on(setting.device),
        _before_each_step(timed.before_step),
        _utilisation(setting) as busy,
        suppress(Enough),
    ):
        train.train(recipe)
    steps, seconds = timed.step - WARM_UP, timed.ended - timed.started
    rate = steps * recipe.train.batch_size / seconds
    lines = _metrics(recipe)[1:] or _metrics(recipe)
    waited = statistics.median(line["data_wait"] for line in lines) if lines else None
    alone = setting.earlier("C", SAME_STEP).get("pairs_per_second")
    share = rate / alone if alone and not setting.is_toy else None
    idle = None if share is None else max(0.0, 1 - share)
    numbers = {
        "pairs_per_second": rate,
        "steps": steps,
        "data_wait": waited,
        "idle_share": idle,
        "decode_rate": lines[-1]["decode_rate"] if lines else None,
        "utilisation": busy,
    }
    shown = f"{rate:,.0f} pairs/s" + ("" if waited is None else f", data_wait {waited:.0%}")
    shown += f", device busy {statistics.median(busy):.0f} %" if busy else ""
    notes = []
    if idle is not None and waited is not None and abs(idle - waited) > 0.15:
        notes.append(f"data_wait says {waited:.0%}, the device lacked work for {idle:.0%} of the time")
    missed = workers == max(WORKERS) and share is not None and share < WANTED_SHARE
    return Finding(shown, numbers, share=share, missed=missed, notes=tuple(notes))


def aside(setting: Setting) -> Finding:
    """Take a few steps, save, evaluate."""
    recipe = _recipe(
        setting, "aside", "data.workers=2", "train.steps=3", f"evaluation={{tasks: [{TASK}], every: null}}"
    )
    spent: dict[str, float] = {}
    with ExitStack() as patches:
        patches.enter_context(drawn_on(setting.device))
        for name in ("save_or_say", "evaluate"):
            timed = _timed(name, getattr(train, name), spent, setting.device)
            patches.enter_context(patch.object(train, name, timed))
        folder = train.train(recipe)
    saved = list((folder / "checkpoints").glob("step_*"))
    scores = list((folder / "evaluations").rglob("*.json"))
    size = sum(path.stat().st_size for path in (folder / "checkpoints").rglob("*") if path.is_file())
    problems = [name for name, found in (("no checkpoint", saved), ("no scores", scores)) if not found]
    shown = f"checkpoint {spent.get('save_or_say', 0):.1f} s for {size / 1e9:.2f} GB, "
    shown += f"evaluation {spent.get('evaluate', 0):.1f} s"
    missed = not setting.is_toy and spent.get("save_or_say", 0) > EXPECTED_SAVE
    shutil.rmtree(folder)
    return Finding(shown, {**spent, "bytes": size}, problems=tuple(problems), missed=missed)


def _jpegs(setting: Setting) -> Path:
    return setting.scratch / "jpegs"


def _recipe(setting: Setting, name: str, *overrides: str) -> Recipe:
    toy: Sequence[str] = (*TINY, "train.precision=float32") if setting.is_toy else ()
    return synthetic_recipe(
        "vitb32_clip",
        setting.scratch / "end_to_end",
        TOY_BATCH if setting.is_toy else BATCH,
        [f"data.train={{embedded: null, jpegs: {{card: {_jpegs(setting) / CARD}}}}}", *toy, *overrides],
        label=name,
    )


def _metrics(recipe: Recipe) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (recipe.folder / "metrics.jsonl").read_text().splitlines()]


@contextmanager
def _before_each_step(told: Callable[[int], None]) -> Iterator[None]:
    original = train.one_step

    def one_step(parts: Any, batch: Any, step: int, *, has_twins: bool | None = None) -> Any:
        told(step)
        return original(parts, batch, step, has_twins=has_twins)

    with patch.object(train, "one_step", one_step):
        yield


def _timed(name: str, function: Callable[..., Any], spent: dict[str, float], device: str) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        wait(device)
        started = time.monotonic()
        try:
            return function(*args, **kwargs)
        finally:
            wait(device)
            spent[name] = spent.get(name, 0.0) + time.monotonic() - started

    return timed


@contextmanager
def _utilisation(setting: Setting) -> Iterator[list[float]]:
    """Collect what `nvidia-smi dmon` says of the multiprocessors, each second; nothing where there is no such thing."""
    found: list[float] = []
    program = shutil.which("nvidia-smi")
    if setting.device == "cpu" or program is None:
        yield found
        return
    watcher = subprocess.Popen(
        [program, "dmon", "-s", "u", "-d", "1"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield found
    finally:
        watcher.terminate()
        said, _ = watcher.communicate()
        rows = [line.split() for line in said.splitlines() if not line.startswith("#")]
        found += [float(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()]
