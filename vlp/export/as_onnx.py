"""A pair of ONNX files: what towers compute, whatever they are made of, for onnxruntime and `vlp`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from vlp.ground.errors import said_by
from vlp.ground.types import RecipeError
from vlp.towers.dual import DualEncoder
from vlp.towers.learned_tokens import prompted
from vlp.towers.onnx_pair import PAIR_FILE
from vlp.towers.tokenizers import ClipTokenizer, TransformersTokenizer
from vlp.towers.trial_inputs import one_image, one_text

TOKENIZER = "tokenizer"  # folder beside the files
MOST_ROWS = 4096
LONGEST = 300  # letters of another library's error


def onnx_obstacles(model: DualEncoder) -> list[str]:
    """Return why a pair of ONNX files cannot express the model; nothing if it can."""
    found = []
    if model.budget is not None:
        found.append("its image file reads images of one size")
    if model.decoder is not None:
        found.append("it has no place for a decoder of captions")
    if prompted(model.core.text) is not None:
        found.append("its tokenizer puts no learned tokens into captions")
    if isinstance(model.tokenizer, TransformersTokenizer) and model.tokenizer.strip_sep_token:
        found.append("its tokenizer replaces separators by zeros, which the pair has no word for")
    return found


def write_onnx(model: DualEncoder, folder: Path) -> None:
    """Write two files, what is known of them, and the tokenizer, for a model without obstacles.

    Raises:
        RecipeError: onnxscript is missing, or torch cannot write a tower.
    """
    try:
        import onnxscript  # noqa: F401 - of which torch.onnx says so late, and at length
    except ImportError as error:
        raise RecipeError("ONNX files need onnxscript: pip install 'vlp[onnx]'") from error
    _write_tower(model.core.visual, one_image(model.core.visual), folder / "image.onnx")
    _write_tower(model.core.text, one_text(model.core.text, model.context_length), folder / "text.onnx")
    told = {
        "preprocess_cfg": model.preprocess_cfg,
        "context_length": model.context_length,
        "scale": model.scale.item(),
    }
    tokenizer = model.tokenizer
    if isinstance(tokenizer, TransformersTokenizer):
        tokenizer.words.save_pretrained(folder / TOKENIZER)
        told |= {"tokenizer": TOKENIZER, "clean": tokenizer.cleaning}
    elif isinstance(tokenizer, ClipTokenizer):
        told |= {"clean": tokenizer.cleaning}
    (folder / PAIR_FILE).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _write_tower(tower: nn.Module, example: Tensor, path: Path) -> None:
    rows = torch.cat([example, example]).to(next(tower.parameters()).device)  # of one, torch would fix the number
    shapes = ({0: torch.export.Dim("batch", min=1, max=MOST_ROWS)},)
    try:
        program = torch.onnx.export(tower, (rows,), dynamo=True, dynamic_shapes=shapes, verbose=False)
    except Exception as error:  # the exporter has a class for each stage, and raises what towers raise
        raise RecipeError(f"torch.onnx cannot write {path.name}: {said_by(error, LONGEST)}") from error
    assert program is not None
    program.save(str(path))
