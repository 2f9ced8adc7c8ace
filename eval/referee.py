"""Check our numbers against CLIP_benchmark's: the same exported model, the same sets, two programs.

python eval/referee.py exports/quickstart

Classification must be equal, retrieval equal to 1e-6 (CLIP_benchmark averages in float32), or, where scores tie,
between the bounds that ties leave open; exit status 1 otherwise.
CLIP_benchmark runs in an environment of its own (it needs numpy < 2.4), made on first use in `.venv-referee`:
about 5.5 GB and 2 minutes. Both programs run on the CPU in float32: TF32 or bfloat16 would change the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from vlp.evaluators.base import Task, load_task
from vlp.evaluators.layout import find_root
from vlp.evaluators.tasks import run_tasks
from vlp.ground.types import RecipeError
from vlp.towers.encoder import TowerEncoder
from vlp.towers.load import load_model

TASKS = ("emoji24", "clipart-folders", "photos-cc0", "emoji-retrieval", "clipart-retrieval")
KIND = {"zero_shot": "zeroshot_classification", "retrieval": "zeroshot_retrieval"}
TOLERANCE = {"zero_shot": 0.0, "retrieval": 1e-6}
PINNED = ("clip-benchmark==1.6.2", "requests", "numpy<2.4")
SAME_VERSION = ("torch", "torchvision", "open_clip_torch")
RECALL_AT = (1, 5, 10)
THEIR_NAME = {"acc1": "acc1", "acc5": "acc5", "mean_per_class_recall": "mean_per_class_recall"} | {
    f"{ours}_recall@{k}": f"{theirs}_recall@{k}"
    for k in RECALL_AT
    for ours, theirs in (("image_to_text", "text_retrieval"), ("text_to_image", "image_retrieval"))
}
Numbers = dict[str, float]


def main() -> None:
    """Run both programs, print both columns, leave with 1 on a difference."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="exported folder (open_clip_config.json and weights)")
    parser.add_argument("--tasks", nargs="+", default=TASKS, help="zero-shot and retrieval tasks")
    parser.add_argument("--python", type=Path, help="Python of an environment that has clip-benchmark 1.6.2")
    arguments = parser.parse_args()
    try:
        sys.exit(compare(arguments.model.resolve(), [load_task(name) for name in arguments.tasks], arguments.python))
    except RecipeError as error:
        sys.exit(f"referee: {error}")


def compare(model: Path, tasks: list[Task], python: Path | None) -> int:
    """Print a row per metric and return the exit status."""
    for task in tasks:
        check_comparable(task)
    ours = our_numbers(model, tasks)
    python = python or make_environment(Path(".venv-referee"))
    num_different = 0
    print(f"{'task':18} {'metric':24} {'vlp':>12} {'CLIP_benchmark':>15} {'difference':>11}")
    for task in tasks:
        theirs = their_numbers(model, task, python)
        for name, (value, low, high) in ours[task.name].items():
            difference = value - theirs[THEIR_NAME[name]]
            slack = TOLERANCE[task.evaluator]
            is_equal = low - slack <= theirs[THEIR_NAME[name]] <= high + slack
            num_different += not is_equal
            row = f"{task.name:18} {name:24} {value:12.9f} {theirs[THEIR_NAME[name]]:15.9f} {difference:11.1e}"
            print(row if is_equal else f"{row}  DIFFERENT", flush=True)
    print("equal" if not num_different else f"{num_different} numbers differ")
    return int(num_different > 0)


def check_comparable(task: Task) -> None:
    """Refuse tasks that CLIP_benchmark would not run alike."""
    if task.evaluator not in KIND:
        raise RecipeError(f"CLIP_benchmark has nothing like the evaluator '{task.evaluator}' of task '{task.name}'")
    if task.data.class_names or task.settings.model_dump().get("prompts"):
        raise RecipeError(f"task '{task.name}' has its own prompts or class names; CLIP_benchmark reads the set's")
    if task.data != task.data.as_is():
        raise RecipeError(
            f"task '{task.name}' corrupts what it reads; CLIP_benchmark takes images and captions as they are"
        )


def our_numbers(model: Path, tasks: list[Task]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Evaluate with vlp, on the CPU and with the referee's pixels; return values, and bounds by how ties may fall."""
    tasks = [replace(task, data=task.data.model_copy(update={"pixels": "referee"})) for task in tasks]
    records = run_tasks(tasks, TowerEncoder(load_model(str(model))), model=str(model), progress=True)
    for record in records:
        if "error" in record:
            raise RecipeError(f"{record['task']}: {record['error']}")
    return {
        record["task"]: {
            name: (metric["value"], *record["details"].get("bounds", {}).get(name, 2 * [metric["value"]]))
            for name, metric in record["metrics"].items()
            if name in THEIR_NAME
        }
        for record in records
    }


def their_numbers(model: Path, task: Task, python: Path) -> Numbers:
    """Evaluate with CLIP_benchmark: no mixed precision, no pickles, no network, no GPU."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        command = [str(python), "-m", "clip_benchmark.cli", "eval", "--task", KIND[task.evaluator], "--no_amp"]
        command += ["--dataset", f"wds/{task.name}", "--dataset_root", find_root(task.data.root).root]
        command += ["--split", task.data.split, "--model", f"local-dir:{model}", "--pretrained", ""]
        command += ["--recall_k", *map(str, RECALL_AT), "--batch_size", "64", "--num_workers", "0"]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "WDS_SECURE": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment.pop("PYTHONPATH", None)
        done = subprocess.run([*command, "--output", str(output)], capture_output=True, text=True, env=environment)
        if done.returncode or not output.is_file():
            raise RecipeError(f"CLIP_benchmark failed on {task.name}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        metrics: Numbers = json.loads(output.read_text())["metrics"]
        return metrics


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


if __name__ == "__main__":
    main()
