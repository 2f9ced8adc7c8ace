"""Where an image shows what a caption says: boxes that a decoder writes, beside the true ones."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from vlp.evaluators.base import check_kind, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.intervals import mean, proportion
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import Evaluation, PerSample, RecipeError
from vlp.towers.locating_decoder import LOCATING

RIGHT = 0.5  # the overlap from which on a box is right
KEPT_EXAMPLES = 20


@evaluators.register("grounding")
class Grounding:
    """Let the decoder write the box of each caption, and compare it with the true one: referring expressions.

    A box is right if its intersection with the true one has at least half of the area of their union (`acc@0.5`, the
    number of RefCOCO, as MDETR scores it: Kamath et al. 2021, arXiv 2104.12763); `mean_iou` is the mean of that share.
    Every caption of a region counts once, whatever else its image shows. A box that is turned inside out has no area.
    Shares of width and height give the ratio that pixels give; programs that count a pixel more along each side see
    small boxes overlap more. The set is a card with captions of regions (`data.root: NAME.yaml`), and the model one
    with `model.decoder={type: locating}`.
    """

    def __init__(self, data: EvaluationSet):
        check_kind(data, "regions")
        if data.corruption is not None:
            raise RecipeError(
                "data.corruption cuts squares out of images, and boxes are told of whole ones: leave it out"
            )
        self.data = data
        self.texts = tuple(caption for captions in data.captions for caption in captions)
        if not self.texts:
            raise RecipeError(f"{data.folder.locate('')}: none of its {len(data)} images has a region")
        self.boxes = torch.tensor([region.box for sample in data.samples for region in sample.regions])

    @staticmethod
    def check_decoder(decoder: str | None) -> None:
        """Refuse a model that writes no boxes."""
        if decoder != LOCATING:
            raise RecipeError("the model has no decoder that knows boxes (model.decoder={type: locating})")

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Write boxes and compare."""
        found = encoder.boxes(self.data)
        evaluation = score_boxes(found, self.boxes)
        examples = zip(self.texts[:KEPT_EXAMPLES], found.tolist(), self.boxes.tolist(), strict=False)
        shown = [{"caption": text, "written": written, "true": true} for text, written, true in examples]
        return Evaluation(evaluation.metrics, evaluation.details | {"examples": shown}, evaluation.samples)


def score_boxes(found: Float32[Tensor, "n 4"], boxes: Float32[Tensor, "n 4"]) -> Evaluation:
    """Compare boxes with true ones: left, top, right and bottom, in shares of the image or in pixels."""
    each = overlaps(found, boxes)
    right = (each >= RIGHT).double()
    accuracy = f"acc@{RIGHT}"
    metrics = (proportion(accuracy, int(right.sum()), len(each)), mean("mean_iou", each.numpy()))
    samples = {accuracy: PerSample(right.tolist()), "mean_iou": PerSample(each.tolist())}
    inside_out = (found[:, 2:] <= found[:, :2]).any(dim=1)
    return Evaluation(metrics, {"boxes": len(each), "without_area": int(inside_out.sum())}, samples)


def overlaps(one: Float32[Tensor, "n 4"], other: Float32[Tensor, "n 4"]) -> Float64[Tensor, " n"]:
    """Return the area of each intersection over that of the union; boxes turned inside out have no area."""
    one, other = one.double(), other.double()
    shared = (torch.minimum(one[:, 2:], other[:, 2:]) - torch.maximum(one[:, :2], other[:, :2])).clamp(min=0).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1) for boxes in (one, other)]
    union = areas[0] + areas[1] - shared
    return shared / union.masked_fill(union == 0, 1)
