"""Any model that can be named: a run, a checkpoint, an export, or what open_clip, transformers and onnxruntime run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from vlp.ground.types import RecipeError
from vlp.objectives.head import TrainedHead
from vlp.run.folder import at_width, behind_head, evaluations_of, of_weights
from vlp.run.trained_head import HeadEncoder, load_head, split_head
from vlp.run.trained_model import is_run, load_model_of_run, split_label
from vlp.towers.borrowed import BorrowedEncoder
from vlp.towers.dual import DualEncoder
from vlp.towers.encoder import TowerEncoder
from vlp.towers.joined import JoinedEncoder
from vlp.towers.load import AnyModel, configuration_of, load_any_model, split_width, tensors_of
from vlp.towers.onnx_pair import OnnxEncoder
from vlp.towers.prefix_encoder import PrefixEncoder

AnyEncoder = TowerEncoder | BorrowedEncoder | OnnxEncoder | JoinedEncoder | PrefixEncoder | HeadEncoder
DEFAULT_TASKS = ("emoji24", "clipart-folders", "photos-cc0", "emoji-retrieval", "clipart-retrieval", "geometry")


@dataclass(frozen=True)
class Subject:
    """A model to evaluate and what is known about it.

    Args:
        model: What open_clip's towers can express, or a model that transformers or onnxruntime runs.
        tasks: Tasks to run unless others are asked for.
        folder: Where its evaluations are kept; None keeps none.
        number_format: What it was trained and evaluated in on the way; None is float32.
        width: Keep so many first coordinates of the embeddings; None keeps all.
        head: One of a run, behind which its embeddings are looked at.
    """

    model: AnyModel
    name: str
    step: int | None = None
    weights: str = "model"
    tasks: tuple[str, ...] = DEFAULT_TASKS
    folder: Path | None = None
    number_format: torch.dtype | None = None
    width: int | None = None
    head: TrainedHead | None = None

    @property
    def embed_dim(self) -> int:
        """Coordinates of the embeddings that its encoder gives."""
        if self.width is not None:
            return self.width
        return self.model.embed_dim if self.head is None else self.head.width

    def encoder(self, device: torch.device | str, *, batch_size: int = 256) -> AnyEncoder:
        """Move the model to a device and return what evaluators take."""
        whole = self._encoder(device, batch_size)
        return whole if self.width is None else PrefixEncoder(whole, self.width)

    def _encoder(
        self, device: torch.device | str, batch_size: int
    ) -> TowerEncoder | BorrowedEncoder | OnnxEncoder | JoinedEncoder | HeadEncoder:
        if not isinstance(self.model, DualEncoder):
            return self.model.encoder(device, batch_size=batch_size)
        model = self.model.to(device)
        encoder = TowerEncoder(model, device=device, batch_size=batch_size, autocast=self.number_format)
        return encoder if self.head is None else HeadEncoder(encoder, self.head)

    def tensors(self) -> Iterator[Tensor]:
        """Return all weights in their order, and what tells one width from another."""
        yield from tensors_of(self.model, self.width)
        yield from () if self.head is None else self.head.tensors()

    @property
    def configuration(self) -> str:
        """A word that changes with what the weights are used as."""
        used_as = configuration_of(self.model) | {"precision": str(self.number_format)}
        return hashlib.sha256(json.dumps(used_as, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def check_tokenizer(self) -> None:
        """Refuse a tokenizer that does not fit the tower.

        Raises:
            RecipeError: It does not.
        """
        _ = self.model.tokenizer


def find_subject(name: str) -> Subject:
    """Load a model by name; `NAME@WIDTH` keeps the first coordinates of its embeddings, made unit again, and `RUN@HEAD`
    looks behind a head.

    Raises:
        RecipeError: No such model, it has no weights, or its embeddings are not as wide.
    """
    whole_name, width = split_width(name)
    if width is not None:
        whole = find_subject(whole_name)
        if not 0 < width <= whole.embed_dim:
            raise RecipeError(f"@{width}: the model's embeddings have {whole.embed_dim} coordinates")
        folder = whole.folder and at_width(whole.folder, width)
        return replace(whole, name=f"{whole.name}@{width}", width=width, folder=folder)
    run, head = split_head(name)
    path, label = split_label(run)
    if not is_run(path):
        return Subject(load_any_model(name), name)
    trained = load_model_of_run(path, label)
    step = trained.checkpoint.step
    other = None if trained.weights == trained.recipe.evaluation.weights else trained.weights
    folder = of_weights(evaluations_of(trained.checkpoint.path.parent.parent, step), other)
    return Subject(
        trained.model,
        trained.recipe.name if head is None else f"{trained.recipe.name}@{head}",
        step,
        trained.weights,
        trained.recipe.evaluation.tasks or DEFAULT_TASKS,
        behind_head(folder, head),
        trained.recipe.train.number_format,
        head=None if head is None else load_head(trained, head),
    )
