"""A further view of each image in the style of another one."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from vlp.data.pixels.amplitudes import Styles, check_styles
from vlp.ground.bits import checksum
from vlp.ground.draws import below_one, pick, uniform
from vlp.ground.types import Batch
from vlp.strategies.base import Strategy, strategies
from vlp.strategies.image_views import turned
from vlp.towers.dual import DualEncoder

SALT = 77


@strategies.register("style_views")
class StyleViews(Strategy):
    """Show each image once more with the low-frequency amplitudes of another one, to terms that read all views.

    A positive that differs in colour and light alone, after the contrast across styles of Zhang et al. 2021
    (arXiv:2112.01021), whose translation network the Fourier exchange of Yang and Soatto 2020 (arXiv:2004.05498) stands
    for. The view has the crop of the first, and random changes of its own (`data.augment`); it costs a pass of the
    image tower. The styles stand in no checkpoint; a resumed run compares them.

    Args:
        card: Whose images are the styles: name or path of a card under `data/`.
        count: How many of them, at even distances.
        share: Reach of the exchanged waves as a share of the shorter side (the paper's: 0.01, 0.05 and 0.09).
        strength: Largest part of the way to the style, drawn evenly from 0 on.

    Raises:
        ValueError: A `strength` outside (0, 1].
    """

    makes_views = True
    changes_captions = False

    def __init__(self, *, card: str = "embedded-photos", count: int = 64, share: float = 0.05, strength: float = 1.0):
        if not 0 < strength <= 1:
            raise ValueError(f"strength {strength} must lie in (0, 1]")
        check_styles(count, share)
        self.card, self.count, self.share, self.strength = card, count, share, strength
        self._styles: Styles | None = None
        self._sum = torch.zeros((), dtype=torch.int64)

    def start(self, model: DualEncoder) -> None:
        size = model.image_size
        height, width = (size, size) if isinstance(size, int) else size
        self._styles = Styles(self.card, self.count, self.share, height, width)
        self._sum = checksum([self._styles.images]).cpu()
        self._styles.to(model.core.logit_scale.device)

    def held(self) -> Iterable[Tensor]:
        if self._styles is not None:
            yield self._styles.images

    def before_forward(self, batch: Batch) -> Batch:
        assert self._styles is not None, "start() comes first"
        chosen = below_one(uniform(pick(batch.draws[0][:, 0], 2**24), 0, SALT, 2), torch.float32)
        pixels = batch.images[0].permute(0, 3, 1, 2)
        styled = self._styles.give(pixels, chosen[:, 0], chosen[:, 1] * self.strength)
        return batch.with_views(styled.permute(0, 2, 3, 1)[None], turned(batch.draws[0], len(batch.images))[None])

    def state_dict(self) -> dict[str, Tensor]:
        return {"checksum": self._sum}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if not torch.equal(self._sum, state["checksum"]):
            raise ValueError(f"the images of card '{self.card}' are others than when the run began")
