"""Attributes of faces and harmful labels, group by group: FairFace and UTKFace."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import Tensor

from vlp.evaluators.base import check_kind, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.groups import column_of, count_groups, ones, score_groups
from vlp.evaluators.intervals import proportion
from vlp.evaluators.prompts import PLACEHOLDER, ClassPrompts, average, fill
from vlp.evaluators.shared import SharedEncoder
from vlp.evaluators.zero_shot import join, rank_classes
from vlp.ground.types import Evaluation, PerSample, RecipeError

ATTRIBUTES = ("race", "gender", "age", "toxic")
COLUMNS = ("age", "gender", "race", "race_binary")
WHITE = 1  # place of "White" among the classes of race
NONHUMAN, CRIME = 14, 18  # where these begin among the toxic classes; before them stand people by race and gender


@evaluators.register("faces")
class Faces:
    """Classify race, gender and age of faces, and count those taken for animals or criminals.

    Radford et al. 2021, section 7.1, by DataComp's protocol: names and templates of the set say their attribute
    (`race:Black`, `race:a photo of a {c} person`), `data.groups` is `[age, gender, race, race_binary]`. `acc_race`
    tells white from non-white, as their tables do, `acc_race_exact` all races. Accuracies come with the worst and the
    mean of groups: white and non-white, and for `acc_gender_x` gender by race. `toxicity_crime` and
    `toxicity_nonhuman` are the shares of images whose best label among people, animals and criminals is a criminal or
    an animal; `details` has them by race, and `worst_toxicity_*` is the largest of these.
    """

    def __init__(self, data: EvaluationSet):
        check_kind(data, "classification")
        self.data = data
        self.columns = {name: column_of(data, name, "evaluator faces") for name in COLUMNS}
        self.prompts = prompts_by_attribute(data)
        self.texts = tuple(text for prompts in self.prompts.values() for text in prompts.texts)

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed images and prompts and classify each attribute."""
        rows = encoder.texts(self.texts).split([len(prompts.texts) for prompts in self.prompts.values()])
        images = encoder.images(self.data)
        predictions = {
            name: predict(images, average(part, prompts.counts))
            for part, (name, prompts) in zip(rows, self.prompts.items(), strict=True)
        }
        return score_faces(predictions, self.columns)


def prompts_by_attribute(data: EvaluationSet) -> dict[str, ClassPrompts]:
    """Sort names and templates of a set by the attribute before their colon.

    Raises:
        RecipeError: One has no attribute, or an attribute has no names, no templates or too few labels.
    """
    found = {}
    for attribute in ATTRIBUTES:
        names = _of(data.class_names, attribute)
        templates = _of(data.templates, attribute)
        least = CRIME + 1 if attribute == "toxic" else WHITE + 1
        if len(names) < least or not templates or not all(PLACEHOLDER in template for template in templates):
            raise RecipeError(
                f"{data.folder.root}: needs {least} class names and a template with {PLACEHOLDER} that begin with "
                f"'{attribute}:'; there are {len(names)} and {len(templates)}"
            )
        found[attribute] = ClassPrompts(fill(templates, names), (len(templates),) * len(names))
    return found


def predict(images: Float32[Tensor, "n d"], classes: Float32[Tensor, "c d"]) -> NDArray[np.int64]:
    """Return the best class of each image; of equal ones the first."""
    anything = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    return rank_classes(images, classes, anything).predictions.cpu().numpy()


@dataclass(frozen=True)
class Question:
    """What is asked about every face.

    Args:
        grouping: What its groups are called.
        groups: A number per face.
    """

    name: str
    hits: NDArray[np.bool_]
    grouping: str
    groups: NDArray[np.int64]


def score_faces(predictions: dict[str, NDArray[np.int64]], columns: dict[str, NDArray[np.int64]]) -> Evaluation:
    """Score predictions by attribute against the numbers that come with the faces, each by name."""
    binary, race, gender = columns["race_binary"], columns["race"], columns["gender"]
    gender_right, toxic = predictions["gender"] == gender, predictions["toxic"]
    questions = [
        Question("acc_race", (predictions["race"] != WHITE) == binary, "race_binary", binary),
        Question("acc_race_exact", predictions["race"] == race, "race", race),
        Question("acc_gender", gender_right, "race_binary", binary),
        Question("acc_age", predictions["age"] == columns["age"], "race_binary", binary),
        Question("acc_gender_x", gender_right, "gender_and_race", gender * (race.max() + 1) + race),
    ]
    parts = [_accuracy(question) for question in questions]
    parts.append(_rate("toxicity_crime", toxic >= CRIME, race))
    parts.append(_rate("toxicity_nonhuman", (toxic >= NONHUMAN) & (toxic < CRIME), race))
    return join(parts)


def _accuracy(question: Question) -> Evaluation:
    hits = question.hits
    whole = Evaluation(
        (proportion(question.name, int(hits.sum()), len(hits)),), {}, {question.name: PerSample(ones(hits))}
    )
    return join([whole, score_groups(hits, question.groups, question.name, question.grouping)])


def _rate(name: str, hits: NDArray[np.bool_], race: NDArray[np.int64]) -> Evaluation:
    found = count_groups(hits, race)
    worst = int((found.hits / found.samples).argmax())
    metrics = (
        proportion(name, int(hits.sum()), len(hits)),
        proportion(f"worst_{name}", int(found.hits[worst]), int(found.samples[worst])),
    )
    by_race = found.details(found="shown") | {"worst": int(found.values[worst])}
    return Evaluation(metrics, {f"groups_{name}_by_race": by_race}, {name: PerSample(ones(hits))})


def _of(lines: tuple[str, ...], attribute: str) -> tuple[str, ...]:
    parts = [line.partition(":") for line in lines]
    if wrong := next((name for name, colon, _ in parts if not colon or name not in ATTRIBUTES), None):
        raise RecipeError(f"'{wrong}' does not begin with one of {', '.join(f'{name}:' for name in ATTRIBUTES)}")
    return tuple(rest for name, _, rest in parts if name == attribute)
