"""Class names and templates to prompts, and prompts to one embedding per class."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.layout import TEMPLATES, read_lines
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.paths import find_file
from vlp.ground.registry import nearest
from vlp.ground.types import RecipeError
from vlp.ground.yaml import read_yaml

PLACEHOLDER = "{c}"
DICTIONARIES = (".json", ".yaml", ".yml")


@dataclass(frozen=True)
class ClassPrompts:
    """Prompts of classes; those of one class stand together.

    Args:
        counts: How many each class has.
    """

    texts: tuple[str, ...]
    counts: tuple[int, ...]


def prompts_of(data: EvaluationSet, file: str | None, class_names: Sequence[str] | None = None) -> ClassPrompts:
    """Return the prompts of classes: templates of a file or of the set, or a dictionary of prompts for each class.

    A dictionary is a YAML or JSON file of class names, each with its list of prompts (CuPL, Pratt et al. 2023,
    arXiv 2209.03320); classes that it names beside those of the set are left out.

    Args:
        file: Templates (`.txt`) or a dictionary, relative to `eval/`; the set's own templates when absent.
        class_names: Those of the set when absent.

    Raises:
        RecipeError: There are no prompts, a template has no place for the class name, or a class has no prompts.
    """
    names = data.class_names if class_names is None else class_names
    if file and Path(file).suffix in DICTIONARIES:
        path = find_file("eval", file)
        listed = read_dictionary(path)
        prompts = [_listed_prompts(listed, name, path) for name in names]
        return ClassPrompts(tuple(text for texts in prompts for text in texts), tuple(map(len, prompts)))
    templates = templates_of(data, file)
    return ClassPrompts(fill(templates, names), (len(templates),) * len(names))


def read_dictionary(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML or JSON file; JSON may be large.

    Raises:
        RecipeError: It is none, or a key stands twice.
    """
    if path.suffix != ".json":
        return read_yaml(path)
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: {error}") from error
    if not isinstance(mapping, dict):
        raise RecipeError(f"{path}: expected a JSON object with a key for each class")
    return mapping


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


def class_embeddings(encoder: SharedEncoder, prompts: ClassPrompts) -> Float32[Tensor, "c d"]:
    """Embed prompts and average those of each class."""
    return average(encoder.texts(prompts.texts), prompts.counts)


def average(rows: Float32[Tensor, "p d"], counts: Sequence[int]) -> Float32[Tensor, "c d"]:
    """Average the unit-norm prompt embeddings of each class and normalise the average (Radford et al. 2021, 3.1.4)."""
    means = torch.stack([part.mean(dim=0) for part in rows.split(list(counts))])
    return torch.nn.functional.normalize(means, dim=1)


def _listed_prompts(listed: dict[str, Any], name: str, path: Path) -> tuple[str, ...]:
    if name not in listed:
        raise RecipeError(f"{path}: no prompts for class '{name}'{nearest(name, listed)}")
    texts = listed[name]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise RecipeError(f"{path}: prompts of class '{name}' must be a list of texts")
    return tuple(texts)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key '{next(key for key in keys if keys.count(key) > 1)}' stands twice")
    return mapping
