"""Class names and templates to prompts, and prompts to one embedding per class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float32
from torch import Tensor

from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.layout import TEMPLATES, read_lines
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.paths import find_file
from vlp.ground.types import RecipeError

PLACEHOLDER = "{c}"


def templates_of(data: EvaluationSet, file: str | None) -> tuple[str, ...]:
    """Return the prompt templates of a file, or those that come with the set.

    Raises:
        RecipeError: There are none, or one has no place for the class name.
    """
    templates = read_lines(find_file("eval", file)) if file else data.templates
    if not templates:
        raise RecipeError(f"{data.folder.locate(TEMPLATES)}: no such file; add it or set settings.prompts")
    for template in templates:
        if PLACEHOLDER not in template:
            raise RecipeError(f"prompt '{template}' of {file or data.folder.locate(TEMPLATES)} has no {PLACEHOLDER}")
    return templates


def fill(templates: Sequence[str], class_names: Sequence[str]) -> tuple[str, ...]:
    """Put each class name into each template; the prompts of one class stand together."""
    return tuple(template.replace(PLACEHOLDER, name) for name in class_names for template in templates)


def class_embeddings(encoder: SharedEncoder, prompts: Sequence[str], num_classes: int) -> Float32[Tensor, "c d"]:
    """Average the unit-norm prompt embeddings of each class and normalise the average (Radford et al. 2021, 3.1.4)."""
    rows = encoder.texts(prompts).reshape(num_classes, len(prompts) // num_classes, -1)
    return torch.nn.functional.normalize(rows.mean(dim=1), dim=1)
