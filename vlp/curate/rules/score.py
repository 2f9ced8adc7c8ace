"""Images and captions that a model finds unlike."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray

from vlp.curate.facts.gather import FactTable
from vlp.curate.facts.view import View
from vlp.curate.rules.base import Flags, rules
from vlp.ground.types import RecipeError


@rules.register("score")
class Score:
    """Keep samples whose image and caption have a large cosine.

    Schuhmann et al. 2022, section 3 (arXiv:2210.08402) keeps those over 0.28 with OpenAI's ViT-B-32.

    Args:
        model: Run or checkpoint folder, exported folder, `hf-hub:ORG/NAME`, or `NAME:TAG` of open_clip.
        least: Cosine that is enough.
        share: Share of the samples to keep instead, those with the largest cosines.
    """

    def __init__(self, *, model: str, least: float | None = None, share: float | None = None):
        if (least is None) == (share is None):
            raise RecipeError("give one of least (a cosine) and share (of the samples)")
        if share is not None and not 0 < share <= 1:
            raise RecipeError(f"share: {share} is not between 0 and 1")
        self.fact = Cosine(model)
        self.facts = (self.fact,)
        self.least = least
        self.share = share

    def drops(self, table: FactTable, alive: Flags) -> Flags:
        """Compare cosines with the least one, or with that of the last sample of the share; what has none goes."""
        cosines = table.values(self.fact)
        if self.share is not None and alive.any():
            ranked = np.sort(np.nan_to_num(cosines[alive], nan=-np.inf))[::-1]
            self.least = float(ranked[max(1, round(self.share * len(ranked))) - 1])
        return ~(cosines >= self.least) if self.least is not None else ~alive  # NaN is less than nothing

    def reason(self, table: FactTable, number: int) -> str:
        """Name the cosine."""
        return f"cosine {table.value(self.fact, number):.3f}, less than {self.least:.3f}"


@dataclass(frozen=True)
class Cosine:
    """The cosine of a sample's image and caption."""

    model: str
    on_device = True

    @cached_property
    def name(self) -> str:
        """Changes with the weights, for a run folder goes on being trained, and with what they are used as."""
        model = _encoder(self.model).model
        used_as = {"model": model.model_cfg, "images": model.preprocess_cfg}
        weights = hashlib.sha256(json.dumps(used_as, sort_keys=True, default=str).encode())
        for key, value in sorted(model.state_dict().items()):
            weights.update(key.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return f"cosine-{weights.hexdigest()[:16]}"

    def read(self, view: View) -> tuple[Any, str]:
        """Return prepared pixels and the caption."""
        return _encoder(self.model).transform(view.image), view.caption

    def rows(self, read: list[Any]) -> NDArray[np.float32]:
        """Embed a batch."""
        if not read:
            return np.empty(0, dtype=np.float32)
        encoder = _encoder(self.model)
        images, captions = zip(*read, strict=True)
        return (encoder.embed_prepared(images) * encoder.embed_texts(captions)).sum(1).numpy()


@cache
def _encoder(model: str) -> Any:
    # Imports every tower and recipe, which no other rule needs.
    from vlp.run.trained_model import is_run, load_model_of_run
    from vlp.towers.encoder import TowerEncoder
    from vlp.towers.load import load_model

    path, device = Path(model), PartialState().device
    loaded = load_model_of_run(path).model if is_run(path) else load_model(model)
    return TowerEncoder(loaded.eval().to(device), device=device)
