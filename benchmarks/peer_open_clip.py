"""open_clip's own trainer on the shards, towers and number of samples of a recipe."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vlp.data.shards.cards import load_card
from vlp.ground.types import RecipeError
from vlp.recipe.compose import Recipe
from vlp.recipe.model import build_model, without_weights
from vlp.run.assemble import count_steps
from vlp.run.build_stream import count_workers

ROOT = Path(__file__).resolve().parent.parent
STARTER = Path("benchmarks") / "peer_open_clip_train.py"
PRECISIONS = {"float32": "fp32", "bfloat16": "amp_bf16", "float16": "amp"}
SCHEDULES = {"cosine": "cosine", "constant": "const"}
# newer ones end its loader with KeyError 'fname'; open_clip's own `training` extra asks for <= 0.2.86
WEBDATASET = "0.2.86"

# What open_clip does when nothing is asked of it, and what its own published CLIPA scripts ask for.
AUGMENTATIONS: dict[str, tuple[str, ...]] = {
    "default": (),
    "clipa": (
        "--aug-cfg",
        "scale=(0.4,1.0)",
        "color_jitter=(0.32,0.32,0.32,0.08)",
        "color_jitter_prob=0.8",
        "gray_scale_prob=0.2",
    ),
}


def make_environment(folder: Path) -> Path:
    """Return the Python of the peer's environment; make it with venv and pip where it is missing."""
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if not ready.exists():
        print(f"making {folder} (open_clip's trainer needs webdataset {WEBDATASET})", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        same = [f"{name}=={_public_version(name)}" for name in ("torch", "torchvision", "timm")]
        wanted = [
            f"open_clip_torch[training]=={_public_version('open_clip_torch')}",
            f"webdataset=={WEBDATASET}",
            *same,
        ]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
        ready.touch()
    return python


def check_environment(python: Path) -> dict[str, str]:
    """Return the versions of the peer's libraries.

    Raises:
        RuntimeError: It has another open_clip than `vlp`, or a webdataset that open_clip's loader fails with.
    """
    names = ("open_clip_torch", "webdataset", "torch", "torchvision", "timm", "pandas")
    program = (
        f"import json; from importlib.metadata import version; print(json.dumps({{n: version(n) for n in {names}}}))"
    )
    answer = subprocess.run([str(python), "-c", program], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise RuntimeError(f"{python} has no complete open_clip trainer: {answer.stderr.strip()[-500:]}")
    versions: dict[str, str] = json.loads(answer.stdout)
    ours = metadata.version("open_clip_torch")
    if versions["open_clip_torch"] != ours or versions["webdataset"] != WEBDATASET:
        raise RuntimeError(
            f"{python} has open_clip_torch {versions['open_clip_torch']} and webdataset {versions['webdataset']}; "
            f"the comparison needs {ours} and {WEBDATASET}: remove that environment and let the script make one"
        )
    return versions


def write_config(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Write the towers of a recipe as `peer.json`, which open_clip reads; return {"model_cfg", "preprocess_cfg"}."""
    model = build_model(without_weights(recipe.model))
    config = {"model_cfg": model.model_cfg, "preprocess_cfg": model.preprocess_cfg}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "peer.json").write_text(json.dumps(model.model_cfg, indent=2) + "\n", encoding="utf-8")
    return config


def trainer_flags(
    recipe: Recipe, preprocess: dict[str, Any], folder: Path, *, seed: int, augmentation: str
) -> tuple[list[str], int]:
    """Return the flags that make open_clip's trainer do what a recipe does, and the samples it will see.

    Raises:
        RecipeError: The recipe asks for something that the trainer cannot do.
    """
    cards = [load_card(source.card) for source in recipe.data.train.values() for _ in range(source.repeat)]
    shards = [str(from_root(path)) for card in cards for path in card.paths()]
    if not all(card.samples for card in cards):
        raise RecipeError("data.train: the comparison needs cards that tell their number of samples")
    wanted = count_workers(recipe.data.workers, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    workers = min(wanted, len(shards))  # its loader gives each worker shards of its own
    epochs, steps_per_epoch = epochs_of(recipe, sum(card.samples or 0 for card in cards), workers)
    batch_size = recipe.train.batch_size
    flags: dict[str, Any] = {
        "--model": "peer",
        "--train-data": "::".join(shards),
        "--dataset-type": "webdataset",
        "--train-num-samples": steps_per_epoch * batch_size,
        "--workers": workers,
        "--batch-size": batch_size,
        "--epochs": epochs,
        **_optimizer_flags(recipe, epochs * steps_per_epoch),
        "--precision": PRECISIONS[recipe.train.precision],
        "--device": "cuda" if torch.cuda.is_available() else "cpu",
        "--seed": seed,
        "--save-frequency": 0,
        "--image-resize-mode": preprocess["resize_mode"],
        "--image-interpolation": preprocess["interpolation"],
        "--logs": from_root(folder),
        "--name": "run",
    }
    words = [str(word) for pair in flags.items() for word in pair]
    for name in ("mean", "std"):
        words += [f"--image-{name}", *map(str, preprocess[name])]
    return [*words, *AUGMENTATIONS[augmentation]], epochs * steps_per_epoch * batch_size


def epochs_of(recipe: Recipe, num_samples: int, workers: int) -> tuple[int, int]:
    """Return epochs and steps per epoch: the recipe's steps, and as few more as equal shares per worker need."""
    steps, workers = count_steps(recipe, num_samples), max(1, workers)
    epochs = max(1, round(steps * recipe.train.batch_size / num_samples))
    return epochs, math.ceil(steps / epochs / workers) * workers


def _optimizer_flags(recipe: Recipe, steps: int) -> dict[str, Any]:
    optimizer: Any = recipe.optimizer
    schedule: Any = recipe.schedule
    if schedule.shape not in SCHEDULES:
        raise RecipeError(f"schedule.shape: open_clip has none of '{schedule.shape}'; use {' or '.join(SCHEDULES)}")
    warmup = schedule.warmup_steps
    flags = {
        "--lr": optimizer.learning_rate,
        "--beta1": optimizer.betas[0],
        "--beta2": optimizer.betas[1],
        "--eps": optimizer.epsilon,
        "--wd": optimizer.weight_decay,
        "--warmup": round(schedule.warmup_share * steps) if warmup is None else warmup,
        "--lr-scheduler": SCHEDULES[schedule.shape],
    }
    if recipe.train.clip_gradient_norm is not None:
        flags["--grad-clip-norm"] = recipe.train.clip_gradient_norm
    return flags


def from_root(path: Path) -> Path:
    """Return a path as seen from the root of the project, where it lies in it."""
    path = path.resolve()
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def train_command(python: Path, folder: Path, flags: list[str]) -> list[str]:
    """Return the command that trains, to be run in the root of the project."""
    return [str(python), str(STARTER), str(from_root(folder / "peer.json")), *flags]


def threads(recipe: Recipe) -> dict[str, str]:
    """Return the environment that gives the trainer as many threads as `vlp` takes with one process."""
    return {"OMP_NUM_THREADS": str(recipe.train.threads or os.cpu_count() or 1)}


def export_checkpoint(folder: Path, config: dict[str, Any]) -> Path:
    """Write the last checkpoint as a folder that open_clip (`local-dir:`) and `vlp eval` load; return it."""
    checkpoints = list((folder / "run" / "checkpoints").glob("epoch_*.pt"))
    if len(checkpoints) != 1:
        raise RuntimeError(f"expected one checkpoint under {folder}, found {len(checkpoints)}")
    state = torch.load(checkpoints[0], map_location="cpu", weights_only=True)["state_dict"]
    weights = {name.removeprefix("module."): value.contiguous() for name, value in state.items()}
    target = folder / "export"
    target.mkdir(exist_ok=True)
    save_file(weights, target / "open_clip_model.safetensors")
    (target / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return target


def _public_version(name: str) -> str:
    """Return a version that a registry knows: without what stands behind the plus sign."""
    return metadata.version(name).partition("+")[0]
