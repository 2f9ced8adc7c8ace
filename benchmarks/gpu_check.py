"""Does everything run on this GPU, is it right, and is it as fast as it should be? One command, under eight minutes.

    python -m benchmarks.gpu_check
    python -m benchmarks.gpu_check --device cpu        # the same code at the size of toys, for a rehearsal

Every phase runs in a process of its own with a limit of time; every case leaves a line in a results file at once. The
report is written again after every phase. The exit status is 0 only where nothing failed.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from benchmarks.gpu.cases import CUT, SKIPPED, UNREACHED, Row, read
from benchmarks.gpu.report import has_failed, missed, short_table, verdict, write_report
from benchmarks.gpu.wheels import unpack
from vlp.ground.provenance import commit, machine, versions

ROOT = Path(__file__).resolve().parent.parent
TOTAL_SECONDS = 470.0
FEWEST_SECONDS = 10.0  # that a phase without a limit of its own needs to begin
CPU_PATIENCE = 6.0  # a phase takes longer on few cores than its limit on a GPU
GRACE_SECONDS = 5.0
SHADOW_SECONDS = 25.0
MEASURED_WITHOUT = "A"  # what runs before anything else may use the processors
TAIL_LINES = 12
JPEGS, TOY_JPEGS = 8192, 64


@dataclass(frozen=True)
class Phase:
    """A part of the check.

    Args:
        seconds: Its limit; None for what is left of the whole.
        is_long: Whether the terminal only counts the cases that passed.
        interprets: Whether kernels run on a CPU too, in Triton's interpreter, which is chosen before the import.
    """

    letter: str
    title: str
    module: str
    seconds: float | None
    is_long: bool = False
    interprets: bool = False


PHASES = (
    Phase("A", "the machine", "benchmarks.gpu.machine", 20, interprets=True),
    Phase("B", "training", "benchmarks.gpu.training", 75),
    Phase("C", "throughput", "benchmarks.gpu.throughput", 110),
    Phase("D", "terms and strategies", "benchmarks.gpu.terms", 60, is_long=True),
    Phase("E", "losses", "benchmarks.gpu.losses", 90),
    Phase("F", "tests that need a GPU", "benchmarks.gpu.marked_tests", 45),
    Phase("G", "end to end", "benchmarks.gpu.end_to_end", 60),
    Phase("H", "variants", "benchmarks.gpu.variants", None, interprets=True),
)
FED = "G"
"""The phase that reads JPEGs; they are made while the first phase behind `MEASURED_WITHOUT` runs."""


def main(arguments: Sequence[str] | None = None, phases: Sequence[Phase] = PHASES) -> int:
    """Carry out the phases; return 0 where nothing failed, and 1 otherwise."""
    parsed = build_parser().parse_args(arguments)
    chosen = [phase for phase in phases if not parsed.phases or phase.letter in parsed.phases]
    scratch = (parsed.scratch or Path("runs") / f"gpu_check_{datetime.datetime.now():%Y%m%d_%H%M%S}").resolve()
    if (scratch / "results.jsonl").exists():
        sys.exit(f"--scratch: {scratch} holds an earlier check, whose runs are in the way: name a new folder")
    scratch.mkdir(parents=True, exist_ok=True)
    check = Check(parsed, chosen, scratch)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # whoever cuts us short still gets the report
    try:
        check.run()
    finally:
        signal.signal(signal.SIGTERM, before)
        page, rows = check.report(), read(check.results)
        print(f"\n{short_table(rows, [phase.letter for phase in chosen if phase.is_long])}\n")
        print(f"{verdict(rows)} {missed(rows)} worse than expected. {page}", flush=True)
    return int(has_failed(rows))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="default: %(default)s")
    parser.add_argument("--phases", nargs="+", metavar="LETTER", help="default: all")
    parser.add_argument("--wheels", type=Path, default=ROOT / "wheels", help="packages that are not installed here")
    parser.add_argument("--to", type=Path, default=ROOT / "benchmarks" / "reports", help="folder of the report")
    parser.add_argument("--results", type=Path, help="file that gets a line per case; default: in --scratch")
    parser.add_argument("--scratch", type=Path, help="a folder of this check alone; default: a new one under runs")
    parser.add_argument("--commit", help="of the source, where this is no checkout")
    return parser


class Check:
    """One run of the check."""

    def __init__(self, parsed: argparse.Namespace, phases: Sequence[Phase], scratch: Path):
        self.parsed, self.phases, self.scratch = parsed, phases, scratch
        self.results: Path = (parsed.results or scratch / "results.jsonl").resolve()
        self.results.parent.mkdir(parents=True, exist_ok=True)
        self.results.unlink(missing_ok=True)
        self.is_toy = parsed.device == "cpu"
        self.patience = CPU_PATIENCE if self.is_toy else 1.0
        self.started = time.monotonic()
        site = scratch / "site"
        for line in unpack(parsed.wheels, site):
            print(line, flush=True)
        self.environment = environment(parsed.device, scratch, [ROOT, *([site] if site.exists() else [])])
        self.shadow: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Carry out phase after phase, whatever becomes of each."""
        is_fed = any(phase.letter == FED for phase in self.phases)
        try:
            for phase in self.phases:
                if is_fed and self.shadow is None and phase.letter != MEASURED_WITHOUT:
                    self.shadow = self._make_jpegs()
                    self._carry_out(phase)
                    self._finish_jpegs()
                else:
                    self._carry_out(phase)
                self.report()
        finally:
            if self.shadow is not None:
                end(self.shadow)

    def report(self) -> Path:
        """Write the page about all results so far."""
        rows = read(self.results)
        told: dict[str, Any] = next((row["numbers"] for row in rows if row["case"] == "versions"), {})
        about = {
            "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
            "commit": self.parsed.commit or commit(),
            "machine": told.get("device", machine()),
            "versions": told.get("versions", versions()),
            "device": self.parsed.device,
            "seconds": round(time.monotonic() - self.started, 1),
            "command": again(self.parsed),
        }
        return write_report(self.parsed.to, about, {phase.letter: phase.title for phase in self.phases}, rows)

    def _limit(self, phase: Phase) -> float:
        if phase.seconds is not None:
            return phase.seconds * self.patience
        return TOTAL_SECONDS * self.patience - (time.monotonic() - self.started)

    def _carry_out(self, phase: Phase) -> None:
        limit = self._limit(phase)
        if limit < FEWEST_SECONDS and phase.seconds is None:
            late = Row(phase.letter, phase.title, SKIPPED, measured="needs more time than is left")
            late.append_to(self.results)
            return
        print(f"\n{phase.letter}: {phase.title}, at most {limit:.0f} s", flush=True)
        command = [sys.executable, "-m", "benchmarks.gpu.runner", phase.module, "--phase", phase.letter]
        command += ["--device", self.parsed.device, "--scratch", str(self.scratch), "--results", str(self.results)]
        log = self.scratch / f"{phase.letter}.log"
        with log.open("wb") as errors:
            more = {"TRITON_INTERPRET": "1"} if phase.interprets and self.is_toy else {}
            process = self._start([*command, "--patience", str(self.patience)], errors, more=more)
            try:
                process.wait(timeout=limit)
                status, why = UNREACHED, f"the phase ended with exit code {process.returncode}"
            except subprocess.TimeoutExpired:
                status, why = CUT, f"the phase took longer than {limit:.0f} s"
            finally:
                end(process)
        self._account_for(phase, status, why, log)

    def _account_for(self, phase: Phase, status: str, why: str, log: Path) -> None:
        """Say of every case of a phase that has no result why it has none; of the phase, where it named no case."""
        own = [Row(**row) for row in read(self.results) if row["phase"] == phase.letter]
        lines = log.read_text(errors="replace").strip().splitlines()[-TAIL_LINES:]
        for row in own or [Row(phase.letter, phase.title, UNREACHED, notes=lines)]:
            if row.status == UNREACHED:
                row.status, row.measured = status, why
                row.append_to(self.results)
                print(f"{row.phase}  {row.status:8s} {row.case}: {why}", flush=True)

    def _make_jpegs(self) -> subprocess.Popen[bytes]:
        samples = TOY_JPEGS if self.is_toy else JPEGS
        processes = 1 if self.is_toy else max(1, (os.cpu_count() or 2) - 1)
        command = [sys.executable, "-m", "benchmarks.gpu.jpegs", str(self.scratch / "jpegs")]
        (self.scratch / "jpegs").mkdir(exist_ok=True)
        with (self.scratch / "jpegs.log").open("wb") as log:
            return self._start([*command, "--samples", str(samples), "--processes", str(processes)], log, log)

    def _finish_jpegs(self) -> None:
        """Let nothing run beside what is measured next."""
        assert self.shadow is not None, "it was started"
        with suppress(subprocess.TimeoutExpired):
            self.shadow.wait(timeout=SHADOW_SECONDS * self.patience)
        end(self.shadow)

    def _start(
        self,
        command: Sequence[str],
        errors: IO[bytes],
        output: IO[bytes] | None = None,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )


def environment(device: str, scratch: Path, folders: Sequence[Path]) -> dict[str, str]:
    """Return the environment of every phase; compiled kernels are kept for the phases that follow."""
    found = dict(os.environ)
    paths = [str(folder) for folder in folders] + ([found["PYTHONPATH"]] if found.get("PYTHONPATH") else [])
    found |= {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TRITON_CACHE_DIR": str(scratch / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # so that asking for a device does not forbid to fork
    }
    if device == "cpu":
        found |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    return found


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process, which ends its children when asked, and is killed when it does not."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE_SECONDS)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def again(parsed: argparse.Namespace) -> str:
    """Return the command line that repeats the check on any machine."""
    words = ["python", "-m", "benchmarks.gpu_check"]
    words += ["--device", parsed.device] if parsed.device != "cuda" else []
    words += ["--phases", *parsed.phases] if parsed.phases else []
    return shlex.join(words)


if __name__ == "__main__":
    sys.exit(main())
