"""Real data repeated beside generated data, and augmentation weakened with it: one number for both."""

from __future__ import annotations

import math

from vlp.ground.types import RecipeError
from vlp.recipe.schema import DataSection

# of `inflation`, so that 10 halves what colours do and lifts a crop's least area from 0.08 to 0.2
HALF_AT_TEN = math.log10(2)
CROP_BY_COLOR = 0.65
WEAKENED = ("color", "brightness", "contrast", "saturation", "hue")


def inflated(data: DataSection) -> DataSection:
    """Return the section as `data.inflation` has it carried out: AdaInf, Wang et al. 2024 (arXiv:2403.12448).

    Raises:
        RecipeError: Nothing is said to be generated, everything is, or sources have shares.
    """
    if data.inflation == 1:
        return data
    _check(data)
    left = data.inflation**-HALF_AT_TEN  # of the strength of changes
    train = {
        label: source if source.generated else source.model_copy(update={"repeat": source.repeat * data.inflation})
        for label, source in data.train.items()
    }
    augment = data.augment.model_copy(update={name: left * getattr(data.augment, name) for name in WEAKENED})
    views = {label: _milder(view, left) for label, view in data.views.items()}
    changed = {"train": train, "augment": augment, "crop": _milder(data.crop, left), "views": views, "inflation": 1}
    return data.model_copy(update=changed)


def _milder(crop: DataSection, left: float) -> DataSection:
    """Return a crop whose least area is larger, and never above its largest."""
    least, most = crop.scale  # type: ignore[attr-defined]
    return crop.model_copy(update={"scale": (min(least ** (left**CROP_BY_COLOR), most), most)})


def _check(data: DataSection) -> None:
    generated = [label for label, source in data.train.items() if source.generated]
    if not generated or len(generated) == len(data.train):
        some = "no source" if not generated else "every source"
        raise RecipeError(
            f"data.inflation: repeats real data beside generated data, and {some} is generated: set "
            "data.train.LABEL.generated of those that are, or data.inflation=1"
        )
    for label, source in data.train.items():
        if source.share is not None:
            raise RecipeError(
                f"data.train.{label}.share: decides how often a source comes, and so does data.inflation: leave one out"
            )
