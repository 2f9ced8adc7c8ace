"""What weights mean beside their numbers: the activation they were trained with, and how their images are prepared."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.pretrained import get_pretrained_cfg

PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode", "fill_color")


@dataclass(frozen=True)
class Meaning:
    """What a source of weights says about them.

    Args:
        quick_gelu: Whether open_clip's blocks computed with QuickGELU in training; None where nobody says.
        preprocess: Entries of open_clip's `preprocess_cfg`.
    """

    quick_gelu: bool | None = None
    preprocess: Mapping[str, Any] = field(default_factory=dict)


OF_OPENAI = Meaning(
    quick_gelu=True,
    preprocess={
        "mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD, "interpolation": "bicubic", "resize_mode": "shortest",
    },
)  # fmt: skip


def meaning_of_tag(name: str, tag: str) -> Meaning:
    """Return what open_clip's registry says about a tag; its configurations do not know the activation of all tags."""
    entry = get_pretrained_cfg(name, tag)
    # roberta-ViT-B-32's entry lacks what its configuration has: there the name says it
    is_quick = entry.get("quick_gelu", False) or (open_clip.get_model_config(name) or {}).get("quick_gelu", False)
    return Meaning(is_quick, preprocess_of(entry))


def meaning_of_config(config: Mapping[str, Any]) -> Meaning:
    """Return what an `open_clip_config.json` says."""
    model = config.get("model_cfg", {})
    return Meaning(
        bool(model.get("quick_gelu", False)) if model else None, preprocess_of(config.get("preprocess_cfg", {}))
    )


def meaning_of_file(path: Path, name: str | None) -> Meaning:
    """Return what is known of a bare file: TorchScript is OpenAI's; beside a model's name, what all its tags say.

    Args:
        name: Name of the open_clip model that the file is for, where there is one.
    """
    if is_torchscript(path):
        return OF_OPENAI
    tags = open_clip.list_pretrained_tags_by_model(name) if name else []
    told = [meaning_of_tag(name, tag) for tag in tags] if name else []
    activations = {each.quick_gelu for each in told}
    common = dict(told[0].preprocess) if told else {}
    for each in told:
        common = {key: value for key, value in common.items() if each.preprocess.get(key) == value}
    return Meaning(activations.pop() if len(activations) == 1 else None, common)


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive of TorchScript, in which OpenAI published its weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def preprocess_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a `preprocess_cfg` that weights expect of their images."""
    return {key: config[key] for key in PREPROCESS_KEYS if config.get(key) is not None}
