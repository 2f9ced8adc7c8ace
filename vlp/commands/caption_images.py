"""`vlp caption`: captions for pictures, on the screen or in a folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def add_caption(parser: argparse.ArgumentParser) -> None:
    """caption: write captions for images, folders or a data set; started again, it goes on where it was stopped."""
    parser.add_argument("model", help="what vlp eval takes, with a decoder of captions (CoCa)")
    parser.add_argument("images", nargs="+", help="image files, folders of them, or one data card")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="keep them there; default: print them")
    parser.add_argument(
        "--how",
        nargs="+",
        default=[],
        metavar="key=value",
        help="num_beams=5 length_penalty=1, temperature=1 top_k=50 top_p=0.9 seed=0, repetition_penalty=1.2, "
        "min_words=4, max_words=30; default: the likeliest word each time",
    )

    def command(parsed: argparse.Namespace) -> None:
        from vlp.embeddings.write_captions import TOGETHER, write_captions
        from vlp.ground import dist

        count = faults = 0
        for line in write_captions(parsed.model, parsed.images, parsed.to, settings_of_words(parsed.how)):
            count, faults = count + 1, faults + ("fault" in line)
            if parsed.to is None and dist.is_main():
                _show(line)
        if parsed.to is not None and dist.is_main():
            told = f", {faults} could not be read" if faults else ""
            print(f"{count - faults} captions in {parsed.to / TOGETHER}{told}")
        sys.exit(int(count == faults))

    parser.set_defaults(command=command)


def _show(line: Mapping[str, str]) -> None:
    if "fault" in line:
        print(f"{line['image']}: {line['fault']}", file=sys.stderr)
    else:
        print(f"{line['image']}\t{line['caption']}", flush=True)


def settings_of_words(words: Sequence[str]) -> dict[str, Any]:
    """Return settings of `Writing` from `key=value` words.

    Raises:
        RecipeError: An unknown key, or a wrong value.
    """
    from pydantic import ValidationError

    from vlp.ground.explain import explain
    from vlp.ground.registry import settings_of
    from vlp.ground.types import RecipeError
    from vlp.recipe.layers import override_layer
    from vlp.towers.writing import Writing

    given = override_layer(words).settings
    try:
        return settings_of(Writing).model_validate(given).model_dump()
    except ValidationError as error:
        raise RecipeError(explain(error, settings_of(Writing), [("--how", given)])) from error
