"""Phase D: every term, on tiles and on Triton, and every strategy: values, gradients, and waits for the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.gpu.cases import Case, Finding, Setting
from benchmarks.gpu.reference import strategy_losses
from benchmarks.gpu.runs import has_recipe, losses_of, strategy_recipe, watched_run
from benchmarks.gpu.waits import Waits, in_words
from benchmarks.objective_cases import BIAS, SCALE, build, embeddings_of, unit
from vlp.objectives.base import terms
from vlp.pairs import Block, Pairs, Request
from vlp.pairs.engine import walk
from vlp.strategies.base import strategies

PAIRS, DIM, SEED = 96, 64, 0
EXACT = 1e-5
# float32 by itself is that far from float64 for terms that subtract what nearly cancels
AS_CPU = 4.0
LIKE_CPU = 1e-4
NOTICEABLE = 1e-3


def cases(setting: Setting) -> Iterator[Case]:
    """Yield every term on tiles, every strategy, and every term on whatever the trainer would take."""
    for name in terms:
        yield Case(f"{name} on tiles", lambda name=name: compare(setting, name, tiles=True), f"float64 to {EXACT:g}")
    for name in strategies:
        yield Case(
            f"strategy {name}",
            lambda name=name: train_with(setting, name),
            f"losses of the CPU run to {LIKE_CPU:g}",
            needs="" if has_recipe(name) else "a recipe that uses it",
        )
    for name in terms:
        yield Case(
            f"{name} on Triton",
            lambda name=name: compare(setting, name, tiles=False),
            f"float64 to {EXACT:g}",
            needs="" if setting.device == "cuda" else "CUDA",
        )


@dataclass(frozen=True)
class Answer:
    """What a term says, and all that flows back from it, in float64 on the CPU."""

    value: Tensor
    gradients: tuple[Tensor, ...]
    is_fused: bool
    waits: dict[str, int]


def compare(setting: Setting, name: str, *, tiles: bool) -> Finding:
    """Compare a term on the device with float64 on the CPU, and with what float32 on the CPU makes of it."""
    exact = exact_answer(name)
    found = answer(name, setting.device, torch.float32, tiles=tiles)
    if not tiles and not found.is_fused:
        return Finding("has no kernel: tiles")
    wrong = worst_error(found, exact)
    own = worst_error(answer(name, "cpu", torch.float32, tiles=True), exact)
    allowed = max(EXACT, AS_CPU * own)
    problems = () if wrong <= allowed else (f"error {wrong:.1e}, {allowed:.1e} is allowed; on the CPU {own:.1e}",)
    waits = sum(found.waits.values())
    shown = f"error {wrong:.1e}" + (f", {waits} waits" if waits else "")
    numbers = {"error": wrong, "error_on_cpu": own, "fused": found.is_fused, "waits": found.waits}
    return Finding(shown, numbers, problems=problems, notes=in_words(found.waits))


@cache
def exact_answer(name: str) -> Answer:
    """Return a term's answer in float64."""
    return answer(name, "cpu", torch.float64, tiles=True)


def answer(name: str, device: str, dtype: torch.dtype, *, tiles: bool) -> Answer:
    """Evaluate a term twice, forward and backward, and watch the second time: the first one prepares."""
    torch.manual_seed(SEED)
    objective = build(name, DIM).to(device, dtype)
    leaves = [unit(PAIRS, SEED + k, device, DIM).to(dtype).requires_grad_() for k in range(2)]
    leaves += [torch.tensor(number, device=device, dtype=dtype).requires_grad_() for number in (SCALE, BIAS)]
    embeddings, more = embeddings_of(leaves, objective.needs, 10)
    wanted = [*leaves, *more, *objective.parameters()]
    ids = torch.arange(PAIRS, device=device)
    fused: list[bool] = []

    def shared_out(_: Any, block: Block, requests: Sequence[Request]) -> dict[bool, list[Request]]:
        shares = original("tiles" if tiles else "auto", block, requests)
        fused.append(True in shares)
        return shares

    original, waits = walk.share_out, Waits(device)
    with patch.object(walk, "share_out", shared_out):
        for step in range(2):
            with waits.watched() if step else nullcontext():
                loss, _ = objective(Pairs(embeddings, ids, ids, step=0), 0)
                gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
    there = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(gradients, wanted, strict=True)]
    double = tuple(gradient.detach().double().cpu() for gradient in there)
    return Answer(loss.detach().double().cpu(), double, any(fused), dict(waits.places))


def worst_error(found: Answer, exact: Answer) -> float:
    """Return the largest error of value and gradients, each relative to its own size; infinite where one is NaN.

    A gradient that is next to nothing beside the others counts relative to a thousandth of the largest.
    """
    largest = max(float(gradient.abs().max()) for gradient in exact.gradients)
    errors = [_error(found.value, exact.value, 1e-6)]
    errors += [_error(*pair, NOTICEABLE * largest) for pair in zip(found.gradients, exact.gradients, strict=True)]
    return max(error if error == error else float("inf") for error in errors)


def _error(ours: Tensor, theirs: Tensor, least: float) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=least))


def train_with(setting: Setting, name: str) -> Finding:
    """Train a few steps of a recipe that uses a strategy."""
    recipe = strategy_recipe(name, Path(setting.scratch) / "strategies")
    watched_run(recipe, setting.device)
    found, wanted = losses_of(recipe.folder), strategy_losses(name)
    off = max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(found, wanted, strict=True))
    problems = () if off <= LIKE_CPU else (f"losses {found} instead of {wanted}",)
    return Finding(f"off by {off:.1e} after {len(found)} steps", {"losses": found, "worst": off}, problems=problems)
