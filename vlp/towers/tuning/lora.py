"""Train thin matrices beside the frozen ones of both towers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
from open_clip import CustomTextCLIP
from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from vlp.ground.patterns import check_matches, matches
from vlp.ground.types import RecipeError
from vlp.towers.attention import LeanBlock
from vlp.towers.blocks import blocks_of
from vlp.towers.low_rank import LowRank, adapt, adapters_of
from vlp.towers.trial_inputs import one_image, one_text
from vlp.towers.tuning.base import Tuning, keep_training, towers_of, tunings

SideName = Literal["image", "text"]


@tunings.register("lora")
class Lora(Tuning):
    """Train low-rank adapters of the linear layers in the blocks (LoRA, Hu et al. 2021, arXiv:2106.09685).

    Optimizers keep moments of the adapters alone, and no gradient of a frozen matrix is computed. Evaluation and export
    merge them, so that a model has the size and the speed that it had; `vlp export --adapters` writes them in peft's
    format.

    Args:
        rank: Rank of an adapter; or one for each tower, as `{image: 8, text: 4}`.
        alpha: Multiplies what an adapter adds, divided by the rank; null takes twice the rank. Or one for each tower.
        dropout: Share of an adapter's inputs that a training step leaves out.
        image: Adapt the image tower.
        text: Adapt the text tower.
        targets: Name patterns of the layers that get one, such as `*.attn` or `*.mlp.*`, and `visual.*` or `text.*` for
            those of one tower; without any, all linear layers of the blocks do, queries, keys and values included. The
            last projection of open_clip's own attention never does: peft 0.21 would add it twice.
        heads: Train what stands behind the last block too: projections, poolers and norms.
    """

    def __init__(
        self,
        *,
        rank: PositiveInt | dict[SideName, PositiveInt] = 8,
        alpha: PositiveFloat | dict[SideName, PositiveFloat] | None = None,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        image: bool = True,
        text: bool = True,
        targets: tuple[str, ...] = (),
        heads: bool = False,
    ):
        if not image and not text:
            raise RecipeError("model.tune: LoRA of neither tower trains nothing: adapt image or text")
        self.wanted = {"image": image, "text": text}
        self.adapters: dict[str, dict[str, Any]] = {}
        for side in (side for side, wanted in self.wanted.items() if wanted):
            own = _of_side("rank", rank, side)
            scale = 2 * own if alpha is None else _of_side("alpha", alpha, side)
            self.adapters[side] = {"rank": own, "alpha": scale, "dropout": dropout}
        self.targets = targets
        self.heads = heads

    def apply(self, core: CustomTextCLIP) -> None:
        """Lock the towers and adapt their layers.

        Raises:
            RecipeError: A pattern matches no layer, a tower has none, or it does not run through one of them.
        """
        names = {module: name for name, module in core.named_modules()}
        found = {
            side: {names[layer]: layer for block in blocks_of(tower) for layer in _linear_layers(block)}
            for side, tower in towers_of(core)
            if self.wanted[side]
        }
        if self.targets:
            check_matches(self.targets, {name for layers in found.values() for name in layers}, "model.tune.targets")
        for side, tower in towers_of(core):
            keep_training(tower, lambda behind: self.heads and behind == 0)
            layers = {name: layer for name, layer in found.get(side, {}).items() if self._is_target(name)}
            if self.wanted[side] and not self.targets and not layers:
                raise RecipeError(
                    f"model.tune: the blocks of the {side} tower have no linear layers that LoRA could adapt: set "
                    f"model.tune.{side}=false, or model.tune=last_blocks"
                )
            for layer in layers.values():
                adapt(layer, **self.adapters[side])
        _check_used(core)

    def _is_target(self, name: str) -> bool:
        return not self.targets or matches(name, self.targets)


def _of_side(name: str, value: float | dict[SideName, Any], side: str) -> Any:
    """Return what holds for one tower.

    Raises:
        RecipeError: Each tower has a value of its own, but for this one.
    """
    if not isinstance(value, dict):
        return value
    found = next((each for tower, each in value.items() if tower == side), None)
    if found is None:
        raise RecipeError(f"model.tune.{name}: has none for the {side} tower: give one, or set model.tune.{side}=false")
    return found


def _linear_layers(block: nn.Module) -> Iterator[nn.Module]:
    """Yield linear layers that are called as such, and the attention of a block that knows of adapters."""
    attentions = [module.attn for module in block.modules() if isinstance(module, LeanBlock) and module.is_lean]
    yield from attentions
    projections = [attention.out_proj for attention in attentions]
    yield from (layer for layer in block.modules() if isinstance(layer, nn.Linear) and layer not in projections)


@torch.no_grad()
def _check_used(core: CustomTextCLIP) -> None:
    """Run each tower once and see that it calls all adapters.

    Raises:
        RecipeError: It multiplies with the matrix of some layer itself.
    """
    called: set[LowRank] = set()
    hooks = [
        adapter.register_forward_hook(lambda module, *_: called.add(module)) for _, _, adapter in adapters_of(core)
    ]
    was_training = core.training
    core.eval()
    try:
        core.visual(one_image(core.visual))
        core.text(one_text(core.text, core.context_length))
    finally:
        core.train(was_training)
        for hook in hooks:
            hook.remove()
    idle = [name for name, _, adapter in adapters_of(core) if adapter not in called]
    if idle:
        raise RecipeError(
            f"model.tune: the tower multiplies with the weights of {idle[0]} itself ({len(idle)} layers), past any "
            "adapter: name others with model.tune.targets, such as [*.mlp.*]"
        )
