"""The processor of an exported folder: what transformers does to images and texts before the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL.Image import Resampling
from transformers import CLIPImageProcessorPil, PreTrainedTokenizerFast, ProcessorMixin

from vlp.export.tokenizer import settle_config

RESAMPLING = {"bicubic": Resampling.BICUBIC, "bilinear": Resampling.BILINEAR}


def write_processor(kind: type[ProcessorMixin], tokenizer: PreTrainedTokenizerFast, images: Any, folder: Path) -> None:
    """Write the tokenizer and the image processor, together and each for itself."""
    kind(images, tokenizer).save_pretrained(folder)
    settle_config(tokenizer, folder)
    images.save_pretrained(folder)  # preprocessor_config.json, for readers before transformers 5


def image_processor(preprocess: Mapping[str, Any]) -> CLIPImageProcessorPil:
    """Return the image processor that comes closest to open_clip's evaluation transform."""
    side = preprocess["size"]
    is_cropped = preprocess["resize_mode"] == "shortest"
    return CLIPImageProcessorPil(
        do_resize=True,
        size={"shortest_edge": side} if is_cropped else {"height": side, "width": side},
        do_center_crop=is_cropped,
        crop_size={"height": side, "width": side},
        **pixel_settings(preprocess),
    )


def pixel_settings(preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an image processor that say nothing of sizes."""
    return {
        "resample": RESAMPLING[preprocess["interpolation"]],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess["mean"]),
        "image_std": list(preprocess["std"]),
        "do_convert_rgb": True,
    }
