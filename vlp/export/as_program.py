"""What stands in front of an image tower, as a program that torch alone runs, beside the model in other formats."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from vlp.ground.types import RecipeError
from vlp.towers.dual import DualEncoder
from vlp.towers.pixel_autoencoder import PROGRAM_FILE, PixelAutoencoder, as_program, stepped_aside
from vlp.towers.trial_inputs import one_image

TOLERANCE = 1e-4
INSIDE = "`image.onnx` has the auto-encoder inside that was trained in front of the model."
BESIDE = f"""The model is what it was; what was trained stands in front of it, and takes and returns normalised pixels.
Results of the run are of both together:

```python
import torch

purify = torch.export.load("PATH/{PROGRAM_FILE}").module()
image = model.encode_image(purify(preprocess(picture)[None]), normalize=True)
```"""


def told_of_purifier(formats: Collection[str]) -> str:
    """Return what a model card says of it, as Markdown."""
    others = [form for form in formats if form != "onnx"]
    return "\n\n".join([BESIDE] * bool(others) + [INSIDE] * ("onnx" in formats))


def write_program(model: DualEncoder, autoencoder: PixelAutoencoder, folder: Path) -> None:
    """Write `purifier.pt2`."""
    torch.export.save(as_program(autoencoder, _probes(model, 2)), folder / PROGRAM_FILE)


@torch.no_grad()
def compare_program(model: DualEncoder, folder: Path) -> dict[str, float]:
    """Return the largest difference between embeddings behind the program and those of the trained model.

    Raises:
        RecipeError: They differ by more than the tolerance.
    """
    pixels = _probes(model, 3)
    expected = model.embed_images(pixels)
    purified: Tensor = torch.export.load(folder / PROGRAM_FILE).module()(pixels.cpu()).to(pixels.device)
    with stepped_aside(model.core.visual):
        apart = (model.embed_images(purified) - expected).abs().max().item()
    if not apart <= TOLERANCE:  # a comparison with NaN is false
        raise RecipeError(f"{PROGRAM_FILE}: embeddings of images differ by {apart:.1e}; nothing was exported")
    return {"max_abs": apart}


def _probes(model: DualEncoder, count: int) -> Tensor:
    numbers = one_image(model.core.visual).repeat(count, 1, 1, 1)
    drawn = torch.randn(numbers.shape, generator=torch.Generator().manual_seed(0))
    return drawn.to(model.core.logit_scale.device)
