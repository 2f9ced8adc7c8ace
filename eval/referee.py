"""Check our numbers against those of the programs that people quote: the same exported model, the same sets.

python eval/referee.py exports/quickstart
python eval/referee.py exports/quickstart --tasks datacomp38 sugar_crepe_swap_obj

CLIP_benchmark judges classification, where numbers must be equal, and retrieval, multi-label and choice, where they
must be to 1e-6 (it averages in float32) or, where scores tie, between the bounds that ties leave open. scikit-learn
judges probes, the package eccv-caption its own protocol. Exit status 1 if a number differs or a task could not be run.
Tasks of a suite that nobody can judge are listed with the reason.

CLIP_benchmark runs in an environment of its own (it needs numpy < 2.4), made on first use in `.venv-referee`:
about 5.5 GB and 2 minutes. All programs run on the CPU in float32: TF32 or bfloat16 would change the numbers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from referees.answers import Answer, Referee
from referees.libraries import EccvCaption, ScikitLearn
from referees.other_harness import KINDS, ClipBenchmark
from vlp.evaluate import find_tasks
from vlp.evaluators.base import Task
from vlp.evaluators.record import Record
from vlp.evaluators.shared import SharedEncoder
from vlp.evaluators.suites import is_suite
from vlp.evaluators.tasks import by_set, run_task
from vlp.ground.types import RecipeError
from vlp.towers.encoder import TowerEncoder
from vlp.towers.load import load_model

TASKS = ("emoji24", "clipart-folders", "photos-cc0", "emoji-retrieval", "clipart-retrieval")
HEADING = f"{'task':26} {'metric':30} {'vlp':>12} {'referee':>12} {'difference':>11}"


def main() -> None:
    """Run both programs, print both columns, leave with 1 on a difference."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="exported folder (open_clip_config.json and weights)")
    parser.add_argument("--tasks", nargs="+", default=TASKS, help="tasks and suites")
    parser.add_argument("--python", type=Path, help="Python of an environment that has clip-benchmark 1.6.2")
    arguments = parser.parse_args()
    model = arguments.model.resolve()
    try:
        referees = referees_for(model, arguments.python)
        sys.exit(compare(model, judged(arguments.tasks, referees), referees))
    except RecipeError as error:
        sys.exit(f"referee: {error}")


def referees_for(model: Path, python: Path | None) -> dict[str, Referee]:
    """Return who judges a model, by evaluator."""
    clip_benchmark, scikit_learn = ClipBenchmark(model, python), ScikitLearn()
    return {
        **dict.fromkeys(KINDS, clip_benchmark),
        "linear_probe": scikit_learn,
        "knn": scikit_learn,
        "eccv_caption": EccvCaption(),
    }


def judged(names: Sequence[str], referees: Mapping[str, Referee]) -> list[Task]:
    """Return the tasks that someone can judge, as they are judged; say which others a suite has.

    Raises:
        RecipeError: One that is asked for by its own name, or by a pattern, cannot be judged, or none can.
    """
    named = [name for name in names if not is_suite(name)]
    wanted = {task.name for task in find_tasks(named)[0]} if named else set()
    found: list[Task] = []
    for task in find_tasks(names)[0]:
        referee = referees.get(task.evaluator)
        objection = referee.objection(task) if referee else f"no referee has the evaluator '{task.evaluator}'"
        if referee is None or objection:
            if task.name in wanted:
                raise RecipeError(f"task '{task.name}': {objection}")
            print(f"not judged: {task.name}: {objection}", flush=True)
        else:
            found.append(referee.prepared(task))
    if not found:
        raise RecipeError(f"{' '.join(names)}: no task that a referee can judge")
    return found


def compare(model: Path, tasks: Sequence[Task], referees: Mapping[str, Referee]) -> int:
    """Print a row per metric and return the exit status."""
    encoder = SharedEncoder(TowerEncoder(load_model(str(model))), progress=True)
    num_different, failed = 0, list[str]()
    print(HEADING, flush=True)
    ordered = by_set(list(tasks))
    for place, task in enumerate(ordered):
        referee = referees[task.evaluator]
        try:
            record = run_task(task, encoder, model=str(model))
            answer = referee.answer(task, encoder, record)
        except RecipeError as error:
            failed.append(task.name)
            print(f"{task.name:26} not compared: {error}", flush=True)
            continue
        finally:
            encoder.keep_sets(other.data for other in ordered[place + 1 :])
        num_different += show(task, record, answer)
    verdicts = [f"{num_different} numbers differ"] if num_different else []
    verdicts += [f"{len(failed)} tasks not compared: {' '.join(failed)}"] if failed else []
    print("; ".join(verdicts) or "equal")
    return int(bool(verdicts))


def show(task: Task, record: Record, answer: Answer) -> int:
    """Print both numbers of each metric; return how many differ."""
    num_different = 0
    bounds = record["details"].get("bounds", {})
    for name, theirs in answer.values.items():
        if name not in record["metrics"]:
            continue  # the best of five, where there are fewer classes
        value = record["metrics"][name]["value"]
        low, high = bounds.get(name, (value, value))
        is_equal = low - answer.slack <= theirs <= high + answer.slack
        num_different += not is_equal
        row = f"{task.name:26} {name:30} {value:12.9f} {theirs:12.9f} {value - theirs:11.1e}"
        print(row if is_equal else f"{row}  DIFFERENT", flush=True)
    return num_different


if __name__ == "__main__":
    main()
