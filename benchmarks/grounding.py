"""Does a decoder find what it is told of?  Boxes of captions on the images of a card, beside one box for all of them.

    python -m benchmarks.grounding runs/locca_embedded canvases/held-out.yaml

Prints the mean intersection over union with the true boxes, and the share of boxes above 0.5, for the run, for the run
when each caption is exchanged for that of another region, and for the one box that is best on average over the card.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vlp.data import Captions, SampleSet
from vlp.data.regions import read_regions
from vlp.data.shards.cards import load_card
from vlp.run.trained_model import load_model_of_run
from vlp.towers.encoder import TowerEncoder

STEPS = 24  # places of a box's centre, and sizes, that are tried along each side
GOOD = 0.5


def overlaps(one: Float[Tensor, "n 4"], other: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
    """Return the area of each intersection over that of the union; boxes turned inside out have no area."""
    shared = (torch.minimum(one[:, 2:], other[:, 2:]) - torch.maximum(one[:, :2], other[:, :2])).clamp(min=0).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1) for boxes in (one, other)]
    return shared / (sum(areas) - shared).clamp(min=1e-9)


def best_box(boxes: Float[Tensor, "n 4"]) -> Float[Tensor, " 4"]:
    """Return the square whose mean overlap with all boxes is largest, in a search over places and sizes."""
    grid = torch.linspace(0, 1, STEPS + 1)
    x, y, half = (axis.flatten() for axis in torch.meshgrid(grid, grid, grid[1:] / 2, indexing="ij"))
    tried = torch.stack([x - half, y - half, x + half, y + half], dim=1).clamp(0, 1)
    means = torch.stack([overlaps(one.expand_as(boxes), boxes).mean() for one in tried])
    return tried[means.argmax()]


def examples_of(card: str) -> tuple[list[Image.Image], list[str], Float[Tensor, "n 4"]]:
    """Return an image, a caption and a box for each region of a card."""
    told = load_card(card)
    assert told.regions is not None, f"{card}: says of no regions"
    samples, images, captions, boxes = SampleSet({told.name: told}), [], [], []
    for number in range(len(samples)):
        sample = samples[number]
        for region in read_regions(sample, told.regions, Captions()):
            images.append(Image.open(io.BytesIO(sample.read_image())))
            captions.append(region.caption)
            boxes.append(region.box)
    return images, captions, torch.tensor(boxes)


def main() -> None:
    """Score a run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grounding", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("card", help="name or path of a card whose samples have regions")
    arguments = parser.parse_args()
    encoder = TowerEncoder(load_model_of_run(arguments.run).model.eval())
    images, captions, boxes = examples_of(arguments.card)
    rows = {
        "told": encoder.locate_captions(images, captions),
        "told of another": encoder.locate_captions(images, [*captions[1:], captions[0]]),
        "one box for all": best_box(boxes).expand_as(boxes),
    }
    print(f"{len(boxes)} boxes of {arguments.card}")
    for name, found in rows.items():
        each = overlaps(found, boxes)
        print(f"{name:16s} mean overlap {each.mean():.3f}, above {GOOD} {(each > GOOD).float().mean():.3f}")


if __name__ == "__main__":
    main()
