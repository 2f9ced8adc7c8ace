"""Golden losses: what three short trainings computed when their numbers were last agreed on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file

from vlp.ground.provenance import commit, machine, versions
from vlp.recipe.compose import load_recipe
from vlp.train import train

HERE = Path(__file__).resolve().parent
KEPT = HERE / "losses.json"
NAMES = tuple(sorted(path.stem for path in HERE.glob("*.yaml")))
Numbers = dict[str, list[float]]


def compute(name: str, folder: Path, *overrides: str) -> Numbers:
    """Train one of the recipes; return a list of eight for each number of the step, and of the weights at the end."""
    run = train(load_recipe(str(HERE / f"{name}.yaml"), [f"runs={folder}", *overrides]))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [key for key in lines[0] if key.partition("/")[0] in ("loss", "gradient_norm", "scale", "bias")]
    return {key: [line[key] for line in lines] for key in kept} | _weights(run)


def _weights(run: Path) -> Numbers:
    """Return the norm of the last weights, and of each strategy's average the scale and how far it lies from them."""
    (folder,) = (run / "checkpoints").iterdir()
    model = load_file(folder / "model.safetensors")
    numbers = {"weights/model": [_norm(model.values())]}
    for path in sorted(folder.glob("*.safetensors")):
        average = load_file(path)
        if path.stem != "model":
            numbers[f"weights/{path.stem}"] = [_norm(model[key] - average[key] for key in model)]
            numbers[f"scale/{path.stem}"] = [float(average["core.logit_scale"].exp())]
    return numbers


def _norm(tensors: Iterable[torch.Tensor]) -> float:
    return math.sqrt(math.fsum(float(tensor.double().square().sum()) for tensor in tensors))


def surroundings() -> dict[str, str]:
    """Return what the last bits of a number depend on: processor, instructions that torch uses, torch, open_clip."""
    return {
        "machine": machine().rpartition(",")[0],
        "model": _model(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "open_clip": version("open_clip_torch"),
    }


def _model() -> str:
    """Return family and model of the processor, by which libraries choose their kernels; nothing where nobody says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        return ""
    said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return f"{said.get('cpu family', '')}/{said.get('model', '')}"


def record(numbers: dict[str, Numbers]) -> dict[str, object]:
    """Return what is kept: the numbers, and where they come from."""
    return {"commit": commit(), "versions": versions(), "surroundings": surroundings(), "numbers": numbers}
