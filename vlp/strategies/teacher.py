"""Embeddings of models that are trained already, for terms that learn from a teacher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from vlp.ground.bits import checksum
from vlp.ground.types import Batch, Embeddings, Teacher
from vlp.strategies.base import Strategy, strategies
from vlp.towers.dual import DualEncoder
from vlp.towers.ensemble import side_by_side
from vlp.towers.view_encoder import ViewEncoder


@strategies.register("teacher")
class OtherModels(Strategy):
    """Embed each pair with other models too and hand the result to terms as `teacher`.

    They see the first view of each image as the model sees it, augmentation included, resized to their size, and read
    the caption that it reads with tokenizers of their own. Several are one teacher whose similarities are the means of
    theirs: its embeddings are theirs side by side over the square root of their number. (MobileCLIP, Vasu et al. 2023,
    arXiv:2311.17049, stores those of an ensemble side by side too, and averages the members' softmax probabilities.)
    Costs a forward pass of each without a graph. Their weights stand in no checkpoint; a resumed run compares them.
    With micro-batches they run twice.

    Args:
        models: As `vlp eval` takes one: a run (`RUN` or `RUN:LABEL`), an export, `hf-hub:ORG/NAME`, `NAME:TAG` of
            open_clip, a folder of transformers or ONNX files; `NAME@WIDTH` for first coordinates.

    Raises:
        ValueError: No model.
    """

    provides = frozenset({"teacher"})
    changes_captions = False

    def __init__(self, *, models: tuple[str, ...]):
        if not models:
            raise ValueError("models: name at least one")
        self.models = models
        self._encoders: list[ViewEncoder] = []
        self._sums = torch.zeros(len(models), dtype=torch.int64)
        self._prepared: Mapping[str, Any] = {}

    def load(self) -> str:
        with torch.random.fork_rng(devices=[]):  # towers begin with random weights
            self._encoders = [ViewEncoder(name) for name in self.models]
        self._sums = torch.stack([checksum(encoder.tensors()).cpu() for encoder in self._encoders])
        said = zip(self._encoders, self._sums.tolist(), strict=True)
        return ", ".join(f"{encoder.name} ({encoder.embed_dim} wide, checksum {total})" for encoder, total in said)

    @property
    def teacher_dim(self) -> int:
        return sum(encoder.embed_dim for encoder in self._encoders)

    def held(self) -> Iterable[Tensor]:
        for encoder in self._encoders:
            yield from encoder.tensors()

    def start(self, model: DualEncoder) -> None:
        self._prepared = model.preprocess_cfg
        for encoder in self._encoders:
            encoder.to(model.core.logit_scale.device)

    def after_forward(self, images: Tensor, batch: Batch, embeddings: Embeddings) -> Embeddings:
        return replace(embeddings, teacher=self.teach(images, batch))

    def teach(self, images: Float32[Tensor, "v n 3 h w"], batch: Batch) -> Teacher:
        """Return what the models say of normalised pixels and captions."""
        seen = [encoder.embed_images(images[0], self._prepared) for encoder in self._encoders]
        read = [encoder.embed_captions(batch.captions) for encoder in self._encoders]
        return Teacher(side_by_side(seen), side_by_side(read))

    def state_dict(self) -> dict[str, Tensor]:
        return {"checksums": self._sums}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, now, then in zip(self.models, self._sums.tolist(), state["checksums"].tolist(), strict=True):
            if now != then:
                raise ValueError(f"the weights of '{name}' are others than when the run began")
