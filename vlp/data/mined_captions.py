"""Which captions of others each image of a card is nearest to: a folder that wrong captions are drawn from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.data.samples import SampleSet, only_source
from vlp.ground import files
from vlp.ground.types import RecipeError

ABOUT = "mined.json"  # written last: the folder is whole where it is there
NUMBERS, CAPTIONS, STARTS = "numbers.npy", "captions.jsonl", "starts.npy"
NONE = -1  # in the place of a caption, where there were too few
KEY = "data.captions.negatives.mined"


class MinedCaptions:
    """The captions that were mined for each sample of one card, nearest first; read from the disk as they are asked.

    Args:
        folder: What `vlp mine` wrote.

    Attributes:
        about: What it says of itself: the `fingerprint` of the card, how many `samples` it has, and the rest.

    Raises:
        RecipeError: It holds none, not all of them yet, or something else.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            self.about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            self._open()
            shape = (self.about["samples"], self.about["count"])
            size, last = (folder / CAPTIONS).stat().st_size, int(self._starts[-1])
            if self._numbers.shape != shape or (size, len(self._starts)) != (last, self.about["captions"] + 1):
                raise ValueError(f"not the captions that {ABOUT} tells of")
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise RecipeError(
                f"{folder}: holds no mined captions ({type(error).__name__}: {error}); vlp mine EMBEDDINGS CARD --to "
                f"{folder}"
            ) from error

    def _open(self) -> None:
        self._numbers = np.load(self.folder / NUMBERS, mmap_mode="r")
        self._starts = np.load(self.folder / STARTS, mmap_mode="r")
        self._captions = np.memmap(self.folder / CAPTIONS, dtype=np.uint8, mode="r")

    @property
    def count(self) -> int:
        """Captions of each sample; some have fewer."""
        return int(self.about["count"])

    def of(self, number: int) -> list[str]:
        """Return what was mined for a sample, nearest first."""
        found = self._numbers[number]
        return [self._caption(each) for each in found[found != NONE].tolist()]

    def _caption(self, number: int) -> str:
        text: str = json.loads(self._captions[self._starts[number] : self._starts[number + 1]].tobytes())
        return text

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "about": self.about}  # maps would be copied whole to where no process is forked

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()


def read_mined(folder: Path, samples: SampleSet, count: int, key: str = KEY) -> MinedCaptions:
    """Return what was mined for the samples of a run.

    Args:
        samples: All samples of the run.
        count: Wrong captions that a sample needs.
        key: Of the recipe, for what is wrong.

    Raises:
        RecipeError: There are several sources, nothing was mined, for other data, or too few; names the key.
    """
    card = check_one_card(samples, key)
    try:
        mined = MinedCaptions(folder)
    except RecipeError as error:
        raise RecipeError(f"{key}: {error}") from error
    if (mined.about.get("fingerprint"), mined.about["samples"]) != (card, len(samples)):
        raise RecipeError(f"{key}: {folder} was mined for other samples than those of data.train: mine anew")
    if mined.count < count:
        raise RecipeError(
            f"{key}: {folder} has {mined.count} captions for each image, and data.captions.negatives.count is {count}: "
            f"mine more (vlp mine --count {count}), or lower it"
        )
    return mined


def check_one_card(samples: SampleSet, key: str) -> str:
    """Return the fingerprint of the one card that samples are of.

    Raises:
        RecipeError: They are of several, or come over again.
    """
    return only_source(samples.cards, samples.has_repeats, f"{key}: captions are mined in one card").fingerprint


def write_mined(
    folder: Path, numbers: NDArray[np.integer], captions: Iterable[str], about: dict[str, Any]
) -> dict[str, Any]:
    """Write what was mined, and return what the folder says of itself.

    Args:
        numbers: Of captions, for each sample of the card as many columns; `NONE` where there are no more.
        captions: Each once, by its number.
        about: The `fingerprint` of the card, and whatever else should be known.
    """
    starts = [0]
    with files.write_whole(folder / CAPTIONS) as file:
        for caption in captions:
            starts.append(starts[-1] + file.write(json.dumps(caption).encode() + b"\n"))
    for name, rows in ((STARTS, np.array(starts, dtype=np.int64)), (NUMBERS, numbers)):
        with files.write_whole(folder / name) as file:
            np.save(file, rows)
    told = about | {"samples": len(numbers), "count": numbers.shape[1], "captions": len(starts) - 1}
    told["sha256"] = {name: files.sha256_of(folder / name) for name in (NUMBERS, CAPTIONS)}
    files.write_text(folder / ABOUT, json.dumps(told, indent=2) + "\n")
    return told


class Mining:
    """Mine the wrong captions during the training, with the model as it has become, again and again.

    The whole card is embedded and, for each image, the captions of other samples are found whose cosine with it is
    highest, before the first step and then every so many; steps in between draw from what was found last (as ANCE,
    Xiong et al. 2020, arXiv:2007.00808, and AR2, Zhang et al. 2021, arXiv:2110.03611). Exact, and the same for any
    number of processes. Start from weights that know something: a model that was not trained finds anything alike.

    Args:
        every: Steps from one time to the next.
        count: Captions that are kept for each image; each epoch draws `negatives.count` of them.
        skip: So many nearest captions are left out before: the nearest may well be right ones.
        below: Only captions are taken whose cosine stays below this share of that of the image's own caption (0.95 in
            NV-Retriever, Moreira et al. 2024, arXiv:2407.15831); null takes all.
    """

    def __init__(self, *, every: int, count: int = 5, skip: int = 0, below: float | None = None):
        name = "data.captions.negatives.mining."
        if every < 1:
            raise RecipeError(f"{name}every: {every} must be at least 1: steps from one time to the next")
        check_limits(count, skip, below, name)
        self.every, self.count, self.skip, self.below = every, count, skip, below


def check_limits(count: int, skip: int, below: float | None, name: str) -> None:
    """Refuse what nothing can be mined by.

    Args:
        name: What stands before the name of a setting where it is set.

    Raises:
        RecipeError: Names the setting.
    """
    if count < 1:
        raise RecipeError(f"{name}count: {count} must be at least 1")
    if skip < 0:
        raise RecipeError(f"{name}skip: {skip} must not be negative")
    if below is not None and not 0 < below <= 1:
        raise RecipeError(f"{name}below: {below} must be a share of the cosine of the own caption, in (0, 1]")
