"""Load an exported folder with every library and compare embeddings with those of the trained model."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import functional as transforms
from transformers import AutoImageProcessor, AutoModel, AutoProcessor, PreTrainedTokenizerFast, Siglip2Processor

from vlp.export.as_open_clip import has_correct_mask
from vlp.export.probes import TEXTS, probe_images
from vlp.ground.types import Encoder, RecipeError
from vlp.towers.dual import DualEncoder
from vlp.towers.encoder import TowerEncoder
from vlp.towers.load import load_model
from vlp.towers.onnx_pair import OnnxPair
from vlp.towers.text import can_cut

TOLERANCE = 1e-4
WORD_TOLERANCE = 1e-3  # of logarithms of probabilities, which reach into the tens


def compare(model: DualEncoder, folder: Path, formats: tuple[str, ...]) -> dict[str, Any]:
    """Return the largest differences per library and modality.

    Raises:
        RecipeError: A difference above the tolerance, or weights that a library did not find.
    """
    side = model.image_size if isinstance(model.image_size, int) else model.image_size[0]
    images = probe_images(side)
    ours = TowerEncoder(model, device=model.core.logit_scale.device)
    expected = {"image": ours.embed_images(images.values()), "text": ours.embed_texts(TEXTS)}
    report: dict[str, Any] = {
        "tolerance": TOLERANCE,
        "images": len(images),
        "texts": len(TEXTS),
        "dtype": "float32",
        "versions": {name: version(name) for name in ("open_clip_torch", "transformers", "timm", "torch")},
    }
    if "open_clip" in formats:
        report["open_clip"] = _with_open_clip(ours, folder, images, expected)
        report["vlp"] = _with_encoder("vlp", TowerEncoder(load_model(str(folder))), images, expected)
    if "transformers" in formats:
        if model.budget is not None:
            report["vlp"] = _with_encoder("vlp", TowerEncoder(load_model(str(folder))), images, expected)
        report["transformers"] = _with_transformers(ours, folder, images, expected)
    if "onnx" in formats:
        report["onnx"] = _with_encoder("onnxruntime", OnnxPair(folder).encoder("cpu"), images, expected)
    return report


def _with_open_clip(
    ours: TowerEncoder, folder: Path, images: dict[str, Image], expected: dict[str, Tensor]
) -> dict[str, Any]:
    place = f"local-dir:{folder.resolve()}"
    core, transform = open_clip.create_model_from_pretrained(place)
    tokenizer = open_clip.get_tokenizer(place)
    core.eval()
    if has_correct_mask(ours.model):
        core.text.correct_cls_mask = True
    pixels, words = torch.stack([transform(image) for image in images.values()]), tokenizer(list(TEXTS))
    with torch.inference_mode():
        image = core.encode_image(pixels, normalize=True)
        text = core.encode_text(words, normalize=True)
    found: dict[str, Any] = {
        "image": _difference("open_clip", "image", image, expected["image"]),
        "text": _difference("open_clip", "text", text, expected["text"]),
    }
    if ours.model.decoder is not None:
        few = min(len(pixels), len(words))
        found["words"] = _same_words(core, ours, pixels[:few], words[:few])
    return found


@torch.inference_mode()
def _same_words(core: Any, ours: TowerEncoder, pixels: Tensor, words: Tensor) -> dict[str, float]:
    """Compare what both decoders expect behind each token of captions, as logarithms of probabilities."""
    model = ours.model
    assert model.decoder is not None
    theirs = core(pixels, words)["logits"][:, : words.shape[1] - 1].log_softmax(dim=-1)  # 4.x: also behind the last
    _, image_tokens = model.core.visual(pixels.to(ours.device))
    _, text_tokens = model.core.text(words.to(ours.device))
    mine = model.decoder(image_tokens, text_tokens[:, :-1]).log_softmax(dim=-1).cpu()
    is_real = (words[:, 1:] != model.tokenizer.pad_id)[..., None]
    largest = ((theirs - mine).abs() * is_real).max().item()
    if not largest <= WORD_TOLERANCE:
        raise RecipeError(
            f"open_clip expects other words of captions: largest difference {largest:.2e} of a logarithm, allowed "
            f"{WORD_TOLERANCE:.0e}; nothing was exported"
        )
    return {"max_abs": largest}


def _with_encoder(
    library: str, encoder: Encoder, images: dict[str, Image], expected: dict[str, Tensor]
) -> dict[str, Any]:
    return {
        "image": _difference(library, "image", encoder.embed_images(images.values()), expected["image"]),
        "text": _difference(library, "text", encoder.embed_texts(TEXTS), expected["text"]),
    }


def _with_transformers(
    ours: TowerEncoder, folder: Path, images: dict[str, Image], expected: dict[str, Tensor]
) -> dict[str, Any]:
    """Compare through transformers' own processor.

    Where its documented way differs from open_clip's (which pixel a crop starts at, when a palette is resolved, which
    broken characters are mended), the comparison follows transformers' way and the deviation is listed.
    """
    twin, info = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    lost = {key: sorted(map(str, names)) for key, names in info.items() if names}
    if lost:
        raise RecipeError(f"transformers does not find the weights it needs: {lost}; nothing was exported")
    if ours.model.budget is None:
        processor = AutoProcessor.from_pretrained(folder, backend="pil")
    else:  # AutoProcessor reads the tokenizer beside a SigLIP 2 as `Siglip2Tokenizer`, whatever it is
        images_of = AutoImageProcessor.from_pretrained(folder, backend="pil")
        processor = Siglip2Processor(images_of, PreTrainedTokenizerFast.from_pretrained(folder))
    twin.eval()
    # towers that see their padding need all of it
    filling: dict[str, Any] = {"padding": True if can_cut(ours.model.core.text) else "max_length", "truncation": True}
    with torch.inference_mode():
        seen = processor(images=list(images.values()), return_tensors="pt")
        image = F.normalize(twin.get_image_features(**seen).pooler_output, dim=-1)
        words = processor(text=list(TEXTS), return_tensors="pt", **filling)
        text = F.normalize(twin.get_text_features(**words).pooler_output, dim=-1)
    image_reference, image_deviations = _image_reference(ours, images, expected["image"])
    same_tokens = _same_tokens(ours, processor, filling)
    _check_logits(twin, ours)
    return {
        "image": _difference("transformers", "image", image, image_reference),
        "text": _difference("transformers", "text", text[same_tokens], expected["text"][same_tokens]),
        "token_mismatches": int((~same_tokens).sum()),
        "deviations": image_deviations + _text_deviations(text, expected["text"], same_tokens),
        "class": type(twin).__name__,
        "backend": "pil",
    }


def _image_reference(ours: TowerEncoder, images: dict[str, Image], expected: Tensor) -> tuple[Tensor, list[dict]]:
    """Return our embeddings of what transformers cuts out, and where that is not what open_clip cuts out."""
    config = PreprocessCfg(**ours.model.preprocess_cfg)
    plain = [image.convert("RGB") for image in images.values()]
    reference = ours.embed_images(plain if ours.model.budget else [_floor_cut(image, config) for image in plain])
    deviations = []
    for name, image, one, other in zip(images, images.values(), reference, expected, strict=True):
        distance = (one - other).abs().max().item()
        if distance > TOLERANCE:
            reason = "crop starts one pixel earlier" if image.mode == "RGB" else "RGB before resizing, not after"
            deviations.append({"probe": name, "reason": reason, "max_abs": distance})
    return reference, deviations


def _floor_cut(image: Image, config: PreprocessCfg) -> Image:
    """Resize and crop as transformers does: the crop's first pixel is rounded down, torchvision's to even."""
    if config.resize_mode != "shortest":
        return image
    side = config.size
    mode = transforms.InterpolationMode(config.interpolation)
    resized = transforms.resize(image, side, interpolation=mode)
    left, top = (resized.width - side) // 2, (resized.height - side) // 2
    return resized.crop((left, top, left + side, top + side))


def _same_tokens(ours: TowerEncoder, processor: Any, filling: dict[str, Any]) -> Tensor:
    """Say for which probe texts both tokenizers agree; cleaned texts must agree in any case."""
    cleaned = [ours.model.tokenizer.clean(text) for text in TEXTS]
    agree = _agreeing(ours, processor, filling, cleaned)
    if not all(agree):
        wrong = [text for text, agrees in zip(TEXTS, agree, strict=True) if not agrees]
        raise RecipeError(f"transformers' tokenizer disagrees on cleaned texts: {wrong}; nothing was exported")
    return torch.tensor(_agreeing(ours, processor, filling, list(TEXTS)))


def _agreeing(ours: TowerEncoder, processor: Any, filling: dict[str, Any], texts: list[str]) -> list[bool]:
    tokens, lengths = ours.model.tokenizer(texts)
    theirs = processor(text=texts, return_tensors="pt", **filling).input_ids.tolist()
    padding = processor.tokenizer.pad_token_id
    rows = [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
    return [ids == row + [padding] * (len(ids) - len(row)) for ids, row in zip(theirs, rows, strict=True)]


def _text_deviations(text: Tensor, expected: Tensor, same: Tensor) -> list[dict]:
    distances = (text - expected).abs().amax(dim=1).tolist()
    reason = "open_clip mends this text before splitting it"
    return [
        {"probe": probe, "reason": reason, "max_abs": distance}
        for probe, distance, agrees in zip(TEXTS, distances, same.tolist(), strict=True)
        if not agrees
    ]


def _check_logits(twin: Any, ours: TowerEncoder) -> None:
    if abs(twin.logit_scale.exp().item() - ours.scale) > TOLERANCE * ours.scale:
        raise RecipeError("transformers reads another logit scale; nothing was exported")
    bias = twin.state_dict().get("logit_bias")
    if bias is not None and abs(bias.item() - ours.model.bias.item()) > TOLERANCE:
        raise RecipeError("transformers reads another logit bias; nothing was exported")


def _difference(library: str, modality: str, found: Tensor, expected: Tensor) -> dict[str, float]:
    largest = (found - expected).abs().max().item()
    # a comparison with NaN is false
    if not largest <= TOLERANCE:
        raise RecipeError(
            f"{library} gives other {modality} embeddings: largest difference {largest:.2e}, allowed {TOLERANCE:.0e}; "
            f"nothing was exported"
        )
    return {"max_abs": largest, "min_cosine": F.cosine_similarity(found, expected).min().item()}
