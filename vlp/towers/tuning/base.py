"""What every way of tuning does, and the one that leaves nothing out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

from open_clip import CustomTextCLIP
from torch import nn

from vlp.ground.registry import Registry
from vlp.towers.depth import blocks_behind


class Tuning(ABC):
    """Decides what of both towers trains, before `model.freeze` locks more; its keyword-only arguments are settings."""

    @abstractmethod
    def apply(self, core: CustomTextCLIP) -> None:
        """Lock parameters of the towers, or add some.

        Raises:
            RecipeError: The towers have nothing of what it trains.
        """


DEFAULT = "full"
tunings: Registry[Tuning] = Registry("tuning", "vlp.towers.tuning")


def towers_of(core: CustomTextCLIP) -> Iterator[tuple[str, nn.Module]]:
    """Yield both towers, and what recipes call them."""
    yield "image", core.visual
    yield "text", core.text


def keep_training(tower: nn.Module, wanted: Callable[[int], bool]) -> int:
    """Lock the parameters of a tower but for those of some depth; return how many tensors train.

    Args:
        wanted: Whether parameters with so many blocks behind them train.
    """
    behind = blocks_behind(tower)
    for name, parameter in tower.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and wanted(behind[name]))
    return sum(parameter.requires_grad for parameter in tower.parameters())


@tunings.register(DEFAULT)
class Full(Tuning):
    """Train all parameters of both towers."""

    def apply(self, core: CustomTextCLIP) -> None:
        """Leave everything as it is."""
