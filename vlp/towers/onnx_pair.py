"""Dual encoders as two ONNX files: onnxruntime runs them, and evaluations see embeddings as of any other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from PIL.Image import Image
from pydantic import Field, ValidationError
from torch import Tensor
from torch.nn import functional

from vlp.ground.explain import explain
from vlp.ground.strict import Strict
from vlp.ground.types import RecipeError
from vlp.towers.plain_pixels import PLAIN, normalised, preparation
from vlp.towers.tokenizers import PaddingTokenizer, tokenizer_for

PAIR_FILE = "onnx_pair.json"
TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}
MASK = "attention_mask"


class OnnxPairFile(Strict):
    """The keys of `onnx_pair.json`, which lies beside the files.

    Args:
        image: File of the image tower: pixels [n, 3, h, w] to features [n, d].
        text: File of the text tower: token ids [n, l] to features [n, d]; an input `attention_mask` gets ones where
            tokens are.
        image_output: Name of the features among several outputs.
        text_output: The same of the text tower.
        preprocess_cfg: How images are prepared, in the words of `open_clip_config.json`.
        context_length: Tokens to which texts are cut and filled.
        tokenizer: Folder, relative to the file, or hub id of a tokenizer of transformers; CLIP's own when absent.
        clean: open_clip's text cleaning: `lower`, `whitespace` or `canonicalize`; by default that of the tokenizer.
        scale: Inverse temperature.
    """

    image: str = "image.onnx"
    text: str = "text.onnx"
    image_output: str | None = None
    text_output: str | None = None
    preprocess_cfg: dict[str, Any]
    context_length: int = Field(default=77, ge=2)
    tokenizer: str | None = None
    clean: str | None = None
    scale: float = Field(default=100.0, gt=0)


class OnnxTower:
    """One file, from an array to features.

    Args:
        path: The file; weights that it keeps in files of their own must lie beside it.
        output: Name of the features, where the file has several outputs.

    Raises:
        RecipeError: onnxruntime is missing or cannot load it, or it has other inputs or outputs.
    """

    def __init__(self, path: Path, output: str | None):
        self.path = path
        self.session = _session(path)
        inputs = {each.name: each for each in self.session.get_inputs()}
        self.mask = inputs.pop(MASK, None)
        outputs = [each.name for each in self.session.get_outputs()]
        if len(inputs) != 1:
            raise RecipeError(f"{path}: a tower has one input, and this has {', '.join(inputs) or 'none'}")
        (self.input,) = inputs.values()
        if self.input.type not in TYPES:
            raise RecipeError(f"{path}: its input is {self.input.type}, which is none of {', '.join(TYPES)}")
        if (output is None and len(outputs) > 1) or output not in (None, *outputs):
            raise RecipeError(f"{path}: which of its outputs are the features? name one of {', '.join(outputs)}")
        self.output = output or outputs[0]

    @property
    def batch_size(self) -> int | None:
        """Rows that it takes at a time, where it was exported for so many."""
        size = self.input.shape[0] if self.input.shape else None
        return size if isinstance(size, int) else None

    def __call__(self, rows: Tensor, mask: Tensor | None = None) -> Float32[Tensor, "n d"]:
        """Return features of unit norm."""
        size = self.batch_size or len(rows)
        filler = rows[-1:].expand(size - len(rows), *rows.shape[1:])
        feeds = {self.input.name: _array(torch.cat([rows, filler]), self.input.type)}
        if self.mask is not None and mask is not None:
            whole = torch.cat([mask, mask[-1:].expand(size - len(mask), *mask.shape[1:])])
            feeds[MASK] = _array(whole, self.mask.type)
        try:
            (found,) = self.session.run([self.output], feeds)
        except Exception as error:  # onnxruntime has a class for each trouble and no base of its own
            raise RecipeError(f"{self.path}: onnxruntime: {error}") from error
        if found.ndim != 2 or len(found) != size:
            raise RecipeError(f"{self.path}: '{self.output}' is {list(found.shape)} for {size} inputs: no features")
        return functional.normalize(torch.from_numpy(found[: len(rows)]).float(), dim=-1)


class OnnxPair:
    """Two ONNX files and what `onnx_pair.json` says of them.

    Args:
        folder: Where they lie.

    Raises:
        RecipeError: A file is missing, a key is wrong, or onnxruntime is not installed.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        where = folder / PAIR_FILE
        try:
            told = json.loads(where.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RecipeError(f"{where}: {error}") from error
        if not isinstance(told, dict):
            raise RecipeError(f"{where}: expected a JSON object with the keys of an ONNX pair")
        try:
            self.file = OnnxPairFile.model_validate(told)
        except ValidationError as error:
            raise RecipeError(explain(error, OnnxPairFile, [(str(where), told)])) from error
        try:
            self.transform = preparation(self.file.preprocess_cfg)
            self.plain_transform = preparation(self.file.preprocess_cfg | PLAIN)
        except (TypeError, ValueError, AssertionError) as error:
            raise RecipeError(f"{where}: preprocess_cfg: {error}") from error
        self.image = OnnxTower(folder / self.file.image, self.file.image_output)
        self.text = OnnxTower(folder / self.file.text, self.file.text_output)

    @property
    def preprocess_cfg(self) -> Mapping[str, Any]:
        """How its images are prepared, in the words of open_clip."""
        return self.file.preprocess_cfg

    @cached_property
    def tokenizer(self) -> PaddingTokenizer:
        """What makes token ids of texts."""
        told: dict[str, Any] = {"context_length": self.file.context_length}
        if self.file.clean is not None:
            told["tokenizer_kwargs"] = {"clean": self.file.clean}
        if self.file.tokenizer is not None:
            inside = self.folder / self.file.tokenizer
            told["hf_tokenizer_name"] = str(inside) if inside.is_dir() else self.file.tokenizer
        return tokenizer_for(told)

    @cached_property
    def embed_dim(self) -> int:
        """Width of its embeddings."""
        return self.encoder("cpu").embed_texts(["a photo"]).shape[1]

    def tensors(self) -> Iterable[Tensor]:
        """Return a tensor per file that depends on every byte of it, also of files that keep weights beside them."""
        for path in sorted({*self.folder.glob("*.onnx*"), self.image.path, self.text.path, self.folder / PAIR_FILE}):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
            # a number per byte: sums alone forget their order
            yield torch.tensor(list(digest), dtype=torch.int64) * torch.arange(1, len(digest) + 1)

    def encoder(self, _device: torch.device | str, *, batch_size: int = 256) -> OnnxEncoder:
        """Return what evaluators take; it computes on the CPU whatever the device."""
        return OnnxEncoder(self, batch_size)


class OnnxEncoder:
    """Embed images and texts with a pair of ONNX files."""

    has_gradients = False

    def __init__(self, model: OnnxPair, batch_size: int):
        self.model = model
        self.batch_size = batch_size
        self.scale = model.file.scale

    def embed_images(self, images: Iterable[Image]) -> Float32[Tensor, "n d"]:
        """Embed images of any size and mode."""
        tower = self.model.image
        pixels = (self.model.transform(image) for image in images)
        return self._collect(tower(torch.stack(batch)) for batch in self._batches(pixels, tower))

    def plain_pixels(self, image: Image) -> Float32[Tensor, "3 h w"]:
        """Return the pixels of an image of any size and mode, before they are normalised."""
        return self.model.plain_transform(image)

    def embed_pixels(self, pixels: Float32[Tensor, "n 3 h w"]) -> Float32[Tensor, "n d"]:
        """Embed what `plain_pixels` makes of images; no gradient reaches them."""
        rows = normalised(pixels.detach(), self.model.preprocess_cfg)
        return self._collect(map(self.model.image, rows.split(self.model.image.batch_size or len(rows))))

    def embed_texts(self, texts: Sequence[str]) -> Float32[Tensor, "n d"]:
        """Embed texts; long ones are cut to the context."""
        tower = self.model.text
        return self._collect(tower(*self._tokens(batch)) for batch in self._batches(iter(texts), tower))

    def _tokens(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Return ids filled to the context, as the exported tower has seen them, and where texts are."""
        tokens, lengths = self.model.tokenizer(texts)
        length = self.model.file.context_length
        filled = functional.pad(tokens, (0, length - tokens.shape[1]), value=self.model.tokenizer.pad_id)
        return filled, (torch.arange(length) < lengths[:, None]).long()

    def _batches(self, things: Iterator[Any], tower: OnnxTower) -> Iterator[list[Any]]:
        while batch := list(islice(things, tower.batch_size or self.batch_size)):
            yield batch

    def _collect(self, parts: Iterator[Tensor]) -> Float32[Tensor, "n d"]:
        found = list(parts)
        return torch.cat(found) if found else torch.empty(0, self.model.embed_dim)


def is_onnx_pair(folder: Path) -> bool:
    """Whether a folder holds a pair of ONNX files that says what it is."""
    return (folder / PAIR_FILE).is_file()


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise RecipeError(f"{path}: ONNX files need onnxruntime: pip install 'vlp[onnx]'") from error
    if not path.is_file():
        raise RecipeError(f"{path}: no such file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors alone
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class for each trouble and no base of its own
        raise RecipeError(f"{path}: onnxruntime cannot load it: {error}") from error


def _array(rows: Tensor, kind: str) -> np.ndarray:
    return np.ascontiguousarray(rows.numpy().astype(TYPES[kind]))
