"""How many graphs a run has compiled, and whether it goes on compiling."""

from __future__ import annotations

from vlp.recipe.schema import Recipe


class CompiledGraphs:
    """Counts graphs of torch.compile; says nothing where nothing is compiled."""

    def __init__(self, recipe: Recipe) -> None:
        self._compiles = bool(recipe.train.compile)
        self._known = 0

    def metrics(self) -> dict[str, float]:
        """Return `compiled_graphs`, those of this process so far, and `compiled_anew`, those since the last call."""
        if not self._compiles:
            return {}
        from torch._dynamo.utils import counters  # its import takes seconds, which a compiled run has paid

        graphs = int(counters["stats"]["unique_graphs"])
        new, self._known = graphs - self._known, graphs
        return {"compiled_graphs": float(graphs), "compiled_anew": float(new)}
