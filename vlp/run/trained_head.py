"""Heads as runs left them: to score a model behind one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float32
from PIL.Image import Image
from torch import Tensor

from vlp.ground.types import RecipeError
from vlp.objectives.base import Term
from vlp.objectives.head import TrainedHead, find_head
from vlp.objectives.shared.view_pairs import Modality
from vlp.recipe.named_parts import build_head, build_term
from vlp.recipe.schema import Recipe
from vlp.run.trained_model import TrainedModel, is_run, split_label
from vlp.towers.around_encoder import AroundEncoder
from vlp.towers.encoder import TowerEncoder
from vlp.towers.feature_widths import feature_widths


def split_head(name: str) -> tuple[str, str | None]:
    """Return run and head of `RUN@HEAD`; None where it names no head, or no run."""
    asked = re.fullmatch(r"(.+)@([A-Za-z_][\w.-]*)", name)
    if asked is None or Path(name).expanduser().exists() or not is_run(split_label(asked[1])[0]):
        return name, None
    return asked[1], asked[2]


def load_head(trained: TrainedModel, name: str) -> TrainedHead:
    """Return a head of a run: an entry of `heads`, or one that a term offers, by its label and perhaps `.NUMBER`.

    Raises:
        RecipeError: There is no such head.
    """
    recipe, model = trained.recipe, trained.model
    state: Mapping[str, Tensor] = trained.checkpoint.training()["objective"]
    label = name.partition(".")[0]
    known = [*recipe.heads, *(each for each in recipe.objective if offers_heads(recipe, each))]
    if name not in recipe.heads and label not in known:
        raise RecipeError(f"no head is called '{name}' (known: {', '.join(known) or 'none'})")
    heads, offering = {}, {}
    if name in recipe.heads:
        heads[name] = head = build_head(recipe, name)
        head.create(model.embed_dim, feature_widths(model) if head.reads == "features" else None)
        head.load_state_dict(_within(state, f"heads.{name}."))
    else:
        offering[label] = term = build_term(recipe, label)
        if saved := _within(state, f"terms.{label}."):
            term.create(model.embed_dim)
            term.load_state_dict(saved)
    return find_head(name, heads, offering)


def offers_heads(recipe: Recipe, label: str) -> bool:
    """Whether a term has heads of its own; others may need more than a width to be made."""
    return type(build_term(recipe, label)).offered_heads is not Term.offered_heads


def _within(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


class HeadEncoder(AroundEncoder):
    """Embed as a model does behind one of its heads.

    Args:
        encoder: Of the model.
        head: In front of which its towers stand.
    """

    # What these say is of the model, not of what stands behind the head.
    not_asked = frozenset({"embed_pixels", "styled_pixels", "embed_shifted"})

    def __init__(self, encoder: TowerEncoder, head: TrainedHead):
        super().__init__(encoder)
        self.head = head

    @property
    def scale(self) -> float:
        """Inverse temperature of the head, or of the model."""
        return self.encoder.scale if self.head.own_scale is None else self.head.own_scale

    @property
    def ungated(self) -> TowerEncoder:
        """The model, whose embeddings no text has filtered."""
        found: TowerEncoder = self.encoder
        return found

    def embed_images(self, images: Iterable[Image]) -> Float32[Tensor, "n e"]:
        """Embed images of any size and mode."""
        read = self.encoder.image_features if self.head.reads == "features" else self.encoder.embed_images
        return self._behind("image", read(images))

    def embed_texts(self, texts: Sequence[str]) -> Float32[Tensor, "n e"]:
        """Embed texts; long ones are cut to the context."""
        read = self.encoder.text_features if self.head.reads == "features" else self.encoder.embed_texts
        return self._behind("text", read(texts))

    @torch.inference_mode()
    def text_gates(self, texts: Sequence[str]) -> Float32[Tensor, "n e"]:
        """Return the filter of coordinates that each text opens.

        Raises:
            RecipeError: Texts open none here.
        """
        gates = self.head.gates(self.encoder.embed_texts(texts).to(self.head.tensors()[0].device))
        if gates is None:
            raise RecipeError("behind this head texts open no filter: name one of type text_gate (RUN@HEAD)")
        return gates.cpu()

    @torch.inference_mode()
    def _behind(self, modality: Modality, rows: Float32[Tensor, "n d"]) -> Float32[Tensor, "n e"]:
        device = self.head.tensors()[0].device
        return self.head.embed(modality, rows.to(device)).cpu()
