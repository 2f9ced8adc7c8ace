"""JPEGs that are decoded and cut where the model computes, by nvJPEG on CUDA."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray
from torch import Tensor

from vlp.data.faults import BadSampleError
from vlp.data.pixels.crop import Crop, Cut, prefers_columns
from vlp.data.pixels.decode import JpegPicture, Picture, frame_of, open_picture
from vlp.ground.errors import first_line
from vlp.ground.types import RecipeError

# What nvJPEG is known for; all else is left to the decoder of the host.
FRAMES = (b"\xff\xc0", b"\xff\xc2")  # baseline and progressive
COLOURS = ("YCbCr", "Gray")
SUBSAMPLINGS = ("444", "422", "420", "440", "411", "Gray")
END = b"\xff\xd9"
MOST_BYTES_SENT = 1 << 23  # of one file, half of what a note has room for
# A codec on the host reduces larger ones while it decodes, which is less work than to decode them whole.
MOST_PIXELS_SENT = 1 << 24
# Of the filter: the kernels of CUDA keep its weights in 48 KB of shared memory.
MOST_REDUCTION = 32
# Decoded at one time: at most 1.6 GB of pixels lie on the device.
GROUP = 32


@dataclass(frozen=True)
class DeviceDecoder:
    """Decodes JPEGs on a device and cuts views out of them, with the boxes and flips that the host would take.

    Every picture is decoded at its full size, where the host reduces large ones while it decodes
    (`data.crop.decoding: fast`); its box is then resized as there, with the weights of the filter in float32.

    Args:
        device: Where, and where the pixels stay.
        crops: One for each view.
    """

    device: torch.device
    crops: tuple[Crop, ...]

    def takes(self, picture: Picture, cuts: Sequence[Cut]) -> bool:
        """Whether an image may be left to the device: a whole JPEG of a common kind, and no larger than that pays."""
        return (
            isinstance(picture, JpegPicture)
            and picture.colours in COLOURS
            and picture.subsampling in SUBSAMPLINGS
            and len(picture.data) <= MOST_BYTES_SENT
            and picture.width * picture.height <= MOST_PIXELS_SENT
            and picture.data.endswith(END)  # of one that ends too early the host knows best what is wrong
            and frame_of(picture.data) in FRAMES
            and all(_reduction(cut, crop) <= MOST_REDUCTION for cut, crop in zip(cuts, self.crops, strict=True))
        )

    def __call__(
        self,
        encoded: Mapping[int, bytearray],
        cuts: Float32[NDArray[np.float32], "views n 5"],
        into: UInt8[Tensor, "views n h w 3"],
    ) -> dict[int, BadSampleError]:
        """Write the views of some rows; return what is wrong with those that nobody can decode.

        Args:
            encoded: Files by row.
            cuts: What each view takes, as `Batch.cuts` has it.
            into: Pixels of all rows, on the device.
        """
        bad, rows = {}, list(encoded)
        for first in range(0, len(rows), GROUP):
            group = rows[first : first + GROUP]
            for row, pixels in zip(group, self._decode([encoded[row] for row in group]), strict=True):
                if isinstance(pixels, BadSampleError):
                    bad[row] = pixels
                    continue
                for view, crop in enumerate(self.crops):
                    into[view, row] = cut_out(pixels, cuts[view, row], crop)
        return bad

    def _decode(self, files: Sequence[bytearray]) -> Sequence[UInt8[Tensor, "3 h w"] | BadSampleError]:
        try:
            return decode_jpegs(files, self.device)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # does not say which one it was
            return [self._decode_alone(data) for data in files]

    def _decode_alone(self, data: bytearray) -> UInt8[Tensor, "3 h w"] | BadSampleError:
        """Decode one file on the device, or else on the host, which has the last word on what is damaged."""
        try:
            return decode_jpegs([data], self.device)[0]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            try:
                pixels = open_picture(bytes(data)).pixels()
            except BadSampleError as error:
                return error
            return torch.from_numpy(pixels).to(self.device).permute(2, 0, 1)


def decode_jpegs(files: Sequence[bytearray], device: torch.device) -> list[UInt8[Tensor, "3 h w"]]:
    """Decode to RGB.

    Raises:
        RuntimeError: One of them cannot be decoded, or none can be on this device.
    """
    from torchvision.io import ImageReadMode, decode_jpeg  # takes a second, and few runs need it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its heir, torchcodec, has no such function for lists yet
        found: list[Tensor] = decode_jpeg(
            [torch.frombuffer(data, dtype=torch.uint8) for data in files], mode=ImageReadMode.RGB, device=device
        )
    return found


def cut_out(
    pixels: UInt8[Tensor, "3 h w"], row: Float32[NDArray[np.float32], " 5"], crop: Crop
) -> UInt8[Tensor, "height width 3"]:
    """Cut a box out of a picture of full size, resize it with antialiasing and flip it if the row says so."""
    left, top, right, bottom, flip = (int(value) for value in row)
    image = pixels[None, :, top:bottom, left:right].float()  # CUDA has no such filter for bytes
    # In two passes with bytes between them, as on the host: in one, results beyond black and white move others by 3.
    columns_first = prefers_columns(bottom - top, right - left, crop.height, crop.width)
    between = (crop.height, right - left) if columns_first else (bottom - top, crop.width)
    for size in (between, (crop.height, crop.width)):
        image = F.interpolate(image, size, mode=crop.interpolation, antialias=True).round_().clamp_(0, 255)
    image = image.to(torch.uint8)[0].permute(1, 2, 0)
    return image.flip(1) if flip else image


def check_decodes(device: torch.device) -> None:
    """Refuse a device, or a torchvision, that cannot decode.

    Raises:
        RecipeError: Says why not.
    """
    try:
        decode_jpegs([bytearray(simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8)))], device)
    except (AttributeError, ImportError, RuntimeError) as error:
        raise RecipeError(
            f"data.decode=device: torchvision cannot decode JPEGs on {device} ({first_line(error)}): install "
            "one that was built with nvJPEG for this CUDA, or set data.decode=host"
        ) from error


def _reduction(cut: Cut, crop: Crop) -> float:
    left, top, right, bottom = cut.box
    return max((right - left) / crop.width, (bottom - top) / crop.height)
