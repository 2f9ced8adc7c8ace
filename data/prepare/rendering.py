"""SVG to pixels with resvg: what it cannot draw is named, and what hangs or crashes takes nobody along.

Needs ``resvg_py`` (PyPI).
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import io
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image, __version__

from shards import encode

SIZE, QUALITY = 96, 76
EFFORT = 4  # of the WebP encoder: half the time of the best, for 1 % more bytes
BLANK = 8.0  # standard deviation of the pixels
RESCUE = (256, 512)  # widths at which resvg draws some filters that it refuses at smaller ones
THUMB = 16
SECONDS = 60.0  # the slowest drawing of the sets takes less than 5 s; what is cut off depends on the machine
VERSIONS = {"resvg_py": resvg_py.__version__, "pillow": __version__}
_SETTINGS = repr((SIZE, QUALITY, EFFORT, BLANK, THUMB, sorted(VERSIONS.items())))


@dataclass(frozen=True)
class Drawing:
    """A drawing before it is rendered.

    Args:
        source: The set that it belongs to.
        one_colour: Whether its shape alone counts where drawings are compared.
        crop: Cut the margins off and fit the rest into a square; else it is square already.
    """

    key: str
    source: str
    caption: str
    svg: str
    one_colour: bool = False
    crop: bool = False

    @property
    def fingerprint(self) -> bytes:
        """Return a checksum of everything that the pixels depend on."""
        return hashlib.blake2b(
            repr((_SETTINGS, self.svg, self.one_colour, self.crop)).encode(), digest_size=16
        ).digest()


@dataclass(frozen=True)
class Picture:
    """A rendered drawing.

    Args:
        image: WebP; empty where there is a fault.
        pixels: Checksum of what is compared: the shape of a one-colour drawing, else the pixels.
        thumb: The same, as 16 x 16 grey values.
        fault: Why there is no image: animated, blank, refused, timeout or crash.
    """

    image: bytes = b""
    pixels: bytes = b""
    thumb: bytes = b""
    fault: str = ""


def rasterise(svg: str, width: int) -> Image.Image | None:
    """Return the drawing with its transparency; None where resvg refuses it.

    System fonts are left alone: with them, pixels would depend on the machine.
    """
    try:
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=width, skip_system_fonts=True, dpi=90))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a panic of the Rust renderer is no Exception
        return None
    return Image.open(io.BytesIO(png)).convert("RGBA")


def on_white(image: Image.Image) -> Image.Image:
    """Compose on white."""
    canvas = Image.new("RGBA", image.size, "white")
    canvas.alpha_composite(image)
    return canvas.convert("RGB")


def is_blank(image: Image.Image) -> bool:
    """Return whether there is next to nothing to see."""
    return bool(np.asarray(image, dtype=np.float32).std() < BLANK)


def grey(image: Image.Image) -> NDArray[np.uint8]:
    """Shrink to 16 x 16 grey values."""
    return np.asarray(image.convert("L").resize((THUMB, THUMB), Image.Resampling.BOX)).reshape(-1)


def draw(drawing: Drawing) -> Picture:
    """Render a drawing."""
    if "<animate" in drawing.svg or "<set " in drawing.svg:
        return Picture(fault="animated")
    widths = RESCUE if drawing.crop else (SIZE, *RESCUE)
    drawn = next(filter(None, (rasterise(drawing.svg, width) for width in widths)), None)
    if drawn is None:
        return Picture(fault="refused")
    square = _fitted(drawn) if drawing.crop else drawn.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    picture = on_white(square) if square is not None else None
    if square is None or picture is None or is_blank(picture):
        return Picture(fault="blank")
    shape = Image.eval(square.getchannel("A"), lambda value: 255 - value) if drawing.one_colour else picture
    pixels = hashlib.blake2b(shape.tobytes(), digest_size=16).digest()
    return Picture(encode(picture, QUALITY, EFFORT), pixels, grey(shape).tobytes())


def _fitted(image: Image.Image) -> Image.Image | None:
    box = image.getchannel("A").point([0] * 9 + [255] * 247).getbbox()
    if box is None:
        return None
    cut = image.crop(box)
    scale = (SIZE - 6) / max(cut.size)
    size = max(1, round(cut.width * scale)), max(1, round(cut.height * scale))
    canvas = Image.new("RGBA", (SIZE, SIZE))
    canvas.paste(cut.resize(size, Image.Resampling.LANCZOS), ((SIZE - size[0]) // 2, (SIZE - size[1]) // 2))
    return canvas


def draw_all(drawings: Sequence[Drawing]) -> list[Picture]:
    """Render drawings one after the other."""
    pictures: list[Picture] = []
    while len(pictures) < len(drawings):
        pictures += _draw_apart(drawings[len(pictures) :])
    return pictures


def _draw_apart(drawings: Sequence[Drawing]) -> list[Picture]:
    """Render in a process of its own, up to the first drawing that hangs or crashes it."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(drawings, there, here), daemon=True)
    process.start()
    there.close()
    pictures: list[Picture] = []
    try:
        while len(pictures) < len(drawings) and here.poll(SECONDS):
            pictures.append(here.recv())
        if len(pictures) < len(drawings):
            pictures.append(Picture(fault="timeout"))
    except EOFError:
        pictures.append(Picture(fault="crash"))
    finally:
        process.kill()
        process.join()
        here.close()
    return pictures


def _serve(drawings: Sequence[Drawing], pipe: Connection, parents: Connection) -> None:
    parents.close()  # else nobody would notice the end of the parent
    faulthandler.disable()  # a crash here is an answer
    with contextlib.suppress(BrokenPipeError):  # the parent was interrupted
        for drawing in drawings:
            pipe.send(draw(drawing))
