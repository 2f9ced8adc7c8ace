"""What accelerators can do, by their makers' data sheets: dense products, without sparsity."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from vlp.ground.registry import nearest
from vlp.ground.types import RecipeError

GIGA, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Device:
    """An accelerator.

    Args:
        matrix: Operations per second of products in bfloat16 and float16.
        tf32: Those of float32 products in TF32, or of float32 where there is none.
        float32: Those outside the matrix units, where the loss is computed.
        memory: Bytes.
        bandwidth: Bytes per second of that memory.
        link: Bytes per second, one way, to the other devices of the machine.
        per_machine: Devices of one machine, usually.
    """

    name: str
    matrix: float
    tf32: float
    float32: float
    memory: float
    bandwidth: float
    link: float
    per_machine: float = 8

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Device:
        """Return the device that a file describes.

        Raises:
            ValueError: A number is missing or not positive.
            TypeError: A value is none.
        """
        numbers: dict[str, Any] = {name: float(value) for name, value in values.items() if name != "name"}
        for name, number in numbers.items():
            if not 0 < number < inf:
                raise ValueError(f"device.{name} is {number}")
        return cls(name=str(values["name"]), **numbers)

    def rate(self, precision: str) -> float:
        """Return the operations per second of the towers' products in a recipe's precision."""
        return self.tf32 if precision == "float32" else self.matrix


DEVICES = {
    device.name: device
    for device in (
        Device("H200", 989 * TERA, 494 * TERA, 67 * TERA, 141 * GIGA, 4.8 * TERA, 450 * GIGA),
        Device("H100", 989 * TERA, 494 * TERA, 67 * TERA, 80 * GIGA, 3.35 * TERA, 450 * GIGA),
        Device("H100-PCIe", 756 * TERA, 378 * TERA, 51 * TERA, 80 * GIGA, 2.0 * TERA, 64 * GIGA),
        Device("A100", 312 * TERA, 156 * TERA, 19.5 * TERA, 80 * GIGA, 2.04 * TERA, 300 * GIGA),
        Device("A100-40GB", 312 * TERA, 156 * TERA, 19.5 * TERA, 40 * GIGA, 1.56 * TERA, 300 * GIGA),
        Device("L40S", 362 * TERA, 183 * TERA, 91.6 * TERA, 48 * GIGA, 0.864 * TERA, 32 * GIGA),
        Device("A10G", 70 * TERA, 35 * TERA, 31 * TERA, 24 * GIGA, 0.6 * TERA, 32 * GIGA, 4),
        Device("RTX-4090", 165 * TERA, 82.6 * TERA, 82.6 * TERA, 24 * GIGA, 1.01 * TERA, 32 * GIGA, 4),
        Device("RTX-3090", 71 * TERA, 35.6 * TERA, 35.6 * TERA, 24 * GIGA, 0.936 * TERA, 32 * GIGA, 4),
    )
}


def find_device(name: str) -> Device:
    """Return a device by name.

    Raises:
        RecipeError: It is not known.
    """
    if name not in DEVICES:
        raise RecipeError(f"--device: '{name}' is not known{nearest(name, DEVICES)}; there are {', '.join(DEVICES)}")
    return DEVICES[name]


def known_as(name: str) -> Device | None:
    """Return the device that a driver's name speaks of, such as `NVIDIA A100-SXM4-40GB`; None where it is not known."""
    said = {word.lower() for word in re.split(r"\W+", name)}
    words = {device: {word.lower() for word in device.name.split("-")} for device in DEVICES.values()}
    fitting = [device for device in words if words[device] <= said]
    return max(fitting, key=lambda device: len(words[device]), default=None)
