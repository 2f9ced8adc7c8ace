"""What a run says: a progress line for people, `metrics.jsonl` for programs, trackers where asked for."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tqdm import tqdm

Track = Callable[[dict[str, float], int], None]


class Log:
    """Write metrics and draw the progress; on processes other than the first it does nothing.

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
        self.file = path.open("a", encoding="utf-8")
        self.bar = tqdm(
            total=num_steps,
            initial=first_step,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
            mininterval=1.0,
            file=sys.stderr,
        )

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken, earlier starts included."""
        return self.earlier_seconds + time.monotonic() - self.started

    def step(self) -> None:
        """Move the progress by one step."""
        if self.is_main:
            self.bar.update()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line of metrics and hand it to the trackers."""
        if not self.is_main:
            return
        line = {"step": step, "seconds": round(self.seconds, 3), **metrics}
        self.file.write(json.dumps({key: _plain(value) for key, value in line.items()}) + "\n")
        self.file.flush()
        self._tell_trackers(step, {key: value for key, value in metrics.items() if _plain(value) is not None})

    def show(self, metrics: Mapping[str, float], note: str = "") -> None:
        """Show metrics, and a note, behind the progress bar."""
        if self.is_main:
            shown = " ".join(f"{_short(key)} {value:.4g}" for key, value in metrics.items())
            self.bar.set_postfix_str(f"{shown} ({note})" if note else shown)

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        if self.is_main:
            self.bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Finish the file and the bar."""
        if self.is_main:
            self.file.close()
            self.bar.close()

    def _tell_trackers(self, step: int, metrics: dict[str, float]) -> None:
        if self.track is None:
            return
        try:
            self.track(metrics, step)
        except Exception as error:  # a broken tracker must not cost a run
            self.say(f"trackers are off from here on: {error}")
            self.track = None


def _keep_until(path: Path, step: int) -> float:
    """Drop lines after `step` (the run goes back to its checkpoint); return the seconds of the last line kept."""
    if not path.exists():
        return 0.0
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # the line being written when the run was killed
        if record["step"] <= step:
            kept.append(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
    return max((record["seconds"] for record in kept), default=0.0)


def _plain(value: float) -> float | None:
    """Return a JSON number; NaN and infinities are null."""
    return value if math.isfinite(value) else None


def _short(key: str) -> str:
    return {"samples_per_second": "pairs/s", "data_wait": "wait", "gradient_norm/image": "|g|img",
            "gradient_norm/text": "|g|txt", "learning_rate": "lr"}.get(key, key)  # fmt: skip
