"""Lock the whole image tower and teach the text tower to read it."""

from __future__ import annotations

from open_clip import CustomTextCLIP

from vlp.towers.tuning.base import Tuning, tunings


@tunings.register("lit")
class LockedImage(Tuning):
    """Train the text tower alone (locked-image tuning, Zhai et al. 2022, arXiv:2111.07991).

    The cheapest way to another language or vocabulary: images are embedded as they were, so nothing that the image
    tower knows is lost.
    """

    def apply(self, core: CustomTextCLIP) -> None:
        """Lock the image tower."""
        core.visual.requires_grad_(False)
