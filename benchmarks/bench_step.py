"""What a whole training step costs on the CPU, beside open_clip's own training loop on the same captions, in turns.

    python -m benchmarks.bench_step
    python -m benchmarks.bench_step --quick --to runs/try

A step is all that `vlp.train` does between a batch and moved weights: augmentation, both towers, the loss, backward,
norms and clipping, AdamW, averaged weights. open_clip's is `open_clip_train.train.train_one_epoch`, with images that
are normalised already, without clipping and averages. Both have one thread, float32 and the same captions of the
shipped pairs; open_clip pads them to 77 tokens. Neither side's reading of data counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean

import torch
from torch.nn import functional
from tqdm import tqdm

from benchmarks.dated_report import command_line, write_page
from benchmarks.gpu.peer_steps import CONTEXT, PeerEpoch
from benchmarks.gpu.steps import TINY, synthetic_parts
from benchmarks.quick import add_quick, settle
from benchmarks.step_report import STEPS, Case, Found, sections, table
from benchmarks.tables import markdown
from vlp import train
from vlp.ground.types import Batch

BATCHES = 8  # different ones, from the shipped pairs
FULL = (Case("ViT-S-32", 32, 1.9), Case("ViT-B-32", 16, 1.5))
QUICK = [Case(None, 8, 1.0)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure case after case, and write a report."""
    parsed = settle(build_parser().parse_args(arguments))
    torch.set_num_threads(1)
    found = []
    for case in parsed.cases:
        with tempfile.TemporaryDirectory() as scratch:
            found.append(measure(case, parsed.rounds, Path(scratch)))
    words = command_line("bench_step", arguments)
    page = write_page(parsed.to, "step", "Training steps", words, sections(found), [asdict(each) for each in found])
    print(f"{markdown(table(found))}\n-> {page}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m benchmarks.bench_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=6, help=f"of {STEPS} steps each; default: %(default)s")
    parser.add_argument("--to", type=Path, default=Path("benchmarks/reports"), help="default: %(default)s")
    parser.set_defaults(cases=FULL)
    add_quick(parser, cases=QUICK, rounds=2)
    return parser


def measure(case: Case, rounds: int, scratch: Path) -> Found:
    """Take steps of each side in turns."""
    towers = TINY if case.towers is None else (f"model.image.name={case.towers}", f"model.text.name={case.towers}")
    settings = [*towers, f"data.captions={case.captions}", "strategies.ema={}", "train.precision=float32"]
    parts, _ = synthetic_parts("vitb32_clip", scratch, case.pairs, "cpu", [*settings, "train.threads=1"])
    batches = list(islice(parts.stream.batches(0), BATCHES))
    ours, number = cycle(batches), iter(range(1_000_000))
    theirs = {is_fused: peer_of(case, batches[0], fused=is_fused) for is_fused in (False, True)}
    found = Found(
        case,
        tokens=fmean(float(batch.lengths.float().mean()) for batch in batches),
        longest=fmean(float(batch.lengths.max()) for batch in batches),
    )
    for _ in tqdm(range(rounds + 1), desc=str(case), unit="round", disable=None):  # the first warms up
        found.vlp.append(seconds_of(lambda: [train.one_step(parts, next(ours), next(number)) for _ in range(STEPS)]))
        found.peer.append(seconds_of(lambda: theirs[False].train(STEPS)))
        found.fused.append(seconds_of(lambda: theirs[True].train(STEPS)))
    for values in (found.vlp, found.peer, found.fused):
        del values[0]
    return found


def peer_of(case: Case, batch: Batch, *, fused: bool) -> PeerEpoch:
    """Return open_clip's side, with the captions of a batch."""
    epoch = PeerEpoch(case.towers, case.pairs, "cpu", fused=fused)
    tokens = batch.tokens[0]
    epoch.texts = functional.pad(tokens, (0, CONTEXT - tokens.shape[1]))
    return epoch


def seconds_of(steps: Callable[[], object]) -> float:
    """Return the processor time of one step, which other processes on the machine hardly change."""
    started = time.process_time()
    steps()
    return (time.process_time() - started) / STEPS


if __name__ == "__main__":
    main()
