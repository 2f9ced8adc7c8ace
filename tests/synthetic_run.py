"""A run folder without a training: true formats, made-up numbers, and an encoder that knows some of the answers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor

from vlp.evaluators.geometry import measure
from vlp.evaluators.record import finish, lay_out, write_record
from vlp.evaluators.retrieval import retrieve
from vlp.evaluators.zero_shot import classify
from vlp.ground.types import Evaluation
from vlp.ground.yaml import write_yaml
from vlp.recipe.compose import load_recipe, lock_text

CLASSES = ("cat", "dog", "flower", "house", "ship", "tree", "star & moon", "<b>bold</b>")
PROVENANCE = {"commit": "0123456789ab", "versions": {"vlp": "0.1.0", "torch": "2.8.0"}, "data": {"embedded": "f00d"}}


def write_run(
    folder: Path, *, name: str = "synthetic", steps: int = 400, lines: int = 100, evaluations: int = 5
) -> Path:
    """Write `folder/name` as a finished run of two terms would leave it, without checkpoints."""
    run = folder / name
    run.mkdir(parents=True)
    overrides = [f"name={name}", f"train.steps={steps}", "train.samples=null", "objective.siglip.weight=0.1"]
    recipe = load_recipe("smoke", overrides)
    (run / "recipe.lock.yaml").write_text(lock_text(recipe) + write_yaml({"provenance": PROVENANCE}), encoding="utf-8")
    source = torch.Generator().manual_seed(1)
    written = [training_line(round(steps * k / lines), steps, source) for k in range(1, lines + 1)]
    for k in range(1, evaluations + 1):
        step = round(steps * k / evaluations)
        values = write_evaluations(run, step, skill=0.15 + 0.4 * k / evaluations)
        written.append({"step": step, "seconds": step * 0.09, "samples": 128 * step, **values})
    with (run / "metrics.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in sorted(written, key=lambda line: line["step"]))
    faults = [("embedded", "corrupt_image")] * 3 + [("embedded", "empty_caption")]
    with (run / "quarantine.jsonl").open("w", encoding="utf-8") as file:
        for number, (label, reason) in enumerate(faults):
            fault = {
                "source": label,
                "reason": reason,
                "shard": "0.tar",
                "key": str(number),
                "id": number,
                "detail": "bad",
            }
            file.write(json.dumps(fault) + "\n")
    return run


def training_line(step: int, steps: int, source: torch.Generator) -> dict[str, float]:
    """Return one line as `write_metrics` of a training writes it."""
    noise = [float(value) for value in torch.randn(8, generator=source)]
    share = step / steps
    clip = 0.9 + 3.95 * math.exp(-4.2 * share) + 0.09 * noise[0]
    siglip = 0.25 + 9.2 * math.exp(-9 * share) + 0.06 * abs(noise[1])
    return {
        "step": step,
        "seconds": round(step * 0.09, 3),
        "samples": 128 * step,
        "epoch": 128 * step / 4436,
        "loss": clip + 0.1 * siglip,
        "loss/clip": clip,
        "loss/siglip": siglip,
        "scale": 14.2857 * math.exp(0.45 * share),
        "bias": 0.0,
        "learning_rate": 1e-3 * min(1, share / 0.05) * 0.5 * (1 + math.cos(math.pi * share)),
        "gradient_norm/image": 0.35 + 1.1 * math.exp(-6 * share) + 0.1 * abs(noise[2]),
        "gradient_norm/text": 0.6 + 2.1 * math.exp(-5 * share) + 0.2 * abs(noise[3]),
        "gradient_norm/scale": 0.01,
        "samples_per_second": 1420 + 60 * noise[4],
        "data_wait": min(1.0, 0.03 + 0.02 * abs(noise[5])),
        "decode_rate": 2400.0,
        "skipped_steps": 0.0,
        "bad_samples": 4.0,
    }


def draw_pairs(size: int, skill: float, gap: float = 0.8) -> tuple[Float32[Tensor, "n d"], Float32[Tensor, "n d"]]:
    """Draw image and text rows that match the better, the larger `skill`."""
    source = torch.Generator().manual_seed(7)
    common, image, text = (torch.randn(size, 48, generator=source) for _ in range(3))
    shift = torch.nn.functional.one_hot(torch.tensor(0), 48) * gap * 7 * (1.2 - skill)
    rows = [skill * common + (1.1 - skill) * noise + sign * shift for noise, sign in ((image, 1), (text, -1))]
    return torch.nn.functional.normalize(rows[0], dim=1), torch.nn.functional.normalize(rows[1], dim=1)


def write_evaluations(run: Path, step: int, *, skill: float, size: int = 120) -> dict[str, float]:
    """Write the records of one evaluation; return the values that `metrics.jsonl` repeats."""
    images, texts = draw_pairs(size, skill)
    labels = torch.arange(size) % len(CLASSES)
    prototypes = torch.nn.functional.normalize(texts[: len(CLASSES)], dim=1)
    pictures = torch.nn.functional.normalize(images + 0.6 * skill * prototypes[labels], dim=1)
    found = {
        "emoji24": ("zero_shot", "acc1", classify(pictures, prototypes, labels, CLASSES, 3)),
        "emoji-retrieval": ("retrieval", "mean_recall@1", retrieve(images, texts, torch.arange(size))),
        "geometry": ("geometry", "modality_gap", measure(images, texts)),
    }
    values: dict[str, float] = {}
    for task, (evaluator, main_metric, evaluation) in found.items():
        record = make_record(task, evaluator, main_metric, evaluation, step)
        write_record(run / "evaluations" / f"step_{step:08d}" / f"{task}.json", record)
        values |= {f"eval/{task}/{name}": metric["value"] for name, metric in record["metrics"].items()}
    return values


def make_record(task: str, evaluator: str, main_metric: str, evaluation: Evaluation, step: int) -> dict:
    """Return a record as `run_task` makes it."""
    head = {"task": task, "version": 1, "evaluator": evaluator, "main_metric": main_metric, "settings": {}}
    head |= {"model": "synthetic", "step": step, "weights": "ema", "metrics": lay_out(evaluation, main_metric)}
    head |= {"details": evaluation.details, "data_sha256": "0" * 64, "preprocess": None}
    return finish(head, texts=("a", "b"), seconds=1.0)


class KnowingEncoder:
    """An encoder that recognises the images of one set, with noise: matching rows share a random direction."""

    scale = 20.0

    def __init__(self, captions: Sequence[str], noise: float = 1.0):
        source = torch.Generator().manual_seed(3)
        self.captions = list(captions)
        self.rows = torch.randn(len(captions), 32, generator=source)
        self.noise = noise * torch.randn(len(captions), 32, generator=source)

    def embed_images(self, images: Iterable[Image.Image]) -> Float32[Tensor, "n d"]:
        """Take images for those of the captions, in order."""
        rows = self.rows + self.noise
        return torch.nn.functional.normalize(rows[: sum(1 for _ in images)], dim=1)

    def embed_texts(self, texts: Sequence[str]) -> Float32[Tensor, "n d"]:
        """Look captions up."""
        return torch.nn.functional.normalize(self.rows[[self.captions.index(text) for text in texts]], dim=1)
