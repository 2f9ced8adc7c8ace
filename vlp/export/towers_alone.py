"""A model whose decoder no other library has a place for, exported as the two towers that it has beside it."""

from __future__ import annotations

import copy

from vlp.towers.dual import DualEncoder
from vlp.towers.gated_decoder import GatedDecoder

REASON = (
    "no library has a place for a decoder with gates: the two towers alone are exported, and vlp caption reads the run"
)


def towers_alone(model: DualEncoder) -> tuple[DualEncoder, dict[str, str]]:
    """Return what of a model can be exported, and why the rest cannot: by `captions`, or nothing.

    The embeddings stay as they are: a decoder takes no part in them.
    """
    if not isinstance(model.decoder, GatedDecoder):
        return model, {}
    alone = copy.deepcopy(model)
    del alone.core.text_decoder, alone.model_cfg["multimodal_cfg"]
    for tower, config in ((alone.core.visual, "vision_cfg"), (alone.core.text, "text_cfg")):
        tower.output_tokens = False
        del alone.model_cfg[config]["output_tokens"]
    return alone, {"captions": REASON}
