"""A model whose decoder no other library has a place for, exported as the two towers that it has beside it."""

from __future__ import annotations

import copy

from vlp.towers.caption_decoder import CaptionDecoder
from vlp.towers.dual import DualEncoder
from vlp.towers.gated_decoder import GatedDecoder
from vlp.towers.locating_decoder import LocatingDecoder

ALONE = "the two towers alone are exported"
REASONS: dict[type[CaptionDecoder], str] = {
    GatedDecoder: f"no library has a place for a decoder with gates: {ALONE}, and vlp caption reads the run",
    LocatingDecoder: f"no library has a place for a decoder of captions and boxes: {ALONE}, as of SigLIP 2",
}


def towers_alone(model: DualEncoder) -> tuple[DualEncoder, dict[str, str]]:
    """Return what of a model can be exported, and why the rest cannot: by `captions`, or nothing.

    The embeddings stay as they are: a decoder takes no part in them.
    """
    if model.decoder is None or type(model.decoder) not in REASONS:
        return model, {}
    reason = REASONS[type(model.decoder)]
    alone = copy.deepcopy(model)
    del alone.core.text_decoder, alone.model_cfg["multimodal_cfg"]
    for tower, config in ((alone.core.visual, "vision_cfg"), (alone.core.text, "text_cfg")):
        tower.output_tokens = False
        alone.model_cfg[config].pop("output_tokens", None)
    return alone, {"captions": reason}
