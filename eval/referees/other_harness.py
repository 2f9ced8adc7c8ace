"""CLIP_benchmark, in an environment of its own: the same exported model and the same shards, read and scored by it."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import venv
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel

from referees.answers import Answer
from vlp.evaluators.base import Task
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.layout import CLASS_NAMES, KIND_FILE, TEMPLATES
from vlp.evaluators.prompts import DICTIONARIES, templates_of
from vlp.evaluators.record import Record
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import RecipeError

PINNED = ("clip-benchmark==1.6.2", "requests", "numpy<2.4")
SAME_VERSION = ("torch", "torchvision", "open_clip_torch")
INSTANCES = Path(__file__).with_name("instances.py")
RECALL_AT = (1, 5, 10)
FLOAT32 = 1e-6  # it averages in float32
DIRECTIONS = {"image_to_text": "text_retrieval", "text_to_image": "image_retrieval"}
RETRIEVAL_NAMES = {
    f"{ours}_recall@{k}": f"{theirs}_recall@{k}" for k in RECALL_AT for ours, theirs in DIRECTIONS.items()
}
# By evaluator: its task, its dataset_type, our names of its metrics, and how far it rounds.
KINDS: dict[str, tuple[str, str, dict[str, str], float]] = {
    "zero_shot": (
        "zeroshot_classification",
        "classification",
        {name: name for name in ("acc1", "acc5", "mean_per_class_recall")},
        0.0,
    ),
    "multilabel": ("zeroshot_classification", "multilabel", {"map_sorted": "mean_average_precision"}, FLOAT32),
    "retrieval": ("zeroshot_retrieval", "retrieval", RETRIEVAL_NAMES, FLOAT32),
    "choice": ("image_caption_selection", "retrieval", {"accuracy_argmax": "text_acc"}, FLOAT32),
    "winoground": (
        "image_caption_selection",
        "retrieval",
        {"text_score": "text_acc", "image_score": "image_acc", "group_score": "acc"},
        FLOAT32,
    ),
}
# Settings that only add metrics, or that are handed on.
HARMLESS = {"prompts", "group", "ignore_groups", "top", "hierarchy", "r_precision", "map_at_r", "recall_at"}
HARMLESS |= {"smallest_group"}


class ClipBenchmark:
    """CLIP_benchmark 1.6.2 on the CPU, without mixed precision, pickles and network.

    Args:
        model: Folder of an exported model.
        python: That of an environment which has it; one is made in `.venv-referee` on first use where there is none.
    """

    name = "CLIP_benchmark"

    def __init__(self, model: Path, python: Path | None = None):
        self.model, self.python = model, python

    def objection(self, task: Task) -> str | None:
        """Say what CLIP_benchmark has nothing like."""
        settings = task.settings.model_dump()
        other = {name for name, value in _changed(task.settings).items() if name not in HARMLESS and name != "ties"}
        if task.data != task.data.as_is():
            return "it corrupts what it reads; CLIP_benchmark takes images and captions as they are"
        if Path(settings.get("prompts") or "").suffix in DICTIONARIES:
            return "it has prompts for each class; CLIP_benchmark reads templates beside the set"
        if other:
            return f"CLIP_benchmark has nothing like settings.{sorted(other)[0]}"
        return None

    def prepared(self, task: Task) -> Task:
        """Decode with Pillow alone; of equal scores the first wins."""
        data = task.data.model_copy(update={"pixels": "referee"})
        settings = task.settings
        if task.evaluator == "winoground":
            settings = settings.model_copy(update={"ties": "first"})
        return replace(task, data=data, settings=settings)

    def answer(self, task: Task, encoder: SharedEncoder, record: Record) -> Answer:
        """Run it on a folder that holds the set's shards, and the class names and templates of the task."""
        kind, _, names, slack = KINDS[task.evaluator]
        data = encoder.open(task.data)
        if data.folder.is_remote:
            raise RecipeError(f"{data.folder.root}: CLIP_benchmark is asked about sets on a disk; fetch it first")
        python = self.python or make_environment(Path(".venv-referee"))
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "set"
            lay_out(task, data, root)
            found = self._run(python, task, kind, root, Path(folder) / "result.json")
        return Answer({ours: found[theirs] for ours, theirs in names.items()}, slack)

    def _run(self, python: Path, task: Task, kind: str, root: Path, output: Path) -> dict[str, float]:
        words = ["--model", f"local-dir:{self.model}", "--output", str(output)]
        if task.evaluator == "winoground":
            command = [str(python), str(INSTANCES), str(root), task.data.split, *words]
        else:
            command = [str(python), "-m", "clip_benchmark.cli", "eval", "--task", kind, "--no_amp", *words]
            command += ["--dataset", f"wds/{task.name}", "--dataset_root", str(root), "--split", task.data.split]
            command += ["--pretrained", "", "--recall_k", *map(str, RECALL_AT), "--num_workers", "0"]
            # numbers of captions may differ from image to image, and a batch of instances must have one
            command += ["--batch_size", "1" if task.evaluator == "choice" else "64"]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "WDS_SECURE": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode or not output.is_file():
            raise RecipeError(f"CLIP_benchmark failed on {task.name}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        metrics: dict[str, float] = json.loads(output.read_text(encoding="utf-8"))["metrics"]
        return metrics


def lay_out(task: Task, data: EvaluationSet, root: Path) -> None:
    """Write a folder as CLIP_benchmark reads it, in which the shards are links."""
    split = root / task.data.split
    split.parent.mkdir(parents=True)
    split.symlink_to(Path(data.folder.locate(task.data.split)).resolve(), target_is_directory=True)
    kind = KINDS[task.evaluator][1]
    (root / KIND_FILE).write_text(kind, encoding="utf-8")
    if kind != "retrieval":
        templates = templates_of(data, task.settings.model_dump().get("prompts"))
        for name, lines in ((CLASS_NAMES, data.class_names), (TEMPLATES, templates)):
            (root / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def make_environment(folder: Path) -> Path:
    """Return the Python of an environment with CLIP_benchmark, made if it is not there."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = folder / "ready"
    if not ready.is_file():
        print(f"installing CLIP_benchmark in {folder}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        same = [f"{name}=={version(name).partition('+')[0]}" for name in SAME_VERSION]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PINNED, *same], check=True)
        ready.touch()
    return python.absolute()


def _changed(settings: BaseModel) -> Mapping[str, object]:
    return settings.model_dump(exclude_defaults=True)
