"""Captions by open_clip's own loop, with the versions of transformers that it was not written for."""

from __future__ import annotations

import importlib

import pytest
import transformers
from open_clip import coca_model


def let_generate(patch: pytest.MonkeyPatch) -> None:
    """Let open_clip generate with transformers 5.

    Version 3 withholds its loop because a search that is not used here is gone; version 4 hands its decoder to
    transformers, which now asks it what it has of mixtures of experts.
    """
    if hasattr(coca_model, "_has_transformers"):
        patch.setattr(coca_model, "_has_transformers", True)
        patch.setitem(coca_model.GENERATION_TYPES, "top_k", transformers.TopKLogitsWarper)
    else:
        wrapper = importlib.import_module("open_clip.generation").MultimodalGenerationWrapper
        patch.setattr(wrapper, "get_experts_implementation", lambda _: None, raising=False)
