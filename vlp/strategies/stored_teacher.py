"""What other models said of the training's views, read from files: a teacher that costs a look-up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vlp.data.stored_views import StoredViews
from vlp.ground.types import Batch, Embeddings, Teacher, send
from vlp.strategies.base import Strategy, strategies
from vlp.towers.ensemble import side_by_side


@strategies.register("stored_teacher")
class StoredTeacher(Strategy):
    """Hand terms what other models said of the same views when `vlp embed --views` embedded them, as `teacher`.

    As the stored reinforcements of MobileCLIP, Vasu et al. 2023 (arXiv:2311.17049); views follow from seed, epoch and
    sample, so that their numbers are all that need be kept. Several folders are one teacher, as several models are for
    `teacher`. No strategy changes a view before it is embedded.

    Args:
        folders: What `vlp embed MODEL CARD --views N --recipe RECIPE` wrote, with this recipe's views.
        cycle: Show the views of the first N epochs again and again; else a training of more epochs is refused.

    Raises:
        ValueError: No folder.
    """

    provides = frozenset({"teacher"})
    reads_images = False
    changes_captions = False

    def __init__(self, *, folders: tuple[str, ...], cycle: bool = False):
        if not folders:
            raise ValueError("folders: name at least one")
        self.folders = folders
        self.cycle = cycle
        self.stored: list[StoredViews] = []

    def load(self) -> str:
        self.stored = [StoredViews(Path(folder).expanduser()) for folder in self.folders]
        said = (f"{each.model} (checksum {each.checksum})" for each in self.stored)
        return ", ".join(said)

    @property
    def teacher_dim(self) -> int:
        return sum(each.width for each in self.stored)

    @property
    def num_epochs(self) -> int:
        """Epochs whose views all folders hold."""
        return min(each.num_epochs for each in self.stored)

    def after_forward(self, _images: Tensor, batch: Batch, embeddings: Embeddings) -> Embeddings:
        assert batch.visits is not None, "the stream says which samples it has drawn"
        visits = batch.visits.numpy()
        found = [[_unit(side, each) for side in each.read(visits)] for each in self.stored]
        device = embeddings.image.device
        images, texts = (send(side_by_side(members), device) for members in zip(*found, strict=True))
        return replace(embeddings, teacher=Teacher(images, texts))

    def state_dict(self) -> dict[str, Tensor]:
        return {"checksums": torch.tensor([each.checksum for each in self.stored])}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        now = self.state_dict()["checksums"].tolist()
        for folder, ours, theirs in zip(self.folders, now, state["checksums"].tolist(), strict=True):
            if ours != theirs:
                raise ValueError(f"{folder} is of other weights than when the run began")


def _unit(rows: Float32[NDArray[np.float32], "n d"], stored: StoredViews) -> Float32[Tensor, "n d"]:
    """Return rows as they were written, or made unit again where they were rounded."""
    whole = torch.from_numpy(rows)
    return whole if stored.kind == "float32" else functional.normalize(whole, dim=1)
