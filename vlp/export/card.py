"""The model card of an exported folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlp.export.as_open_clip import has_correct_mask
from vlp.towers.dual import DualEncoder

LIBRARIES = ("open_clip", "transformers", "onnx")
OPEN_CLIP = """```python
import open_clip

model, preprocess = open_clip.create_model_from_pretrained("local-dir:PATH")   # or "hf-hub:ORG/NAME"
model.eval()
tokenizer = open_clip.get_tokenizer("local-dir:PATH")
image = model.encode_image(preprocess(picture)[None], normalize=True)
text = model.encode_text(tokenizer(["a photo of a cat"]), normalize=True)
```"""
# open_clip stores the address of a transformers text tower: this finds it wherever the folder has gone
OPEN_CLIP_MOVED = """```python
import json
import open_clip

place = "PATH"
with open(f"{place}/open_clip_config.json") as file:
    text_cfg = json.load(file)["model_cfg"]["text_cfg"] | {"hf_model_name": place}
model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{place}", text_cfg=text_cfg)
model.eval()
tokenizer = open_clip.get_tokenizer(f"local-dir:{place}")
```"""
TRANSFORMERS = """```python
import torch
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("PATH", dtype=torch.float32)                 # or "ORG/NAME"
processor = AutoProcessor.from_pretrained("PATH", backend="pil")
inputs = processor(text=["a photo of a cat"], images=picture, padding=PADDING, truncation=True, return_tensors="pt")
output = model(**inputs)                                                       # image_embeds, text_embeds
```"""
SIGLIP2 = """```python
import torch
from transformers import AutoImageProcessor, AutoModel, PreTrainedTokenizerFast, Siglip2Processor

model = AutoModel.from_pretrained("PATH", dtype=torch.float32)                 # or "ORG/NAME"
words = PreTrainedTokenizerFast.from_pretrained("PATH")       # AutoProcessor would take it for SigLIP 2's own
processor = Siglip2Processor(AutoImageProcessor.from_pretrained("PATH", backend="pil"), words)
inputs = processor(text=["a photo of a cat"], images=picture, return_tensors="pt")
output = model(**inputs)                                                       # image_embeds, text_embeds
```"""
ONNX = """```bash
pip install "vlp[onnx]"
vlp eval PATH --tasks quick          # `onnx_pair.json` says how images and texts are prepared, for other programs too
```"""

CAPTIONS = """It writes captions: `vlp caption PATH picture.jpg`. With open_clip alone, the words that follow the tokens
`text` are `model(pixels, text, output_labels=False)["logits"][:, -1]`; its `generate` needs transformers before 5."""
CORRECT_MASK = """open_clip must be told of the mask of the class token, which no configuration of its can say: behind
loading, set `model.text.correct_cls_mask = True`. Without it embeddings of texts differ; captions do not."""


def write_card(
    folder: Path,
    model: DualEncoder,
    *,
    name: str,
    recipe_text: str,
    results: Sequence[Mapping[str, Any]],
    data_note: str,
    origins: Sequence[str],
    licence: str,
    left_out: Mapping[str, str],
    parity: Mapping[str, Any],
    further: Mapping[str, str],
) -> None:
    """Write README.md: what the model is, what it saw, how it scores, and how to load it.

    Args:
        further: Text of other sections, by title.
    """
    is_trained = bool(recipe_text)
    sections = [
        _header(licence, parity),
        f"# {name}",
        f"An image tower and a text tower that share one embedding space, {'trained' if is_trained else 'written'} "
        "with `vlp`.",
        "## Loading",
        _loading(model, left_out, parity),
        "## Results",
        _table(results),
        "Values in brackets bound the 95 % interval; the full records are in `eval/`.",
        *(part for title, said in further.items() for part in (f"## {title}", said)),
        "## Data",
        data_note.strip() or "Not stated.",
        *(["## Weights at the start"] if origins or is_trained else []),
        *(["\n".join(f"- {line}" for line in origins) or "Random."] if origins or is_trained else []),
        "## Licence",
        f"`{licence}`; the data above may set further conditions.",
        "## Preprocessing",
        _preprocessing(model),
        "## Agreement between libraries",
        _agreement(parity),
        *(["## Recipe", f"```yaml\n{recipe_text.strip()}\n```"] if is_trained else []),
    ]
    (folder / "README.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def _header(licence: str, parity: Mapping[str, Any]) -> str:
    libraries = [library for library in LIBRARIES if library in parity]
    tags = ["clip", "vlp", *libraries]
    lines = ["---", f"library_name: {libraries[0]}", "pipeline_tag: zero-shot-image-classification"]
    lines.append(f"license: {licence}")
    return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _loading(model: DualEncoder, left_out: Mapping[str, str], parity: Mapping[str, Any]) -> str:
    parts = []
    if "open_clip" in parity:
        parts.append(OPEN_CLIP)
        if "hf_model_name" in model.model_cfg["text_cfg"]:
            parts.append("Where this folder has been moved, open_clip must be told where its text tower lies now:")
            parts.append(OPEN_CLIP_MOVED)
        if model.decoder is not None:
            parts.append(CAPTIONS)
        if has_correct_mask(model):
            parts.append(CORRECT_MASK)
    if "transformers" in parity:
        is_clip = parity["transformers"]["class"] == "CLIPModel"
        usual = TRANSFORMERS.replace("PADDING", "True" if is_clip else '"max_length"')
        parts.append(usual if model.budget is None else SIGLIP2)
        if is_clip and model.core.logit_bias is not None:
            parts.append(
                f"CLIPModel has no logit bias: add {model.bias.item():.6g} to `logits_per_image` before a sigmoid."
            )
    if "onnx" in parity:
        parts += ["Two ONNX files:", ONNX]
    parts += [f"Not exported for {library}: {reason}." for library, reason in left_out.items()]
    return "\n\n".join(parts)


def _table(results: Sequence[Mapping[str, Any]]) -> str:
    rows = ["| Task | Metric | Value | Samples |", "|---|---|---|---|"]
    for record in results:
        for metric, found in record["metrics"].items():
            interval = "" if found.get("low") is None else f" [{found['low']:.4f}, {found['high']:.4f}]"
            task = f"{record['task']} v{record['version']}"
            rows.append(f"| {task} | {metric} | {found['value']:.4f}{interval} | {found['count']} |")
    return "\n".join(rows) if len(rows) > 2 else "No evaluation was run."


def _preprocessing(model: DualEncoder) -> str:
    config = model.preprocess_cfg
    lines = [
        f"```json\n{json.dumps(config)}\n```",
        "Weights are stored in float32. How equal scores were counted stands in the records of `eval/`.",
    ]
    lines.append("Convert transparent images to RGB first: the libraries blend them differently.")
    if model.budget is not None:
        lines.append(
            f"Images keep their aspect ratio: each is resized to what {model.budget.most} patches of "
            f"{model.budget.patch} x {model.budget.patch} pixels can cover; `size` and `resize_mode` have no meaning."
        )
    elif config["resize_mode"] == "shortest":
        lines.append(
            "transformers starts a centre crop up to one pixel earlier than open_clip when the margin is odd; with "
            "`resize_mode: squash` both see the same pixels."
        )
    return "\n\n".join(lines)


def _agreement(parity: Mapping[str, Any]) -> str:
    rows = ["| Library | Images | Texts |", "|---|---|---|"]
    for library in LIBRARIES:
        if library in parity:
            found = parity[library]
            rows.append(f"| {library} | {found['image']['max_abs']:.1e} | {found['text']['max_abs']:.1e} |")
    text = "\n".join(rows)
    text += f"\n\nLargest difference of any number of {parity['images']} image and {parity['texts']} text embeddings."
    if "transformers" in parity:
        text += (
            ' transformers is compared with `backend="pil"`; its default backend resizes differently by about one '
            "grey level. Where its preprocessing differs by design, `parity.json` lists the probe and the difference."
        )
    return text
