"""How many graphs a run has compiled, and whether it goes on compiling."""

from __future__ import annotations

from vlp.recipe.schema import Recipe


class CompiledGraphs:
    """Counts graphs of torch.compile from here on; says nothing where nothing is compiled."""

    def __init__(self, recipe: Recipe) -> None:
        self._compiles = bool(recipe.train.compile)
        self._before = self._told = _graphs() if self._compiles else 0

    def metrics(self) -> dict[str, float]:
        """Return `compiled_graphs`, those of this process so far, and `compiled_anew`, those since the last call."""
        if not self._compiles:
            return {}
        graphs = _graphs()
        new, self._told = graphs - self._told, graphs
        return {"compiled_graphs": float(graphs - self._before), "compiled_anew": float(new)}


def _graphs() -> int:
    from torch._dynamo.utils import counters  # its import takes seconds, which only compiled runs should pay

    return int(counters["stats"]["unique_graphs"])
