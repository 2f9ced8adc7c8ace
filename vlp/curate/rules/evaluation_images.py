"""Images that look like one of an evaluation set."""

from __future__ import annotations

import numpy as np

from vlp.curate.facts.facts import LOOK
from vlp.curate.facts.gather import FactTable
from vlp.curate.facts.perceptual import check_distance, look_of, nearest
from vlp.curate.parallel import map_in_order, progress
from vlp.curate.rules.base import Flags, rules
from vlp.data.faults import BadSampleError
from vlp.data.pixels.decode import decode_image
from vlp.evaluators.dataset import MAX_PIXELS, open_set
from vlp.evaluators.labelled import EvaluationSample
from vlp.ground.types import RecipeError


@rules.register("evaluation_images")
class EvaluationImages:
    """Drop what looks like an image of an evaluation set, in whatever colours, so that scores stay honest.

    Args:
        tasks: Names under `eval/`, or YAML files; their sets must be complete.
        distance: Bits of 64 in which the perceptual codes of equal images may differ; 0 to 8.
    """

    facts = (LOOK,)

    def __init__(self, *, tasks: tuple[str, ...], distance: int = 4):
        if not tasks:
            raise RecipeError("tasks: none is named, so nothing is compared; name some, or leave the rule out")
        self.distance = check_distance(distance)
        # Opened at once, so that a missing set is told before hours of measuring.
        self._images = [image for task in tasks for image in _images(task)]
        self._which = np.empty(0, dtype=np.int64)

    def drops(self, table: FactTable, alive: Flags) -> Flags:
        """Compare each image with all of the sets."""
        codes = []
        with progress(len(self._images), "evaluation images") as bar:
            for code in map_in_order(_code, [sample for _, sample in self._images], table.workers):
                codes.append(code)
                bar.update()
        self._which = np.full(len(table), -1, dtype=np.int64)
        mine = table.values(LOOK)["code"][alive]
        self._which[alive] = nearest(mine, np.array(codes, dtype=np.uint64), self.distance)[0]
        return self._which >= 0

    def reason(self, table: FactTable, number: int) -> str:
        """Name the evaluation image."""
        return f"looks like {self._images[self._which[number]][0]}"


def _images(task: str) -> list[tuple[str, EvaluationSample]]:
    # Imports every tower and recipe, which no other rule needs.
    from vlp.evaluators.base import load_task

    return [(f"'{sample.key}' of {task}", sample) for sample in open_set(load_task(task).data).samples]


def _code(sample: EvaluationSample) -> int:
    try:
        return look_of(decode_image(sample.image_bytes(), MAX_PIXELS))[0]
    except BadSampleError as error:
        raise RecipeError(f"{sample.where}: image of sample '{sample.key}' cannot be used: {error}") from error
