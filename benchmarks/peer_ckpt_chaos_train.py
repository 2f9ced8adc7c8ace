"""The training that ckpt-chaos kills: says where it goes on from, and leaves a digest of its scheduled checkpoints.

Not of its metrics: the mode that tears a file cuts it in half, and of a file that grows line by line no crash takes
lines that are durable. `benchmarks.chaos` judges them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.forked_runs import read_states
from vlp.ground import dist
from vlp.recipe.compose import load_recipe
from vlp.run.log import Log
from vlp.train import train


def main(recipe: str, folder: str) -> None:
    """Train, or go on, in a folder."""
    start = Log.__init__

    def begin(log: Log, path: Path, **words: Any) -> None:
        print(f"resumed from step {words['first_step']}", flush=True)
        start(log, path, **words)

    Log.__init__ = begin  # type: ignore[method-assign]
    settings = load_recipe(recipe, [f"runs={folder}"])
    run = train(settings, resume=True)
    if dist.is_main():
        # not those that a signal asked for, which an undisturbed training does not have
        states = {
            step: state
            for step, state in read_states(run).items()
            if step % settings.checkpoint.every == 0 or step == settings.train.steps
        }
        (Path(folder) / "result.json").write_text(json.dumps(states), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
