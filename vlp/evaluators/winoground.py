"""Two images and two captions that must be told apart: Winoground, and MMVP-VLM's pairs."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from vlp.evaluators.base import check_kind, evaluators
from vlp.evaluators.choice import worded
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.groups import column_of, count_groups
from vlp.evaluators.instances import runs_of
from vlp.evaluators.intervals import proportion
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import Evaluation, PerSample, RecipeError

SCORES = ("text_score", "image_score", "group_score")


@evaluators.register("winoground")
class Winoground:
    """Match two captions of the same words to two images (Thrush et al. 2022, arXiv 2204.03162).

    `text_score`: for both images the own caption scores more than the other; `image_score`: for both captions the own
    image does; `group_score`: both. A scorer that does not see the images gets 0 in all three, as the two captions are
    the same for both. The set is one of choices: samples EX_0 and EX_1, each with its own caption first and the other's
    second. MMVP-VLM (Tong et al. 2024, arXiv 2401.06209) counts a pair if both statements find their image: that is the
    `image_score`, with `prompt: "a photo of {c}"` and `ties: second`; its 9 patterns are a group, `macro_image_score`.

    Args:
        prompt: What is made of a caption; `{c}` stands for it.
        ties: What equal scores count as: wrong, as in Winoground; the first caption or image, as CLIP_benchmark's
            argmax has it; or the second, as in MMVP's script.
        group: Column of `data.groups`, equal for the two samples of an example: adds means over its values.
    """

    judges_instances = True

    def __init__(
        self,
        data: EvaluationSet,
        *,
        prompt: str = "{c}",
        ties: Literal["wrong", "first", "second"] = "wrong",
        group: str | None = None,
    ):
        check_kind(data, "choice")
        self.data = data
        self.ties = ties
        self.examples = runs_of(data)
        for name, members in self.examples.items():
            captions = [data.captions[member] for member in members]
            if len(members) != 2 or captions[0] != captions[1][::-1] or len(captions[0]) != 2:
                raise RecipeError(
                    f"{data.samples[members[0]].where}: example '{name}' must have samples {name}_0 and {name}_1, "
                    "each with its own caption first and the other's second"
                )
        self.groups = None
        if group is not None:
            column = column_of(data, group, "settings.group")
            self.groups = np.array([column[members[0]] for members in self.examples.values()])
        firsts = [data.captions[member][0] for members in self.examples.values() for member in members]
        self.texts = worded(prompt, firsts)

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed both sides and compare."""
        members = torch.tensor(list(self.examples.values()))
        images = encoder.images(self.data)
        texts = encoder.texts(self.texts).reshape(len(members), 2, -1)
        pairs = images[members.to(images.device)]
        scores = (texts[:, :, None] * pairs[:, None, :]).sum(dim=-1)  # equal rows give equal scores, bit for bit
        return score_pairs(scores, list(self.examples), self.ties, self.groups)


def score_pairs(
    scores: Float32[Tensor, "n 2 2"],
    names: list[str],
    ties: Literal["wrong", "first", "second"] = "wrong",
    groups: np.ndarray | None = None,
) -> Evaluation:
    """Score examples.

    Args:
        scores: Of caption (rows) and image (columns), the matching ones on the diagonal.
        names: What the examples are called.
        groups: A number per example.
    """
    # both images choose between the captions of a column, both captions between the images of a row
    by_image = [wins(scores[:, 0, 0], scores[:, 1, 0], ties == "first")]
    by_image.append(wins(scores[:, 1, 1], scores[:, 0, 1], ties == "second"))
    by_text = [wins(scores[:, 0, 0], scores[:, 0, 1], ties == "first")]
    by_text.append(wins(scores[:, 1, 1], scores[:, 1, 0], ties == "second"))
    text, image = by_image[0] & by_image[1], by_text[0] & by_text[1]
    diagonal, cross = scores.diagonal(dim1=1, dim2=2), scores.flip(2).diagonal(dim1=1, dim2=2)
    tied = (diagonal[:, :, None] == cross[:, None, :]).flatten(1).any(dim=1)
    hits = dict(zip(SCORES, (text.cpu(), image.cpu(), (text & image).cpu()), strict=True))
    metrics = [proportion(name, int(found.sum()), len(found)) for name, found in hits.items()]
    samples = {name: PerSample(found.double().tolist()) for name, found in hits.items()}
    details = {"examples": names, "ties": int(tied.sum()), "blind": dict.fromkeys(SCORES, 0.0)}
    if groups is not None:
        told: dict[str, list[int]] = {}
        for name, right in hits.items():
            found = count_groups(right.numpy(), groups)
            metrics.append(found.mean(f"macro_{name}"))
            samples[f"macro_{name}"] = PerSample(samples[name].values, found.places.tolist())
            told |= found.details("examples", name)
        details["groups"] = told
    return Evaluation(tuple(metrics), details, samples)


def wins(own: Float32[Tensor, " n"], other: Float32[Tensor, " n"], tie: bool) -> Bool[Tensor, " n"]:
    """Whether the own one scores more, or as much where a tie counts."""
    return own >= other if tie else own > other
