"""Backbones' own weights, read by the libraries that publish them, and counted: those libraries go on with half."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from open_clip.hf_model import HFTextEncoder
from torch import nn
from transformers import AutoModel

from vlp.ground.errors import first_line
from vlp.ground.types import RecipeError
from vlp.towers.weights import Loaded

Gaps = list[tuple[nn.Module, list[str]]]


@contextlib.contextmanager
def watching_gaps() -> Iterator[Gaps]:
    """Record, of every `load_state_dict` in the block, which of the module's tensors the state did not have.

    timm loads with `strict=False` where the classifier is dropped, and tells nobody what was missing.
    """
    gaps: Gaps = []
    load = nn.Module.load_state_dict

    def watched(module: nn.Module, *arguments: Any, **settings: Any) -> Any:
        result = load(module, *arguments, **settings)
        gaps.append((module, list(result.missing_keys)))
        return result

    with mock.patch.object(nn.Module, "load_state_dict", watched):
        yield gaps


def count_trunk(visual: nn.Module, gaps: Gaps, source: str) -> Loaded:
    """Return how much of a timm trunk came from timm's weights.

    Raises:
        RecipeError: Not all of it.
    """
    trunk: nn.Module = visual.trunk  # type: ignore[assignment]
    names = list(trunk.state_dict())
    missing = next((found for module, found in reversed(gaps) if module is trunk), names)
    _refuse_gaps("image", source, missing, len(names))
    return Loaded("visual.", len(names), len(visual.state_dict()), source)


def load_encoder(text: HFTextEncoder, source: str) -> Loaded:
    """Copy the weights of a transformers encoder into a text tower, and return how much of it they are.

    Raises:
        RecipeError: Not all of the encoder is there, or it cannot be read.
    """
    wanted = text.transformer.state_dict()
    try:
        twin, info = AutoModel.from_pretrained(source, output_loading_info=True, dtype=torch.float32)
    except Exception as error:  # transformers raises its own, the hub's, the network's and the disk's errors
        raise RecipeError(f"text.pretrained: cannot read the weights of '{source}': {first_line(error)}") from error
    absent = set(info["missing_keys"]) | {key for key, *_ in info["mismatched_keys"]}
    if twin.config.is_encoder_decoder:
        twin = twin.encoder
        absent = {name.removeprefix("encoder.") for name in absent}
    state = {name: value for name, value in twin.state_dict().items() if name not in absent and name in wanted}
    _refuse_gaps("text", source, sorted(set(wanted) - set(state)), len(wanted))
    text.transformer.load_state_dict(state, strict=False)
    return Loaded("text.", len(state), len(text.state_dict()), source)


def _refuse_gaps(side: str, source: str, missing: list[str], of: int) -> None:
    if missing:
        raise RecipeError(
            f"{side}.pretrained: {of - len(missing)} of the {of} tensors of the backbone are in '{source}', missing "
            f"are {', '.join(missing[:3])}: its file may name them otherwise; give it as {side}.weights, or another"
        )
