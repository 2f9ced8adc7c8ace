"""Changes of position and colour on the device, for a whole batch at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor, nn

from vlp.ground.types import RecipeError

# Luma and two chroma axes of NTSC: hue is a rotation, saturation a scale of the last two. The usual three digits,
# moved by one where needed, so that the chroma of gray is exactly zero.
YIQ = ((0.299, 0.587, 0.114), (0.596, -0.275, -0.321), (0.212, -0.523, 0.311))

# What each column of `draws` decides; append only, so that a seed keeps its meaning.
SLOTS = (
    *("affine", "rotation", "scale", "shear", "shift_x", "shift_y"),
    *("color", "brightness", "contrast", "saturation", "hue", "gray", "invert"),
    *("blur", "sigma"),
    *("erase", "erase_width", "erase_height", "erase_x", "erase_y", "erase_red", "erase_green", "erase_blue"),
    *("tint", "tint_red", "tint_green", "tint_blue"),
)
NUM_DRAWS = len(SLOTS)

Column = Float32[Tensor, " n"]
Pixels = Float32[Tensor, "n 3 h w"]


class Augment(nn.Module):
    """Normalise uint8 pixels, after random changes that depend on nothing but `draws`.

    Every change is off by default. `affine`, `color`, `gray`, `invert`, `tint`, `blur` and `erase` are probabilities;
    the other settings say how strong the change may be.

    Args:
        mean: Channel means of the model's preprocessing.
        std: Channel deviations of the model's preprocessing.
        spare_first: Only normalise the first view.
        affine: Probability of moving, turning, scaling and shearing.
        rotation: Largest angle in degrees, both ways.
        scale: Smallest and largest zoom; drawn evenly on a logarithmic axis.
        translate: Largest shift as a share of the side, both ways.
        shear: Largest shear in degrees, both ways.
        border: What comes in from outside: white, or the image's own edge.
        color: Probability of changing brightness, contrast, saturation and hue.
        brightness: Largest relative change, both ways.
        contrast: Largest relative change around the mean of the image, both ways.
        saturation: Largest relative change, both ways.
        hue: Largest turn of the colour circle, both ways; 0.5 is half a turn.
        gray: Probability of dropping all colour.
        invert: Probability of a negative.
        tint: Probability of looking through a coloured glass, which also colours white backgrounds.
        tint_strength: Largest share of each channel that the glass may take away.
        blur: Probability of Gaussian blur.
        blur_sigma: Smallest and largest width of the blur in pixels.
        erase: Probability of covering a rectangle with one random colour.
        erase_size: Smallest and largest side of the rectangle as a share of the image's side.
    """

    NUM_DRAWS = NUM_DRAWS
    mean: Tensor
    std: Tensor
    to_yiq: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        spare_first: bool = False,
        *,
        affine: float = 0.0,
        rotation: float = 0.0,
        scale: tuple[float, float] = (1.0, 1.0),
        translate: float = 0.0,
        shear: float = 0.0,
        border: Literal["white", "replicate"] = "white",
        color: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        gray: float = 0.0,
        invert: float = 0.0,
        tint: float = 0.0,
        tint_strength: float = 0.5,
        blur: float = 0.0,
        blur_sigma: tuple[float, float] = (0.1, 1.0),
        erase: float = 0.0,
        erase_size: tuple[float, float] = (0.1, 0.4),
    ):
        for name, value in (("affine", affine), ("color", color), ("gray", gray), ("invert", invert)):
            _check_probability(name, value)
        for name, value in (("tint", tint), ("tint_strength", tint_strength), ("blur", blur), ("erase", erase)):
            _check_probability(name, value)
        for name, low_high in (("scale", scale), ("blur_sigma", blur_sigma), ("erase_size", erase_size)):
            if not 0 < low_high[0] <= low_high[1]:
                raise RecipeError(f"data.augment.{name}: {list(low_high)} is not a range of positive numbers")
        _check_effect("affine", affine, rotation or translate or shear or scale != (1.0, 1.0))
        _check_effect("color", color, brightness or contrast or saturation or hue)
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        self.register_buffer("to_yiq", torch.tensor(YIQ), persistent=False)
        self.spare_first = spare_first
        self.affine, self.rotation, self.shear = affine, math.radians(rotation), math.radians(shear)
        self.scale, self.translate, self.border = scale, translate, border
        self.color, self.brightness, self.contrast = color, brightness, contrast
        self.saturation, self.hue, self.gray, self.invert = saturation, hue, gray, invert
        self.tint, self.tint_strength = tint, tint_strength
        self.blur, self.blur_sigma = blur, blur_sigma
        self.erase, self.erase_size = erase, erase_size

    @property
    def is_on(self) -> bool:
        """Whether anything may change."""
        return any((self.affine, self.color, self.gray, self.invert, self.tint, self.blur, self.erase))

    def forward(
        self, images: UInt8[Tensor, "v n h w 3"], draws: Float32[Tensor, "v n k"]
    ) -> Float32[Tensor, "v n 3 h w"]:
        """Return normalised pixels on the device of `images`."""
        views, num, height, width, _ = images.shape
        if self.spare_first:  # no probability is above 1
            draws = torch.cat([torch.ones_like(draws[:1]), draws[1:]])
        columns = dict(zip(SLOTS, draws.flatten(0, 1)[:, :NUM_DRAWS].unbind(1), strict=True))
        pixels = images.flatten(0, 1).permute(0, 3, 1, 2).contiguous().float() / 255
        if self.affine:
            pixels = self._move(pixels, columns)
        if self.color or self.gray or self.invert:
            pixels = self._recolor(pixels, columns)
        if self.tint:
            pixels = self._filter_light(pixels, columns)
        if self.blur:
            pixels = self._soften(pixels, columns)
        if self.erase:
            pixels = self._cover(pixels, columns)
        return ((pixels - self.mean) / self.std).view(views, num, 3, height, width)

    def _move(self, pixels: Pixels, columns: dict[str, Column]) -> Pixels:
        on = columns["affine"] < self.affine
        angle = _where(on, _both_ways(columns["rotation"], self.rotation), 0.0)
        shear = _where(on, _both_ways(columns["shear"], self.shear), 0.0).tan()
        low, high = (math.log(value) for value in self.scale)
        # The grid says where each result pixel comes from, so a zoom of 2 is a grid of half the size.
        zoom = _where(on, low + (high - low) * columns["scale"], 0.0).neg().exp()
        shift_x, shift_y = (
            _where(on, _both_ways(columns[name], 2 * self.translate), 0.0) for name in ("shift_x", "shift_y")
        )
        cos, sin = zoom * angle.cos(), zoom * angle.sin()
        rows = (cos, cos * shear - sin, shift_x, sin, sin * shear + cos, shift_y)
        grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(pixels.shape), align_corners=False)
        if self.border == "replicate":
            return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
        return 1 - F.grid_sample(1 - pixels, grid, padding_mode="zeros", align_corners=False)

    def _recolor(self, pixels: Pixels, columns: dict[str, Column]) -> Pixels:
        on = columns["color"] < self.color
        brightness, contrast, saturation = (
            _where(on, 1 + _both_ways(columns[name], strength), 1.0)
            for name, strength in (
                ("brightness", self.brightness),
                ("contrast", self.contrast),
                ("saturation", self.saturation),
            )
        )
        saturation = _where(columns["gray"] < self.gray, 0.0, saturation)
        angle = _where(on, _both_ways(columns["hue"], 2 * math.pi * self.hue), 0.0)
        matrix = torch.linalg.inv(self.to_yiq) @ _turn_chroma(angle, saturation) @ self.to_yiq
        middle = pixels.mean((1, 2, 3)) * (1 - contrast) * brightness
        matrix = matrix * (contrast * brightness)[:, None, None]
        changed = torch.baddbmm(middle[:, None, None].expand(-1, 3, 1), matrix, pixels.flatten(2)).view_as(pixels)
        negative = columns["invert"] < self.invert
        # Untouched images stay bit-identical: the way through YIQ and back rounds.
        touched = on | (columns["gray"] < self.gray)
        result = _where(touched, changed.clamp(0, 1), pixels)
        return _where(negative, 1 - result, result)

    def _filter_light(self, pixels: Pixels, columns: dict[str, Column]) -> Pixels:
        taken = torch.stack([columns[f"tint_{name}"] for name in ("red", "green", "blue")], 1) * self.tint_strength
        return pixels * (1 - _where(columns["tint"] < self.tint, taken, 0.0))[:, :, None, None]

    def _soften(self, pixels: Pixels, columns: dict[str, Column]) -> Pixels:
        low, high = self.blur_sigma
        sigma = low + (high - low) * columns["sigma"]
        reach = math.ceil(3 * high)
        offsets = torch.arange(-reach, reach + 1, device=pixels.device)
        taps = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
        taps = (taps / taps.sum(1, keepdim=True))[:, :, None, None, None]
        height, width = pixels.shape[2:]
        padded = F.pad(pixels, (reach,) * 4, mode="replicate")
        across, down = torch.zeros_like(padded[..., :width]), torch.zeros_like(pixels)
        for k in range(2 * reach + 1):
            across += taps[:, k] * padded[:, :, :, k : k + width]
        for k in range(2 * reach + 1):
            down += taps[:, k] * across[:, :, k : k + height]
        return _where(columns["blur"] < self.blur, down, pixels)

    def _cover(self, pixels: Pixels, columns: dict[str, Column]) -> Pixels:
        near_x = self._near(columns["erase_x"], columns["erase_width"], pixels.shape[3])
        near_y = self._near(columns["erase_y"], columns["erase_height"], pixels.shape[2])
        inside = near_y[:, :, None] & near_x[:, None, :] & (columns["erase"] < self.erase)[:, None, None]
        color = torch.stack([columns[f"erase_{name}"] for name in ("red", "green", "blue")], 1)
        return torch.where(inside[:, None], color[:, :, None, None], pixels)

    def _near(self, center: Column, side: Column, length: int) -> Bool[Tensor, "n length"]:
        """Say which pixels of a row lie inside an interval; all numbers are shares of the row."""
        low, high = self.erase_size
        places = (torch.arange(length, device=center.device) + 0.5) / length
        return (places - center[:, None]).abs() < (low + (high - low) * side[:, None]) / 2


def _turn_chroma(angle: Column, saturation: Column) -> Float32[Tensor, "n 3 3"]:
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    cos, sin = saturation * angle.cos(), saturation * angle.sin()
    return torch.stack((one, zero, zero, zero, cos, -sin, zero, sin, cos), 1).view(-1, 3, 3)


def _both_ways(draw: Column, strength: float) -> Column:
    """Map [0, 1) to [-strength, strength)."""
    return (2 * draw - 1) * strength


def _where(condition: Bool[Tensor, " n"], then: Tensor | float, otherwise: Tensor | float) -> Tensor:
    """Choose per sample, whatever shape follows."""
    dims = max(value.ndim if isinstance(value, Tensor) else 1 for value in (then, otherwise))
    return torch.where(condition.view(-1, *[1] * (dims - 1)), then, otherwise)


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise RecipeError(f"data.augment.{name}: {value} is no probability")


def _check_effect(name: str, probability: float, strength: float | bool) -> None:
    if bool(probability) != bool(strength):
        raise RecipeError(
            f"data.augment.{name}={probability:g} has no effect: "
            f"set both a probability ({name}) and a strength, or neither"
        )
