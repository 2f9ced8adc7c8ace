"""Several dual encoders as one, whose embeddings are theirs side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float32
from PIL.Image import Image
from torch import Tensor

from vlp.ground import files
from vlp.ground.types import Encoder, RecipeError
from vlp.towers.dual import DualEncoder
from vlp.towers.encoder import TowerEncoder
from vlp.towers.ensemble import side_by_side

JOINED_FILE = "joined.json"


class JoinedModel:
    """The models that `joined.json` of a folder names, as one.

    Embeddings stand side by side over the square root of their number, as the stages of multistage contrast are put
    together (Zhang et al. 2024, section 4.2, arXiv:2402.11816): similarities are the means of the members'.

    Args:
        folder: Where the file and the members lie.
        load: Loads a member by name.

    Raises:
        RecipeError: The file is broken, or a member is no model.
    """

    def __init__(self, folder: Path, load: Callable[[str], Any]):
        self.folder = folder
        where = folder / JOINED_FILE
        try:
            names = json.loads(where.read_text(encoding="utf-8"))["members"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecipeError(
                f"{where}: expected members: a list of models, relative to its folder: {error}"
            ) from error
        self.members = [load(str(folder / name)) for name in names]
        if not self.members:
            raise RecipeError(f"{where}: members is empty: name one model at least")

    @property
    def preprocess_cfg(self) -> Mapping[str, Any]:
        """How each member prepares images."""
        return {"members": [dict(member.preprocess_cfg) for member in self.members]}

    @property
    def tokenizer(self) -> list[Any]:
        """What makes token ids of texts, member by member."""
        return [member.tokenizer for member in self.members]

    @property
    def embed_dim(self) -> int:
        """Width of the embeddings."""
        return sum(member.embed_dim for member in self.members)

    def tensors(self) -> Iterator[Tensor]:
        """Yield all weights of all members in their order."""
        for member in self.members:
            yield from member.state_dict().values() if isinstance(member, DualEncoder) else member.tensors()

    def encoder(self, device: torch.device | str, *, batch_size: int = 256) -> JoinedEncoder:
        """Return what evaluators take."""
        encoders: list[Encoder] = []
        for member in self.members:
            if isinstance(member, DualEncoder):
                encoders.append(TowerEncoder(member.to(device), device=device, batch_size=batch_size))
            else:
                encoders.append(member.encoder(device, batch_size=batch_size))
        return JoinedEncoder(self, encoders, batch_size)


class JoinedEncoder:
    """Embed images and texts with several encoders, and put the embeddings side by side."""

    def __init__(self, model: JoinedModel, encoders: Sequence[Encoder], batch_size: int):
        self.model = model
        self.encoders = encoders
        self.batch_size = batch_size

    @property
    def scale(self) -> float:
        """Mean inverse temperature of the members."""
        return fmean(encoder.scale for encoder in self.encoders)

    def embed_images(self, images: Iterable[Image]) -> Float32[Tensor, "n d"]:
        """Embed images of any size and mode; a batch of them is in memory at a time."""
        coming = iter(images)
        parts = []
        while batch := list(islice(coming, self.batch_size)):
            parts.append(side_by_side([encoder.embed_images(batch) for encoder in self.encoders]))
        return torch.cat(parts) if parts else side_by_side([encoder.embed_images([]) for encoder in self.encoders])

    def embed_texts(self, texts: Sequence[str]) -> Float32[Tensor, "n d"]:
        """Embed texts as each member does."""
        return side_by_side([encoder.embed_texts(texts) for encoder in self.encoders])


def is_joined(folder: Path) -> bool:
    """Whether a folder says of itself that it joins models."""
    return (folder / JOINED_FILE).is_file()


def write_joined(folder: Path, members: Sequence[str]) -> None:
    """Say that models are one.

    Args:
        members: Their names, relative to the folder.
    """
    files.write_text(folder / JOINED_FILE, json.dumps({"members": list(members)}, indent=2) + "\n")
