"""As what one sample is shown: its crops, its wordings, and wrong captions beside the right one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray

from vlp.data.faults import net
from vlp.data.pixels.crop import Crop, crop_views
from vlp.data.pixels.decode import Picture
from vlp.data.samples import Sample
from vlp.data.texts.captions import Caption, Captions
from vlp.data.texts.text_augment import TextAugment
from vlp.data.texts.wrong_captions import WrongCaptions
from vlp.ground.randomness import CAPTION, CROP, NEGATIVE, POLICY, REWORD, Draws, fold

if TYPE_CHECKING:  # torchvision takes a second to import, and most runs have no policy
    from vlp.data.pixels.policies import Policy


@dataclass(frozen=True)
class Views:
    """What a sample's image and caption become; every view is a function of (seed, epoch, sample, view).

    Args:
        crops: One for each image view, all of one size; the first view leads.
        captions: Chooses and words captions.
        rewordings: One for each text view; the first view leads.
        negatives: Makes wrong captions of the first text view; they follow the text views.
        policy: Changes the pixels of every image view.
        spare_first: Leave the first image view to itself.
    """

    crops: tuple[Crop, ...]
    captions: Captions
    rewordings: tuple[TextAugment, ...] = (TextAugment(),)
    negatives: WrongCaptions | None = None
    policy: Policy | None = None
    spare_first: bool = False

    @property
    def size(self) -> int:
        """Side of every crop in pixels."""
        return self.crops[0].size

    @property
    def num_negatives(self) -> int:
        """Wrong captions of each sample."""
        return self.negatives.count if self.negatives else 0

    @net("corrupt_image")
    def images(
        self, picture: Picture, seed: int, epoch: int, number: int, into: UInt8[NDArray, "v s s 3"]
    ) -> Float32[NDArray[np.float32], "v 5"]:
        """Write the pixels of every image view; return what each shows of the picture, as `Batch.cuts` has it.

        Raises:
            BadSampleError: `corrupt_image`.
        """
        drawn = [(crop, Draws(seed, CROP, epoch, number, view)) for view, crop in enumerate(self.crops)]
        views, cuts = crop_views(picture, drawn)
        for view, pixels in enumerate(views):
            if self.policy is not None and view >= int(self.spare_first):
                pixels = self.policy(pixels, fold(seed, POLICY, epoch, number, view))
            into[view] = pixels
        return np.array([cut.row for cut in cuts], dtype=np.float32)

    def texts(self, sample: Sample, seed: int, epoch: int, number: int) -> list[Caption]:
        """Return every text view, then the wrong captions.

        Raises:
            BadSampleError: There is no caption, or it is empty, too long, or not text.
        """
        views = range(len(self.rewordings))
        texts = [self.captions(sample, Draws(seed, CAPTION, epoch, number, view)) for view in views]
        given = self.captions.under(self.negatives.key, sample) if self.negatives and self.negatives.key else []
        with net("bad_caption"):
            return self._reword(texts, given, seed, epoch, number)

    def _reword(
        self, captions: list[Caption], given: Sequence[str], seed: int, epoch: int, number: int
    ) -> list[Caption]:
        texts = []
        for view, (reword, caption) in enumerate(zip(self.rewordings, captions, strict=True)):
            text = reword(caption.text, Draws(seed, REWORD, epoch, number, view)) if reword.is_on else caption.text
            texts.append(Caption(text, caption.identity))
        if self.negatives:
            draws = Draws(seed, NEGATIVE, epoch, number)
            texts += [Caption(wrong, texts[0].identity) for wrong in self.negatives(texts[0].text, draws, given)]
        return texts
