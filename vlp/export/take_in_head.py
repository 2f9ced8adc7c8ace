"""A trained head that becomes part of the towers' own projections, where it is no more than a matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator

from vlp.ground.types import RecipeError
from vlp.objectives.head import TrainedHead
from vlp.recipe.model import build_model, without_weights
from vlp.run.trained_model import TrainedModel
from vlp.towers.dual import DualEncoder


def take_in(trained: TrainedModel, head: TrainedHead, name: str) -> DualEncoder:
    """Return a model whose own projections are those of a trained one and a head of matrices behind them, multiplied.

    Raises:
        RecipeError: The head is no matrix, or does not read the embeddings.
    """
    matrices = {side: head.matrix(side) for side in ("image", "text")}
    if head.reads != "embeddings" or any(matrix is None for matrix in matrices.values()):
        raise RecipeError(
            f"@{name}: no tower of other libraries has such a head, which is more than a matrix behind the embeddings: "
            "export the model without it"
        )
    state = dict(trained.model.state_dict())
    for key, axis in projections_of(trained):
        matrix = matrices["image" if key.startswith("core.visual.") else "text"]
        assert matrix is not None, "both are matrices"
        state[key] = (state[key].movedim(axis, -1) @ matrix.T).movedim(-1, axis).contiguous()
    width = matrices["image"].shape[0]  # type: ignore[union-attr]
    model = build_model(without_weights(trained.recipe.model).model_copy(update={"embed_dim": width}))
    model.load_state_dict(state)
    if head.own_scale is not None:
        model.core.logit_scale.data.fill_(math.log(head.own_scale))
    return model.eval()


def projections_of(trained: TrainedModel) -> Iterator[tuple[str, int]]:
    """Yield what the towers project with, by name, and the axis along which it has the width of the embeddings."""
    section, width = without_weights(trained.recipe.model), trained.model.embed_dim
    wider = build_model(section.model_copy(update={"embed_dim": width + 1})).state_dict()
    for name, value in trained.model.state_dict().items():
        for axis, (ours, theirs) in enumerate(zip(value.shape, wider[name].shape, strict=True)):
            if ours != theirs:
                yield name, axis
