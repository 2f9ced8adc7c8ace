"""What the cross-entropy of a decoder's vocabulary costs in time and memory, beside the plain form, on the CPU.

    python -m benchmarks.bench_captioning
    python -m benchmarks.bench_captioning --quick --to runs/try

States of captions, CLIP's vocabulary, one loss per token, forward and backward, in float32 on one thread. Every case is
a process of its own; rounds go through all of them in turn. `plain` multiplies and calls `cross_entropy`, which keeps
all logits; `torch` is torch's own chunked form, where this version has it; `vlp` is what training uses. Seconds are of
processor time; memory is what the process takes at most beyond states, weights, a gradient of the states and libraries.
A case that would need more memory than the machine has to spare is left out.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.dated_report import command_line, write_page
from benchmarks.quick import add_quick, settle
from benchmarks.tables import Table, markdown, spread
from vlp.towers.linear_cross_entropy import linear_cross_entropy

WORDS = 49_408
FULL = [(1_024, 512), (4_096, 512), (65_536, 128)]  # tokens, width: the last are 4,096 captions of 16
QUICK = [(256, 64)]
COPIES = 3  # of all logits that the plain form has at once
Form = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Return the losses of logits that are all kept."""
    return functional.cross_entropy(hidden @ weight, labels, reduction="none")


def chunked(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Return what torch's own chunked form says, of versions that have one."""
    options: Any = torch.nn.LinearCrossEntropyOptions()  # type: ignore[attr-defined]
    found: Tensor = functional.linear_cross_entropy(  # type: ignore[attr-defined]
        hidden, weight.T, labels, reduction="none", options=options
    )
    return found


FORMS: dict[str, Form] = {"plain": plain, "vlp": linear_cross_entropy}
if hasattr(functional, "linear_cross_entropy"):
    FORMS["torch"] = chunked


def measure(form: str, tokens: int, width: int) -> dict[str, float]:
    """Return seconds of the forward and of both passes, and the bytes that they took at most, of one first call."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = (torch.randn(width, WORDS) * width**-0.5).requires_grad_()
    labels = torch.randint(WORDS, (tokens,))
    small = torch.zeros(2, width, requires_grad=True)  # loads kernels
    FORMS[form](small, weight, labels[:2]).sum().backward()
    hidden.grad = torch.zeros_like(hidden)
    before, started = _peak(), time.process_time()
    losses = FORMS[form](hidden, weight, labels)
    forward = time.process_time() - started
    losses.mean().backward()
    seconds = time.process_time() - started
    return {"forward": forward, "seconds": seconds, "bytes": float(_peak() - before), "loss": losses.mean().item()}


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure case after case, round after round, and write a report."""
    parsed = settle(build_parser().parse_args(arguments))
    if parsed.case:
        form, tokens, width = parsed.case
        print(json.dumps(measure(form, int(tokens), int(width))))
        return
    cases = [(form, *sizes) for sizes in parsed.sizes for form in FORMS if _fits(form, *sizes)]
    found: dict[tuple[str, int, int], list[dict[str, float]]] = {case: [] for case in cases}
    for number in range(parsed.rounds):
        for case in cases:
            found[case].append(_in_a_process(case))
            print(f"round {number + 1}: {case} {found[case][-1]['seconds']:.2f} s", file=sys.stderr)
    words = command_line("bench_captioning", arguments)
    sections = [" ".join((__doc__ or "").strip().split("\n\n")[-1].split()), markdown(table(found))]
    cells = [{"form": case[0], "tokens": case[1], "width": case[2], "rounds": each} for case, each in found.items()]
    page = write_page(parsed.to, "captioning", "The vocabulary's cross-entropy", words, sections, cells)
    print(f"{markdown(table(found))}\n-> {page}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m benchmarks.bench_captioning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--to", type=Path, default=Path("benchmarks/reports"), help="default: %(default)s")
    parser.add_argument("--case", nargs=3, metavar=("FORM", "TOKENS", "WIDTH"), help=argparse.SUPPRESS)
    parser.set_defaults(sizes=FULL)
    add_quick(parser, sizes=QUICK, rounds=1)
    return parser


def table(found: dict[tuple[str, int, int], list[dict[str, float]]]) -> Table:
    """Return a row for each case."""
    rows = [["form", "tokens", "width", "forward, s", "forward and backward, s", "memory, MB"]]
    for (form, tokens, width), rounds in found.items():
        seconds = [spread([each[name] for each in rounds]) for name in ("forward", "seconds")]
        megabytes = max(each["bytes"] for each in rounds) / 1e6
        rows.append([form, f"{tokens:,}", str(width), *seconds, f"{megabytes:,.0f}"])
    return rows


def _fits(form: str, tokens: int, width: int) -> bool:
    needed = COPIES * 4 * tokens * WORDS if form == "plain" else 4 * tokens * width
    return needed < 0.5 * _available()


def _available() -> int:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def _in_a_process(case: tuple[str, int, int]) -> dict[str, float]:
    words = [sys.executable, "-m", "benchmarks.bench_captioning", "--case", *map(str, case)]
    found: dict[str, float] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return found


if __name__ == "__main__":
    main()
