"""Benchmark any model on any tasks.

python eval/zero_shot.py runs/quickstart
python eval/zero_shot.py exports/quickstart --tasks emoji24 emoji-retrieval --to eval/results/quickstart
python eval/zero_shot.py ViT-B-32:laion2b_s34b_b79k --tasks photos-cc0
torchrun --nproc-per-node 2 eval/zero_shot.py runs/quickstart
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vlp.evaluate import evaluate_model
from vlp.ground.types import RecipeError
from vlp.run.subject import DEFAULT_TASKS


def main() -> None:
    """Parse the arguments and evaluate."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="run, checkpoint or exported folder, hf-hub:ORG/NAME, or NAME:TAG of open_clip")
    parser.add_argument("--tasks", nargs="+", default=DEFAULT_TASKS, help="names under eval/, or YAML files")
    parser.add_argument("--to", type=Path, help="folder for one JSON file per task")
    arguments = parser.parse_args()
    try:
        sys.exit(evaluate_model(arguments.model, arguments.tasks, arguments.to))
    except RecipeError as error:
        sys.exit(f"zero_shot: {error}")


if __name__ == "__main__":
    main()
