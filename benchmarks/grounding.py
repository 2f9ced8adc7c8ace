"""Does a decoder find what it is told of?  A run on the regions of a card, beside boxes that are the same for all.

    python -m benchmarks.grounding runs/locca_embedded canvases/held-out.yaml

Prints what the evaluator `grounding` says of the run, of the same model before its first step, of the run when each
caption is exchanged for that of another region, and of the two squares that are best for all of the card: in overlap,
and in how many boxes they are right about.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, cycle, islice
from pathlib import Path

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vlp.evaluators.dataset import DataSource, EvaluationSet
from vlp.evaluators.grounding import RIGHT, Grounding, overlaps, score_boxes
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import Evaluation
from vlp.recipe.model import build_model
from vlp.run.trained_model import load_model_of_run
from vlp.towers.encoder import TowerEncoder

STEPS = 24  # places of a box's centre, and sizes, that are tried along each side
AT_ONCE = 256  # of the boxes that are tried
Worth = Callable[[Tensor], Tensor]


def best_box(boxes: Float[Tensor, "n 4"], worth: Worth) -> Float[Tensor, " 4"]:
    """Return the square whose overlaps with all boxes are worth most, in a search over places and sizes."""
    grid = torch.linspace(0, 1, STEPS + 1)
    x, y, half = (axis.flatten() for axis in torch.meshgrid(grid, grid, grid[1:] / 2, indexing="ij"))
    tried = torch.stack([x - half, y - half, x + half, y + half], dim=1).clamp(0, 1)
    worths = [worth(_overlaps_of_all(some, boxes)) for some in tried.split(AT_ONCE)]
    return tried[torch.cat(worths).argmax()]


def mean_overlap(each: Float64[Tensor, "m n"]) -> Float64[Tensor, " m"]:
    """Return the mean overlap of each square."""
    return each.mean(dim=1)


def share_right(each: Float64[Tensor, "m n"]) -> Float64[Tensor, " m"]:
    """Return how many boxes each square is right about."""
    return (each >= RIGHT).double().mean(dim=1)


def _overlaps_of_all(some: Float[Tensor, "m 4"], boxes: Float[Tensor, "n 4"]) -> Float64[Tensor, "m n"]:
    each = overlaps(some.repeat_interleave(len(boxes), dim=0), boxes.repeat(len(some), 1))
    return each.view(len(some), len(boxes))


def told_of_others(data: EvaluationSet) -> EvaluationSet:
    """Return a set in which each image is asked for what the next one that has as many regions says.

    Where no other has as many, it is asked for what others say, one image after the other.
    """
    by_count: dict[int, list[int]] = {}
    for place, captions in enumerate(data.captions):
        by_count.setdefault(len(captions), []).append(place)
    captions = list(data.captions)
    for places in by_count.values():
        for place, other in zip(places, [*places[1:], places[0]], strict=True):
            captions[place] = data.captions[other]
        if len(places) == 1:
            others = chain(*data.captions[place + 1 :], *data.captions[:place])
            captions[place] = tuple(islice(cycle(others), len(data.captions[place])))
    return replace(data, captions=tuple(captions))


def line(name: str, evaluation: Evaluation) -> str:
    """Return the metrics of a row, with their intervals."""
    shown = [
        f"{metric.name} {metric.value:.3f} ({metric.low:.3f} to {metric.high:.3f})" for metric in evaluation.metrics
    ]
    return f"{name:16s} {', '.join(shown)}"


def main() -> None:
    """Score a run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grounding", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("card", help="path of a card whose samples have regions")
    arguments = parser.parse_args()
    trained = load_model_of_run(arguments.run)
    encoder = SharedEncoder(TowerEncoder(trained.model.eval()))
    data = encoder.open(DataSource(root=arguments.card))
    task = Grounding(data)
    torch.manual_seed(0)
    untrained = SharedEncoder(TowerEncoder(build_model(trained.recipe.model).eval()))
    rows = {
        "trained": task.run(encoder),
        "untrained": task.run(untrained),
        "told of another": Grounding(told_of_others(data)).run(encoder),
        "square, overlap": score_boxes(best_box(task.boxes, mean_overlap).expand_as(task.boxes), task.boxes),
        "square, right": score_boxes(best_box(task.boxes, share_right).expand_as(task.boxes), task.boxes),
    }
    print(f"{len(task.boxes)} boxes of {arguments.card}")
    for name, evaluation in rows.items():
        print(line(name, evaluation))


if __name__ == "__main__":
    main()
