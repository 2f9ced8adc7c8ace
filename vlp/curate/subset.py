"""A card that names some of the samples of another: the same shards, and a list of what is kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from ruamel.yaml import YAML

from vlp.data import Card
from vlp.data.shards.kept import read_note, write_kept
from vlp.data.shards.shard import Shard
from vlp.data.shards.summary import summary_beside, write_summary
from vlp.ground.files import write_whole
from vlp.ground.types import RecipeError
from vlp.ground.yaml import read_yaml, write_yaml


def check_target(card: Card, to: Path, note: str | None = None) -> Path:
    """Return where a card may be written.

    Args:
        note: What an earlier result there must have been made by; any, when absent.

    Raises:
        RecipeError: No YAML file, or one that is not such an earlier result.
    """
    target = to.expanduser().resolve()
    if target.suffix != ".yaml":
        raise RecipeError(f"{to}: a card is a YAML file; name it {target.stem}.yaml")
    if target == card.file.resolve():
        raise RecipeError(f"{to}: the card itself; name another file")
    if target.exists() and read_yaml(target).get("keep") != _list_of(target).name:
        raise RecipeError(f"{to}: exists, and is no earlier result; name another file, or remove it")
    before = read_note(_list_of(target)) if target.exists() else ""
    if note is not None and before and before != note:
        raise RecipeError(f"{to}: exists, made by '{before}', not '{note}'; name another folder, or remove it")
    return target


def write_subset(card: Card, target: Path, flags: NDArray[np.bool_], shards: Sequence[Shard], note: str) -> None:
    """Write a card, its list of kept samples, and what is known of its shards, so that no start need open them.

    Other keys and comments are those of the card as it was opened.
    """
    yaml = YAML()
    yaml.width = 120
    settings = yaml.load(card.text or write_yaml(card.model_dump(mode="json", exclude_defaults=True)))
    patterns = [settings["shards"]] if isinstance(settings["shards"], str) else settings["shards"]
    settings["name"] = target.stem
    settings["shards"] = [_moved(pattern, card.folder, target.parent) for pattern in patterns]
    if "sha256" in settings:
        settings["sha256"] = {
            # Checksums of remote shards are named by the end of their address.
            _moved(name, card.folder, target.parent) if (card.folder / name).exists() else name: value
            for name, value in settings["sha256"].items()
        }
    settings["keep"] = _list_of(target).name
    write_kept(_list_of(target), len(flags), np.flatnonzero(flags), note)
    with write_whole(target) as file:
        yaml.dump(settings, file)
    written = Card.from_mapping(settings, target)
    write_summary(summary_beside(written), written, {shard.location: shard.known for shard in shards})


def _list_of(card: Path) -> Path:
    return card.with_suffix(".keep.npz")


def _moved(pattern: str, source: Path, target: Path) -> str:
    """Return a pattern relative to another folder; addresses and absolute patterns stay."""
    if "::" in pattern and not pattern.startswith("pipe:"):
        return "::".join(_moved(part, source, target) for part in pattern.split("::"))
    if "://" in pattern or pattern.startswith(("/", "~", "$", "pipe:")):
        return pattern
    return os.path.relpath(source / pattern, target)
