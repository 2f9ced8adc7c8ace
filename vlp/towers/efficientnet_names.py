"""Names of the tensors of an EfficientNet: those of the package efficientnet-pytorch and its offspring, and timm's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from torch import nn

STEM = "_conv_stem."  # what such a file is known by
OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
ATTENTION = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
EXPANDING = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
} | ATTENTION  # fmt: skip
PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"} | ATTENTION
Value = TypeVar("Value")


def is_of_efficientnet(names: Iterable[str]) -> bool:
    """Whether a file has the names of efficientnet-pytorch."""
    return any(name.startswith(STEM) for name in names)


def to_timm(state: Mapping[str, Value], trunk: nn.Module) -> dict[str, Value]:
    """Return a state by timm's names.

    Args:
        trunk: timm's model, whose blocks stand in stages; theirs are counted through.

    Raises:
        KeyError: A name that no EfficientNet has.
    """
    stages: nn.Module = trunk.blocks  # type: ignore[assignment]
    places = [
        f"blocks.{stage}.{number}" for stage, row in stages.named_children() for number, _ in row.named_children()
    ]
    expanding = {name.split(".")[1] for name in state if name.startswith("_blocks.") and "._expand_conv." in name}
    found = {}
    for name, value in state.items():
        first, *rest = name.split(".")
        if first != "_blocks":
            found[".".join([OUTER[first], *rest])] = value
            continue
        number, layer, *rest = rest
        names = EXPANDING if number in expanding else PLAIN
        found[".".join([places[int(number)], names[layer], *rest])] = value
    return found
