"""A forecast in a file, to be compared with what came true."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field, ValidationError

from vlp.ground.explain import explain
from vlp.ground.files import write_text
from vlp.ground.strict import Strict
from vlp.ground.types import RecipeError
from vlp.plan.forecast import Forecast
from vlp.plan.holding import GB


class SavedPlan(Strict):
    """What was expected of a run.

    Args:
        recipe: Its name.
        device: One of its devices.
        basis: Where the rates come from: measured on which machine, or assumed.
        pairs_per_second: Of the whole job.
        memory_gb: Of one device, in 1e9 bytes.
        memory_parts_gb: The same by what takes it; empty in plans of versions that did not write it.
        cores: That decode for one device.
    """

    recipe: str
    device: str
    num_devices: int = Field(ge=1)
    basis: str
    pairs_per_second: float = Field(gt=0)
    memory_gb: float = Field(gt=0)
    memory_parts_gb: dict[str, float] = {}
    cores: float = Field(ge=0)

    @classmethod
    def of(cls, found: Forecast) -> SavedPlan:
        """Return what a forecast says."""
        measured = found.assumed.measured
        return cls(
            recipe=found.recipe.name,
            device=found.device.name,
            num_devices=found.num_devices,
            basis=f"measured: {measured}" if measured else "assumed, not measured",
            pairs_per_second=found.pairs_per_second,
            memory_gb=found.total_memory / GB,
            memory_parts_gb={name: value / GB for name, value in found.memory.items() if value},
            cores=found.cores,
        )

    @classmethod
    def load(cls, path: Path) -> SavedPlan:
        """Read a plan.

        Raises:
            RecipeError: It cannot be read.
        """
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            return cls.model_validate(said)
        except ValidationError as error:
            layers = [(str(path), said if isinstance(said, dict) else {})]
            raise RecipeError(f"--plan: {explain(error, cls, layers)}") from error
        except (OSError, ValueError, RecursionError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise RecipeError(f"--plan: {path}: {reason}; `vlp plan RECIPE --to FILE` writes one") from error

    def save(self, path: Path) -> None:
        """Write the plan as JSON."""
        write_text(path, json.dumps(self.model_dump(), indent=2) + "\n")
