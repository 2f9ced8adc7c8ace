"""As what one sample is shown: its crops, its wordings, and wrong captions beside the right one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray

from vlp.data.faults import net
from vlp.data.mined_captions import MinedCaptions
from vlp.data.pixels.crop import Cropping, Cut, crop_views, rows_of
from vlp.data.pixels.decode import Picture
from vlp.data.pixels.native_crop import NativeCrop
from vlp.data.regions import Region, Regions, Row
from vlp.data.samples import Sample
from vlp.data.texts.captions import Caption, Captions
from vlp.data.texts.documents import Documents, Excerpt
from vlp.data.texts.text_augment import TextAugment
from vlp.data.texts.wrong_captions import WrongCaptions
from vlp.ground.patch_budget import PatchBudget
from vlp.ground.randomness import CAPTION, CROP, DOCUMENT, MINED, NEGATIVE, POLICY, REGION, REWORD, Draws, fold

if TYPE_CHECKING:  # torchvision takes a second to import, and most runs have no policy
    from vlp.data.pixels.policies import Policy


@dataclass(frozen=True)
class Views:
    """What a sample's image and caption become; every view is a function of (seed, epoch, sample, view).

    Args:
        crops: One for each image view, all of one shape; the first view leads.
        captions: Chooses and words captions.
        rewordings: One for each text view; the first view leads.
        negatives: Makes wrong captions of the first text view; they follow the text views.
        policy: Changes the pixels of every image view.
        spare_first: Leave the first image view to itself.
        documents: Where samples are documents, what is shown of them; their images are then the image views, all cut by
            the one crop.
        mined: Captions of other samples, for `negatives`.
        regions: Which part of an image has a caption of its own.
    """

    crops: tuple[Cropping, ...]
    captions: Captions
    rewordings: tuple[TextAugment, ...] = (TextAugment(),)
    negatives: WrongCaptions | None = None
    policy: Policy | None = None
    spare_first: bool = False
    documents: Documents | None = None
    regions: Regions | None = None
    mined: MinedCaptions | None = None

    @property
    def num_images(self) -> int:
        """Image views of each sample."""
        return len(self.crops) if self.documents is None else self.documents.images

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of every crop."""
        return self.crops[0].shape

    @property
    def budget(self) -> PatchBudget | None:
        """How large crops may be, where they keep their aspect ratio and are packed."""
        return self.crops[0].budget if isinstance(self.crops[0], NativeCrop) else None

    def within(self, most: int) -> Views:
        """Return the same with packed crops of so many patches at most."""
        return replace(self, crops=tuple(crop.within(most) for crop in self.crops if isinstance(crop, NativeCrop)))

    @property
    def num_negatives(self) -> int:
        """Wrong captions of each sample."""
        return self.negatives.count if self.negatives else 0

    @net("corrupt_image")
    def images(
        self, picture: Picture, seed: int, epoch: int, number: int, into: UInt8[NDArray, "v h w 3"]
    ) -> Float32[NDArray[np.float32], "v 5"]:
        """Write the pixels of every image view; return what each shows of the picture, as `Batch.cuts` has it.

        Raises:
            BadSampleError: `corrupt_image`.
        """
        crops = dict(enumerate(self.crops))
        return self._write(picture, crops, seed, epoch, number, into)

    @net("corrupt_image")
    def cuts(self, picture: Picture, seed: int, epoch: int, number: int) -> list[Cut]:
        """Return what every image view will take, by the header alone.

        Raises:
            BadSampleError: `corrupt_image`.
        """
        return [crop.draw(picture, Draws(seed, CROP, epoch, number, view)) for view, crop in enumerate(self.crops)]

    @net("corrupt_image")
    def image_of_document(
        self, picture: Picture, view: int, seed: int, epoch: int, number: int, into: UInt8[NDArray, "v h w 3"]
    ) -> Float32[NDArray[np.float32], " 5"]:
        """Write the pixels of one image of a document; return what they show of it, as `Batch.cuts` has it.

        Raises:
            BadSampleError: `corrupt_image`.
        """
        rows = self._write(picture, {view: self.crops[0]}, seed, epoch, number, into)
        return rows[0]

    def _write(
        self,
        picture: Picture,
        crops: Mapping[int, Cropping],
        seed: int,
        epoch: int,
        number: int,
        into: UInt8[NDArray, "v h w 3"],
    ) -> Float32[NDArray[np.float32], "c 5"]:
        drawn = [(crop, Draws(seed, CROP, epoch, number, view)) for view, crop in crops.items()]
        views, cuts = crop_views(picture, drawn)
        for view, pixels in zip(crops, views, strict=True):
            if self.policy is not None and view >= int(self.spare_first):
                pixels = self.policy(pixels, fold(seed, POLICY, epoch, number, view))
            into[view, : len(pixels)] = pixels
        return rows_of(cuts)

    def excerpt(self, sample: Sample, seed: int, epoch: int, number: int) -> Excerpt:
        """Return what is shown of a document, or of a pair, which is a document of one image.

        Raises:
            BadSampleError: It cannot be read, or has no image or no text.
        """
        assert self.documents is not None, "asked for documents alone"
        if sample.card.documents is not None:
            return self.documents(sample, self.captions, Draws(seed, DOCUMENT, epoch, number))
        caption = self.captions(sample, Draws(seed, CAPTION, epoch, number, 0))
        return Excerpt((sample.image_member(),), ("", caption.text), caption.identity)

    def region(self, sample: Sample, picture: Picture, cut: Row, seed: int, epoch: int, number: int) -> Region | None:
        """Return a region of an image, its box in shares of the first view, where one is wanted and there is one.

        Args:
            cut: What the first view shows of the picture.

        Raises:
            BadSampleError: What the sample says of regions cannot be read.
        """
        if self.regions is None:
            return None
        size = (picture.width, picture.height)
        return self.regions(sample, size, cut, self.captions, Draws(seed, REGION, epoch, number))

    def texts(self, sample: Sample, seed: int, epoch: int, number: int) -> list[Caption]:
        """Return every text view, then the wrong captions.

        Raises:
            BadSampleError: There is no caption, or it is empty, too long, or not text.
        """
        views = range(len(self.rewordings))
        texts = [self.captions(sample, Draws(seed, CAPTION, epoch, number, view)) for view in views]
        given = self.captions.under(self.negatives.key, sample) if self.negatives and self.negatives.key else []
        with net("bad_caption"):
            given += self._mined(texts[0], seed, epoch, number)
            return self._reword(texts, given, seed, epoch, number)

    def _mined(self, right: Caption, seed: int, epoch: int, number: int) -> list[str]:
        """Return as many mined captions as are needed, or all that are there, worded as the first text view is."""
        if self.mined is None or self.negatives is None:
            return []
        draws = Draws(seed, MINED, epoch, number)
        texts = self.mined.of(number)
        draws.shuffle(texts)
        found: dict[str, None] = {}  # each once, in order
        for text in texts:
            caption = self.captions.of_another(text, draws)
            if caption is not None and caption.identity != right.identity:
                reword = self.rewordings[0]
                found[reword(caption.text, draws) if reword.is_on else caption.text] = None
            if len(found) == self.negatives.count:
                break
        return list(found)

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
