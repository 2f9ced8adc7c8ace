"""Read weights into a model: all of it, or one tower."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from open_clip import CustomTextCLIP
from open_clip.convert import convert_state_dict
from open_clip.factory import load_state_dict
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed
from torch import Tensor

from vlp.types import RecipeError


def load_weights(core: CustomTextCLIP, path: Path, *, part: str = "") -> None:
    """Copy weights in any layout that open_clip reads; position embeddings are resized where the grid differs.

    Args:
        part: Name prefix of what to copy, such as `visual.`; everything by default.

    Raises:
        RecipeError: The file lacks weights, has others, or of other shapes.
    """
    try:
        state = _fitted(core, load_state_dict(str(path)))
    except AssertionError as error:  # open_clip's word for position embeddings of another width
        raise RecipeError(f"the weights in '{path}' are not of this model: {error}") from error
    wanted = {name: value for name, value in core.state_dict().items() if name.startswith(part)}
    found = {name: value for name, value in state.items() if name.startswith(part)}
    # a model with a sigmoid bias may start from one without
    if "logit_bias" in wanted and "logit_bias" not in found:
        found["logit_bias"] = core.logit_bias.detach()
    _check(path, wanted, found)
    core.load_state_dict(found, strict=False)


def _fitted(core: CustomTextCLIP, state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {name.removeprefix("core."): value for name, value in state.items()}
    state = convert_to_custom_text_state_dict(convert_state_dict(core, state))
    for name in ("logit_scale", "logit_bias"):
        if name in state:
            state[name] = state[name].reshape(1)
    state.pop("text.transformer.embeddings.position_ids", None)  # written by transformers before 4.31
    resize_pos_embed(state, core)
    if "text.positional_embedding" in state:
        resize_text_pos_embed(state, core)
    return state


def _check(path: Path, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    missing = sorted(set(wanted) - set(found))
    surplus = sorted(set(found) - set(wanted))
    if missing or surplus:
        raise RecipeError(
            f"the weights in '{path}' are not of this model: {len(missing)} missing {missing[:3]}, "
            f"{len(surplus)} unknown {surplus[:3]}"
        )
    for name, value in wanted.items():
        if found[name].shape != value.shape:
            raise RecipeError(
                f"the weights in '{path}' are not of this model: '{name}' has shape {tuple(found[name].shape)}, "
                f"the model {tuple(value.shape)}"
            )
