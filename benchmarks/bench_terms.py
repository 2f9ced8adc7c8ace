"""Time and memory of every registered term, forward and backward, beside open_clip's losses in the same run.

Time is user CPU time of this process, so that a shared machine does not blur it (on an accelerator: wall-clock time
around a synchronisation). Peak memory is that of a fresh process per case, above what its inputs take.

    python benchmarks/bench_terms.py --pairs 1024 4096 --report benchmarks/reports/terms_cpu.json
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import open_clip
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor
from torch.nn import functional

from vlp.objectives.base import Objective, terms
from vlp.pairs import Pairs
from vlp.types import Embeddings

Step = Callable[[], object]
PEERS = ["open_clip.ClipLoss", "open_clip.SigLipLoss"]
WARM_UPS = 3


def draw_leaves(num_pairs: int, dim: int, device: str) -> list[Tensor]:
    """Draw images, texts, scale and bias with gradient."""
    generator = torch.Generator().manual_seed(0)
    features = [functional.normalize(torch.randn(num_pairs, dim, generator=generator), dim=1) for _ in range(2)]
    return [leaf.to(device).requires_grad_() for leaf in (*features, torch.tensor(1 / 0.07), torch.tensor(-10.0))]


def make_step(name: str, num_pairs: int, dim: int, device: str) -> Step:
    """Return one forward and backward pass of a term or of a peer."""
    image, text, scale, bias = leaves = draw_leaves(num_pairs, dim, device)
    if name == "open_clip.ClipLoss":
        clip = ClipLoss()
        return lambda: clip(image, text, scale).backward()
    if name == "open_clip.SigLipLoss":
        siglip = SigLipLoss()
        return lambda: siglip(image, text, scale, bias).backward()
    objective = Objective({name: (terms.build(name, {}), lambda _: 1.0)})
    ids = torch.arange(num_pairs, device=device)
    reference = draw_leaves(num_pairs, dim, device)[0].detach() if "reference" in objective.needs else None

    def step() -> None:
        loss, _ = objective(Pairs(Embeddings(*leaves, reference=reference), ids, ids), 0)
        loss.backward()

    return step


def seconds_of(step: Step, device: str) -> float:
    """Return the cost of one step."""
    if device == "cuda":
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        return time.perf_counter() - start
    start = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime - start


def time_all(names: list[str], num_pairs: int, args: argparse.Namespace) -> dict[str, list[float]]:
    """Time all cases in turns, so that a change of the machine's mood meets them all."""
    steps = {name: make_step(name, num_pairs, args.dim, args.device) for name in names}
    for step in steps.values():
        for _ in range(WARM_UPS):
            step()
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(args.repeats):
        for name, step in steps.items():
            times[name].append(seconds_of(step, args.device))
    return times


def measure_peak(name: str, num_pairs: int, dim: int, device: str) -> float:
    """Return the MB that one step takes at its peak; meant for a process of its own."""
    make_step(name, 64, dim, device)()
    step = make_step(name, num_pairs, dim, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before = memory_mb("VmRSS")
    step()
    return memory_mb("VmHWM") - before


def memory_mb(field: str) -> float:
    """Return a field of this process's memory accounts (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith(field))


def peak_in_fresh_process(name: str, num_pairs: int, args: argparse.Namespace) -> float:
    """Run `measure_peak` where nothing else has touched memory."""
    flags = ["--peak", name, "--pairs", str(num_pairs), "--dim", str(args.dim), "--device", args.device]
    flags += ["--threads", str(args.threads)]
    run = subprocess.run([sys.executable, __file__, *flags], check=True, capture_output=True, text=True)
    return float(run.stdout.split()[-1])


def rows_of(num_pairs: int, args: argparse.Namespace) -> list[dict[str, object]]:
    """Time and measure every case at one batch size, and print it."""
    names = [*PEERS, *terms]
    times = time_all(names, num_pairs, args)
    clip = statistics.median(times[PEERS[0]])
    rows = []
    for name in names:
        tenths = statistics.quantiles(times[name], n=10, method="inclusive")
        low, middle, high = (1e3 * tenths[k] for k in (0, 4, 8))
        peak = peak_in_fresh_process(name, num_pairs, args)
        ratio = statistics.median(times[name]) / clip
        rows.append(
            {"term": name, "pairs": num_pairs, "ms": middle, "p10": low, "p90": high, "to_clip": ratio, "peak_mb": peak}
        )
        print(
            f"{name:22s} {num_pairs:7d} {middle:9.1f} ms  {low:.1f}..{high:.1f}  x{ratio:.2f}  {peak:7.0f} MB",
            flush=True,
        )
    return rows


def main() -> None:
    """Print one line per case; write a report where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--report", type=Path)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        print(measure_peak(args.peak, args.pairs[0], args.dim, args.device))
        return
    rows = [row for num_pairs in args.pairs for row in rows_of(num_pairs, args)]
    if args.report:
        record = {
            "date": date.today().isoformat(),
            "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
            "versions": {"torch": torch.__version__, "open_clip": open_clip.__version__},
            "machine": f"{platform.machine()} {torch.cuda.get_device_name() if args.device == 'cuda' else 'cpu'}",
            "args": {"dim": args.dim, "repeats": args.repeats, "threads": args.threads, "device": args.device},
            "time": "user CPU" if args.device == "cpu" else "wall",
            "rows": rows,
        }
        args.report.parent.mkdir(parents=True, exist_ok=True)
        args.report.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
