"""Whether the weights of two models mean the same: one architecture, one way to prepare images and texts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from open_clip.hf_model import HFTextEncoder
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vlp.export.probes import TEXTS
from vlp.ground.types import RecipeError
from vlp.recipe.layers import leaves
from vlp.towers.class_token import ClassTokenText
from vlp.towers.dual import DualEncoder
from vlp.towers.encoders import OtherEncoder

ANYTHING = {
    *("patch_dropout", "timm_drop", "timm_drop_path", "timm_model_pretrained"),  # of training alone
    *("hf_model_name", "hf_tokenizer_name", "hf_model_pretrained"),  # where something lies
    *("init_logit_bias", "init_logit_scale", "output_dict"),  # of the first step
}
"""Settings of open_clip that may differ between models of one architecture."""
OF_ENCODERS = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"}
"""The same of the configurations of transformers."""
COUNTER = "num_batches_tracked"  # of batch norm, which computes the same whatever it says
MOST_SHOWN = 3
OF_BATCH_NORM = (
    "Running means and variances of batch norm are averaged like weights. They are not those that the averaged weights "
    "would show on data (Izmailov et al. 2018, arXiv:1803.05407), so that scores may be lower than they could be."
)


@dataclass(frozen=True)
class Build:
    """How a model is built and fed, without its weights.

    Args:
        architecture: What stands in its configuration, by dotted key.
        shapes: Of its weights and their types, by name.
        whole: Checksums of its weights that are whole numbers, which cannot be averaged, without counters.
        preprocess: How its images are prepared.
        tokenizer: What its tokenizer is, and what it makes of some texts.
        norms: How many of its layers keep the mean and variance of what they have seen (batch norm).
    """

    name: str
    architecture: Mapping[str, Any]
    shapes: Mapping[str, str]
    whole: Mapping[str, str]
    preprocess: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    norms: int

    def notes(self) -> list[str]:
        """Return what a reader should know of averages of such models."""
        return [OF_BATCH_NORM] if self.norms else []


def build_of(name: str, model: DualEncoder) -> Build:
    """Describe a model, so that others can be compared with it when it is gone."""
    settings = {key: value for key, value in leaves(model.model_cfg).items() if key.split(".")[-1] not in ANYTHING}
    return Build(
        name,
        settings | _encoder_settings(model.core.text),
        {key: f"{tuple(value.shape)} {value.dtype}" for key, value in model.state_dict().items()},
        {key: _sum(value) for key, value in model.state_dict().items() if _is_whole(key, value)},
        model.preprocess_cfg,
        _tokenizer(model),
        sum(isinstance(module, _BatchNorm) and module.track_running_stats for module in model.modules()),
    )


def check_same_model(first: Build, other: Build) -> None:
    """Refuse two models whose weights do not mean the same.

    Raises:
        RecipeError: They differ in architecture, preprocessing or tokenizer; says in what.
    """
    for what, mine, theirs in (
        ("architecture", first.architecture, other.architecture),
        ("shape of tensors", first.shapes, other.shapes),
        ("content of tensors that are no real numbers", first.whole, other.whole),
        ("preprocessing", first.preprocess, other.preprocess),
        ("tokenizer", first.tokenizer, other.tokenizer),
    ):
        absent = object()
        names = [key for key in (*mine, *(theirs.keys() - mine.keys())) if not _equal(mine, theirs, key, absent)]
        if names:
            said = [f"{key} {mine.get(key, 'absent')} and {theirs.get(key, 'absent')}" for key in names[:MOST_SHOWN]]
            more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
            raise RecipeError(
                f"'{first.name}' and '{other.name}' cannot be put together: another {what} ({'; '.join(said)}{more}); "
                "name models that were trained from the same start"
            )


def _equal(mine: Mapping[str, Any], theirs: Mapping[str, Any], key: str, absent: object) -> bool:
    one, two = mine.get(key, absent), theirs.get(key, absent)
    return list(one) == list(two) if isinstance(one, list | tuple) and isinstance(two, list | tuple) else one == two


def _is_whole(name: str, value: Tensor) -> bool:
    return not value.is_floating_point() and not name.endswith(COUNTER)


def _sum(value: Tensor) -> str:
    return hashlib.sha256(value.detach().cpu().numpy().tobytes()).hexdigest()[:8]


def _encoder_settings(text: nn.Module) -> dict[str, Any]:
    """Return what transformers says of a text tower of its own, and of open_clip's what its configuration does not."""
    if isinstance(text, ClassTokenText):
        return {"text.correct_cls_mask": text.correct_cls_mask}
    told = text.config.to_dict() if isinstance(text, HFTextEncoder | OtherEncoder) else {}
    return {f"text.{key}": value for key, value in leaves(told).items() if key not in OF_ENCODERS}


def _tokenizer(model: DualEncoder) -> dict[str, Any]:
    tokenizer = model.tokenizer
    tokens, lengths = tokenizer(TEXTS)
    ids = [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]
    return {
        "kind": type(tokenizer).__name__,
        "context_length": tokenizer.context_length,
        "highest_id": tokenizer.highest_id,
        "pad_id": tokenizer.pad_id,
        **{f"ids of {text[:20]!r}": row for text, row in zip(TEXTS, ids, strict=True)},
    }
