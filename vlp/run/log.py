"""What a run says: progress for people, `metrics.jsonl` for programs, trackers where asked for."""

from __future__ import annotations

import contextlib
import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vlp.ground.files import Records, read_records, write_whole
from vlp.ground.types import RecipeError, VlpWarning

SECONDS_BETWEEN_LINES = 30.0  # where no terminal shows a bar
SHORT = {
    "samples_per_second": "pairs/s",
    "data_wait": "wait",
    "device_idle": "idle",
    "peak_memory_gb": "GB",
    "gradient_norm/image": "|g|img",
    "gradient_norm/text": "|g|txt",
    "learning_rate": "lr",
}
Track = Callable[[dict[str, float], int], None]


class Log:
    """Write metrics and show the progress; on processes other than the first it does nothing.

    A terminal shows a bar; a file gets a plain line now and then, with the same words.

    Args:
        path: `metrics.jsonl`; continued when it exists.
        num_steps: Length of the run.
        first_step: Steps done before this start; later lines of an interrupted run are dropped.
        is_main: Whether this process speaks.
        track: Hands metrics to trackers; a failure there is told once and never stops a run.
    """

    def __init__(self, path: Path, *, num_steps: int, first_step: int, is_main: bool, track: Track | None):
        self.is_main = is_main
        self.track = track
        self.started = time.monotonic()
        self.earlier_seconds = 0.0
        if not is_main:
            return
        self.earlier_seconds = _keep_until(path, first_step)
        self.first_step, self.done, self.num_steps = first_step, first_step, num_steps
        self.records = Records(path, self.say)
        self.stderr = _Patient()
        self.shown_at = -math.inf
        self.bar = tqdm(
            disable=not _is_terminal(),
            total=num_steps,
            initial=first_step,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
            mininterval=1.0,
            file=self.stderr,
        )

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken, earlier starts included."""
        return self.earlier_seconds + time.monotonic() - self.started

    def step(self) -> None:
        """Move the progress by one step."""
        if self.is_main:
            self.done += 1
            self.bar.update()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line of metrics and hand it to the trackers."""
        if not self.is_main:
            return
        line = {"step": step, "seconds": round(self.seconds, 3), **metrics}
        self.records.add([{key: _plain(value) for key, value in line.items()}])
        self._tell_trackers(step, {key: value for key, value in metrics.items() if _plain(value) is not None})

    def show(self, metrics: Mapping[str, float], note: str = "") -> None:
        """Show metrics, and a note, behind the progress bar or in a line of their own."""
        if not self.is_main:
            return
        shown = " ".join(f"{_short(key)} {value:.4g}" for key, value in metrics.items())
        shown = f"{shown} ({note})" if note else shown
        if not self.bar.disable:
            self.bar.set_postfix_str(shown)
        elif time.monotonic() - self.shown_at >= SECONDS_BETWEEN_LINES or self.done == self.num_steps:
            self.shown_at = time.monotonic()
            self.say(f"step {self.done}/{self.num_steps}{self._time_left()}: {shown}")

    def _time_left(self) -> str:
        steps, left = self.done - self.first_step, self.num_steps - self.done
        if not steps or not left:
            return ""
        seconds = left * (time.monotonic() - self.started) / steps
        return f", {tqdm.format_interval(seconds)} left"

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        if self.is_main:
            self.bar.write(text, file=self.stderr)

    def close(self) -> None:
        """Write what still waits, and finish the bar."""
        if self.is_main:
            self.records.add([])
            if self.records.num_waiting:
                self.say(f"{self.records.num_waiting} lines of {self.records.path} are lost")
            self.bar.close()

    def _tell_trackers(self, step: int, metrics: dict[str, float]) -> None:
        if self.track is None:
            return
        try:
            self.track(metrics, step)
        except Exception as error:  # a broken tracker must not cost a run
            self.say(f"trackers are off from here on: {error}")
            self.track = None


class _Patient:
    """Standard error, in which a write that fails (a file on a full disk) does not end the run."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, OSError, ValueError):  # somebody else's, or closed
        return False


def _keep_until(path: Path, step: int) -> float:
    """Drop lines after `step` (the run goes back to its checkpoint); return the seconds of the last line kept.

    Raises:
        RecipeError: The file cannot be read or written; it is as it was.
    """
    try:
        return _cut(path, step)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be cut to step {step} ({error}); make room, and resume again") from error


def _cut(path: Path, step: int) -> float:
    records, others = read_records(path, _is_metrics)
    if others:
        warnings.warn(f"{path}: dropped {others} torn or foreign lines", VlpWarning, stacklevel=3)
    kept = {line: record for line, record in records.items() if record["step"] <= step}
    content = b"".join(line + b"\n" for line in kept)
    if path.is_file() and path.read_bytes() != content:
        with write_whole(path) as file:
            file.write(content)
    return max((record["seconds"] for record in kept.values()), default=0.0)


def _is_metrics(record: Mapping[str, Any]) -> bool:
    step: Any = record.get("step")
    seconds: Any = record.get("seconds")
    return type(step) is int and type(seconds) in (int, float) and math.isfinite(seconds)


def _plain(value: float) -> float | None:
    """Return a JSON number; NaN and infinities are null."""
    return value if math.isfinite(value) else None


def _short(key: str) -> str:
    return SHORT.get(key, key)
