"""Models small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from vlp.towers.base import caption_decoders, image_towers, text_towers
from vlp.towers.dual import DualEncoder
from vlp.towers.tuning.base import tunings

VIT: dict[str, Any] = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
TEXT: dict[str, Any] = {"layers": 2, "width": 32, "heads": 2}
SIGLIP_TEXT: dict[str, Any] = {
    **TEXT, "causal": False, "pool": "last", "proj_bias": True, "norm_eps": 1e-6, "context_length": 16
}  # fmt: skip
COCA: dict[str, Any] = {
    "image": {**VIT, "pooler_queries": 6, "pooler_heads": 2},
    "text": {**TEXT, "pool": "cls", "context_length": 16},
    "decoder": {"layers": 2, "heads": 2},
    "embed_dim": 32,
}
"""A decoder that reads five tokens of an image."""
CAPTIONS = ["a cat", "two dogs &amp; a very long leash " * 4, "", "a photo of a caf\u00e9", "x " * 200]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "two", "dogs", "photo", "of", "the", "leash", "&"]


def tiny_model(
    image: dict[str, Any] = VIT,
    text: dict[str, Any] = TEXT,
    *,
    moved: bool = True,
    tune: dict[str, Any] | str | None = None,
    decoder: dict[str, Any] | None = None,
    **settings: Any,
) -> DualEncoder:
    """Build a small model with the same weights every time.

    Args:
        moved: Move every weight a little, so that none is left at a special value.
        tune: Name of a way of tuning, or its settings and its name as `type`.
        decoder: Settings of a decoder of captions.
    """
    torch.manual_seed(0)
    image, text = dict(image), dict(text)
    image_tower = image_towers.build(image.pop("type", "vit"), image)
    text_tower = text_towers.build(text.pop("type", "transformer"), text)
    how = {"type": tune} if isinstance(tune, str) else dict(tune or {"type": "full"})
    tuning = tunings.build(how.pop("type"), how)
    writes = None
    if decoder is not None:
        decoder = dict(decoder)
        writes = caption_decoders.build(decoder.pop("type", "transformer"), decoder)
    model = DualEncoder(image_tower, text_tower, tuning, writes, **{"embed_dim": 16, **settings})
    if not moved:
        return model
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "logit" not in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def tiny_export(folder: Path, shift: float = 0.0) -> Path:
    """Write a tiny model in open_clip's folder format, and return the folder.

    Args:
        shift: Added to every weight.
    """
    model = tiny_model()
    folder.mkdir()
    config = {"model_cfg": model.model_cfg, "preprocess_cfg": model.preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    weights = {name: (value + shift).contiguous() for name, value in model.core.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


def tiny_batch(model: DualEncoder, captions: list[str] = CAPTIONS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return pixels, tokens and lengths of one view."""
    size = model.image_size
    pixels = torch.randn(1, len(captions), 3, size, size, generator=torch.Generator().manual_seed(2))
    tokens, lengths = model.tokenizer(captions)
    return pixels, tokens[None], lengths[None]


def tiny_bert(folder: Path) -> str:
    """Write a BERT encoder with weights and a tokenizer of its own, and return the folder."""
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, pad_token_id=0,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer()
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    return str(folder)


def tiny_images() -> list[Image.Image]:
    """Return images of odd sizes and unusual modes."""
    numbers = np.random.default_rng(4)
    shapes = [(32, 32), (33, 47), (101, 64), (7, 250)]
    images = [Image.fromarray(numbers.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in shapes]
    return [*images, images[1].convert("L"), images[2].convert("RGBA"), images[1].convert("P")]
