"""What a step of fine-tuning costs on the CPU, way by way, beside the whole model's and beside peft's LoRA, in turns.

    python -m benchmarks.bench_finetune
    python -m benchmarks.bench_finetune --quick --to runs/try

A step is all that `vlp.train` does between a batch and moved weights. Peft's is open_clip's own training loop on a
model whose attentions and feed-forward layers peft has adapted with the same rank, on the same captions, padded. Memory
is what gradients, the optimizer's moments and the graph of one pass take beside the weights, counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.dated_report import command_line, write_page
from benchmarks.gpu.peer_steps import CONTEXT, PeerEpoch
from benchmarks.gpu.steps import TINY, synthetic_parts
from benchmarks.quick import add_quick, settle
from benchmarks.tables import Table, markdown, ratio, spread
from vlp import train
from vlp.ground.types import Batch
from vlp.run.assemble import Run
from vlp.step.kept_bytes import KeptBytes

WAYS = ("full", "lora", "prompts", "last_blocks", "heads", "lit")
PEER = "peft's LoRA on open_clip"
RANK = 8
LAYERS = ["attn", "c_fc", "c_proj"]
WHAT = (
    "Seconds of processor time of one step, one thread, float32, median (p10 .. p90); a ratio is to the step of the "
    "whole model, below 1 is cheaper. Memory in MB (1e6 bytes): gradients and moments of what trains, and what the "
    "graph of one pass holds. Peft's LoRA adapts the last projections of attentions too; open_clip pads captions to 77 "
    "tokens."
)


@dataclass
class FineTuning:
    """One way, measured.

    Args:
        way: Of `model.tune`; or whose it is.
        trained: Parameters that train.
        state: MB of gradients and moments.
        graph: MB that one pass keeps.
        seconds: Of each step.
    """

    way: str
    trained: int
    state: float
    graph: float
    seconds: list[float] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all ways, and write a report."""
    parsed = settle(build_parser().parse_args(arguments))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(parsed.towers, parsed.pairs, parsed.rounds, Path(scratch))
    words = command_line("bench_finetune", arguments)
    case = f"Towers: {parsed.towers}; {parsed.pairs} pairs, captions of 17 tokens on average."
    sections = [WHAT, case, markdown(table(found))]
    page = write_page(parsed.to, "finetune", "Steps of fine-tuning", words, sections, [asdict(each) for each in found])
    print(f"{markdown(table(found))}\n-> {page}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m benchmarks.bench_finetune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--towers", default="ViT-B-32", help="an open_clip name, or toy; default: %(default)s")
    parser.add_argument("--pairs", type=int, default=16, help="in a batch; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=8, help="of a step of each way; default: %(default)s")
    parser.add_argument("--to", type=Path, default=Path("benchmarks/reports"), help="default: %(default)s")
    add_quick(parser, towers="toy", pairs=8, rounds=2)
    return parser


def measure(towers: str, pairs: int, rounds: int, scratch: Path) -> list[FineTuning]:
    """Take steps of each way in turns; the first round warms up."""
    found, steps = [], []
    made = {way: ready(way, towers, pairs, scratch) for way in WAYS}
    batch = min((drawn for _, drawn in made.values()), key=lambda drawn: drawn.tokens.shape[-1])  # learned tokens fit
    for way, (run, _) in made.items():
        found.append(FineTuning(way, *sizes(list(run.towers.parameters())), kept(run, batch)))
        steps.append(partial(_step, run, batch, count()))
    peer = peer_of(towers, pairs, batch)
    found.append(FineTuning(PEER, *sizes(list(peer.model.parameters())), kept_of_peer(peer)))
    steps.append(partial(peer.train, 1))
    for number in tqdm(range(rounds + 1), desc=towers, unit="round", disable=None):
        for each, step in zip(found, steps, strict=True):
            seconds = seconds_of(step)
            if number:
                each.seconds.append(seconds)
    return found


def ready(way: str, towers: str, pairs: int, scratch: Path) -> tuple[Run, Batch]:
    """Assemble the recipe `finetune` with towers that start at random, which costs the same."""
    named = [f"model.{side}={{type: open_clip, name: {towers}}}" for side in ("image", "text")]
    settings = [*(TINY if towers == "toy" else named), "model.weights=null", f"model.tune={way}"]
    settings += ["train.precision=float32", "train.micro_batches=1", "train.threads=1"]
    return synthetic_parts("finetune", scratch, pairs, "cpu", settings, label=way)


def peer_of(towers: str, pairs: int, batch: Batch) -> PeerEpoch:
    """Return open_clip's loop on a model with adapters of peft."""
    from peft import LoraConfig, get_peft_model  # which imports every model of transformers that it knows

    peer = PeerEpoch(None if towers == "toy" else towers, pairs, "cpu")
    peer.model = get_peft_model(peer.model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=LAYERS))
    trained = [value for value in peer.model.parameters() if value.requires_grad]
    peer.optimizer = torch.optim.AdamW(trained, lr=3e-4, betas=(0.9, 0.98), eps=1e-6, fused=True)
    peer.texts = torch.zeros(pairs, CONTEXT, dtype=torch.int64)  # it cannot cut them
    peer.texts[:, : batch.tokens.shape[-1]] = batch.tokens[0]
    return peer


def sizes(parameters: Sequence[Tensor]) -> tuple[int, float]:
    """Return how many numbers train, and the MB of their gradients and two moments."""
    trained = sum(value.numel() for value in parameters if value.requires_grad)
    return trained, 3 * 4 * trained / 1e6


def kept(run: Run, batch: Batch) -> float:
    """Return the MB that the graph of one pass holds."""
    holds = KeptBytes(float("inf"), run.towers.parameters())
    with holds:
        embeddings = train.embed(run, batch)
    assert embeddings.text.requires_grad  # the graph is still there
    return holds.bytes / 1e6


def kept_of_peer(peer: PeerEpoch) -> float:
    """Return the same of peft's model."""
    holds = KeptBytes(float("inf"), peer.model.parameters())
    with holds:
        seen = peer.model(peer.images, peer.texts)
    assert seen["image_features"].requires_grad
    return holds.bytes / 1e6


def seconds_of(step: Callable[[], object]) -> float:
    """Return the processor time of one step, which other processes on the machine hardly change."""
    started = time.process_time()
    step()
    return time.process_time() - started


def table(found: Sequence[FineTuning]) -> Table:
    """Return what was found, a row for each way."""
    rows = [
        [
            each.way,
            f"{each.trained:,}",
            spread(each.seconds),
            f"{ratio(each.seconds, found[0].seconds):.2f}",
            f"{each.state:,.0f}",
            f"{each.graph:,.0f}",
        ]
        for each in found
    ]
    return [["way", "trains", "seconds", "ratio", "state", "graph"], *rows]


def _step(run: Run, batch: Batch, number: count[int]) -> None:
    train.one_step(run, batch, next(number))


if __name__ == "__main__":
    main()
