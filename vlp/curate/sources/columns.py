"""Which columns of a table hold images and captions."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from vlp.ground.registry import nearest
from vlp.ground.types import RecipeError

# In order: the first one that a table has is taken.
IMAGE = (
    "image",
    "filepath",
    "file_path",
    "path",
    "file_name",
    "filename",
    "image_path",
    "image_file",
    "img",
    "jpg",
    "image_name",
    "image_filename",
    "image_filepath",
    "img_path",
    "picture",
    "photo",
)
CAPTION = (
    "caption",
    "captions",
    "text",
    "title",
    "description",
    "alt",
    "comment",
    "raw",
    "sentence",
    "sentences",
    "prompt",
)
LABEL = ("label", "class", "class_name", "category", "target", "cls", "fine_label", "labels")
ADDRESS = ("url", "image_url", "urls", "uri")


@dataclass(frozen=True)
class Columns:
    """Names given by the user; empty ones are guessed.

    Args:
        usual: What a column of captions is called, in order.
    """

    image: str = ""
    caption: str = ""
    usual: tuple[str, ...] = CAPTION

    @classmethod
    def parse(cls, text: str, usual: tuple[str, ...] = CAPTION) -> Columns:
        """Read `image=filepath,caption=title`.

        Raises:
            RecipeError: Neither `image` nor `caption`, or no name.
        """
        found: dict[str, str] = {}
        for part in filter(None, text.split(",")):
            key, _, name = part.partition("=")
            if key not in ("image", "caption") or not name:
                raise RecipeError(
                    f"--columns {text}: write image=NAME,caption=NAME{nearest(key, ('image', 'caption'))}"
                )
            found[key] = name
        return cls(**found, usual=usual)

    def names_classes(self, caption: str) -> bool:
        """Whether a column of captions holds classes, to judge by its name or by what is asked for."""
        return plain(caption) in LABEL or self.usual[0] in LABEL

    def given(self) -> dict[str, str]:
        """Return what the user gave."""
        return {"image": self.image, "caption": self.caption}

    def image_of(self, names: Collection[str], where: str) -> str:
        """Return the column with images.

        Raises:
            RecipeError: There is none; lists the columns.
        """
        return _choose("image", self.image, IMAGE, names, where)

    def caption_of(self, names: Collection[str], where: str) -> str:
        """Return the column with captions.

        Raises:
            RecipeError: There is none; lists the columns.
        """
        return _choose("caption", self.caption, self.usual, names, where)


def _choose(noun: str, given: str, usual: Collection[str], names: Collection[str], where: str) -> str:
    if given:
        if sum(name == given for name in names) > 1:
            raise RecipeError(f"{where}: --columns {noun}={given}: several columns are called so; rename all but one")
        if given not in names:
            raise RecipeError(
                f"{where}: --columns {noun}={given}: no such column ({_list(names)}){nearest(given, names)}"
            )
        return given
    by_lower: dict[str, list[str]] = {}
    for name in names:
        by_lower.setdefault(plain(name), []).append(name)
    found = next((by_lower[name] for name in usual if name in by_lower), [])
    if len(found) > 1:
        raise RecipeError(
            f"{where}: {' and '.join(map(repr, found))} may both be the column for the {noun}: name one with --columns "
            f"{noun}=NAME{', or give each a name of its own' if len(set(found)) < len(found) else ''}"
        )
    if found:
        return found[0]
    if noun == "image" and any(name in by_lower for name in ADDRESS):
        raise RecipeError(
            f"{where}: a column of addresses, but none of image files; nothing is downloaded here: "
            "fetch the images first (img2dataset does it, and writes shards at once)"
        )
    raise RecipeError(f"{where}: no column for the {noun} ({_list(names)}); name it with --columns {noun}=NAME")


def plain(name: str) -> str:
    """Return the name of a column as it is looked up: `Image Path` is `image_path`."""
    return re.sub(r"[\W_]+", "_", name.strip().lower()).strip("_")


def _list(names: Collection[str]) -> str:
    return f"columns: {', '.join(names)}" if names else "it has no columns"
