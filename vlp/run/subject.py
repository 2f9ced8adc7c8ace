"""Any model that can be named: a run, a checkpoint, an export, or what open_clip, transformers and onnxruntime run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vlp.run.trained_model import is_run, load_model_of_run, split_label
from vlp.towers.borrowed import BorrowedEncoder
from vlp.towers.dual import DualEncoder
from vlp.towers.encoder import TowerEncoder
from vlp.towers.load import AnyModel, load_any_model
from vlp.towers.onnx_pair import OnnxEncoder

AnyEncoder = TowerEncoder | BorrowedEncoder | OnnxEncoder
DEFAULT_TASKS = ("emoji24", "clipart-folders", "photos-cc0", "emoji-retrieval", "clipart-retrieval", "geometry")


@dataclass(frozen=True)
class Subject:
    """A model to evaluate and what is known about it.

    Args:
        model: What open_clip's towers can express, or a model that transformers or onnxruntime runs.
        tasks: Tasks to run unless others are asked for.
        folder: Where its evaluations are kept; None keeps none.
        number_format: What it was trained and evaluated in on the way; None is float32.
    """

    model: AnyModel
    name: str
    step: int | None = None
    weights: str = "model"
    tasks: tuple[str, ...] = DEFAULT_TASKS
    folder: Path | None = None
    number_format: torch.dtype | None = None

    def encoder(self, device: torch.device | str, *, batch_size: int = 256) -> AnyEncoder:
        """Move the model to a device and return what evaluators take."""
        if not isinstance(self.model, DualEncoder):
            return self.model.encoder(device, batch_size=batch_size)
        model = self.model.to(device)
        return TowerEncoder(model, device=device, batch_size=batch_size, autocast=self.number_format)

    def tensors(self) -> Iterable[Tensor]:
        """Return all weights in their order."""
        return self.model.state_dict().values() if isinstance(self.model, DualEncoder) else self.model.tensors()

    def check_tokenizer(self) -> None:
        """Refuse a tokenizer that does not fit the tower.

        Raises:
            RecipeError: It does not.
        """
        _ = self.model.tokenizer


def find_subject(name: str) -> Subject:
    """Load a model by name.

    Raises:
        RecipeError: No such model, or it has no weights.
    """
    path, label = split_label(name)
    if not is_run(path):
        return Subject(load_any_model(name), name)
    trained = load_model_of_run(path, label)
    step = trained.checkpoint.step
    return Subject(
        trained.model,
        trained.recipe.name,
        step,
        trained.weights,
        trained.recipe.evaluation.tasks or DEFAULT_TASKS,
        trained.checkpoint.path.parent.parent / "evaluations" / f"step_{step:08d}",
        trained.recipe.train.number_format,
    )
