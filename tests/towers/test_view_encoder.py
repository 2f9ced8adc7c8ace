"""Other models see what a training shows its own: the same pixels in their size and colours, the same captions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from tests.towers.test_borrowed import chinese_clip, write
from tests.towers.tiny import tiny_export, tiny_model
from vlp.ground.types import RecipeError
from vlp.towers.borrowed import BorrowedModel
from vlp.towers.load import load_any_model
from vlp.towers.plain_pixels import plain
from vlp.towers.view_encoder import ViewEncoder, pictures, prepare

CAPTIONS = ("a cat", "a dog that sleeps")
THEIRS = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25), "size": 32, "interpolation": "bicubic"}


def drawn(side: int = 32) -> np.ndarray:
    """Return pixels without much detail, which survive a resize."""
    coarse = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(each).resize((side, side), Image.Resampling.BICUBIC)) for each in coarse]
    )


def normalised(pixels: np.ndarray, prepared) -> torch.Tensor:
    rows = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(prepared[name])[:, None, None] for name in ("mean", "std"))
    return (rows - mean) / std


def test_what_fits_already_is_left_alone():
    images = normalised(drawn(), THEIRS)
    assert prepare(images, THEIRS, dict(THEIRS)) is images


def test_colours_are_those_of_the_model_that_looks():
    ours = THEIRS | {"mean": (0.1, 0.2, 0.3), "std": (1.0, 0.5, 0.25)}
    torch.testing.assert_close(prepare(normalised(drawn(), THEIRS), THEIRS, ours), normalised(drawn(), ours))


@pytest.mark.parametrize("size", [48, 16, (16, 40)])
def test_a_view_is_resized_whole(size):
    """As Pillow resizes the picture, whose pixels are whole numbers."""
    height, width = (size, size) if isinstance(size, int) else size
    ours = THEIRS | {"size": size}
    found = plain(prepare(normalised(drawn(), THEIRS), THEIRS, ours), ours)
    assert found.shape == (2, 3, height, width)
    assert found.min() >= 0 and found.max() <= 1
    resized = [Image.fromarray(each).resize((width, height), Image.Resampling.BICUBIC) for each in drawn()]
    expected = torch.from_numpy(np.stack([np.asarray(each) for each in resized])).permute(0, 3, 1, 2)
    assert (255 * found - expected).abs().max() < 2


def test_pictures_are_the_pixels_that_were_normalised():
    back = pictures(normalised(drawn(), THEIRS), THEIRS)
    assert np.array_equal(np.stack([np.asarray(each) for each in back]), drawn())


def test_a_model_says_of_its_own_views_what_it_says(tmp_path):
    model, encoder = tiny_model().eval(), ViewEncoder(str(tiny_export(tmp_path / "export")))
    images = normalised(drawn(), model.preprocess_cfg)
    tokens, lengths = model.tokenizer(CAPTIONS)
    with torch.no_grad():
        assert torch.equal(encoder.embed_images(images, model.preprocess_cfg), model.embed_images(images))
        assert torch.equal(encoder.embed_captions(CAPTIONS), model.embed_tokens(tokens, lengths.numpy()))


def test_first_coordinates_are_those_of_the_whole(tmp_path):
    folder = str(tiny_export(tmp_path / "export"))
    whole, part = ViewEncoder(folder), ViewEncoder(f"{folder}@5")
    found = whole.embed_captions(CAPTIONS)
    assert part.embed_dim == 5
    torch.testing.assert_close(part.embed_captions(CAPTIONS), functional.normalize(found[:, :5], dim=1))
    with pytest.raises(RecipeError, match="have 16 coordinates"):
        ViewEncoder(f"{folder}@17")


def test_a_model_of_transformers_gets_pictures_and_texts(tmp_path):
    write(tmp_path / "model", chinese_clip)
    encoder = ViewEncoder(str(tmp_path / "model"))
    theirs = load_any_model(str(tmp_path / "model"))
    assert isinstance(theirs, BorrowedModel)
    inner = theirs.encoder("cpu")
    seen = encoder.embed_images(normalised(drawn(), THEIRS), THEIRS)
    assert torch.equal(seen, inner.embed_images([Image.fromarray(each) for each in drawn()]))
    read = encoder.embed_captions(CAPTIONS)
    assert torch.equal(read, inner.embed_texts(CAPTIONS))
    assert not seen.is_inference() and not read.is_inference()  # or autograd would refuse what is computed with them
